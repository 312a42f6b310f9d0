// Runs in a rig: boots Debian's kernel in a machine of ours, uses its disk, network and console, saves and restores it.
//   node linux_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "console", "vsock"}'
// `vsock` is the program of vsock.c; with `console`, "virtio", the shell is on a virtio-console.
// Prints one line of JSON: what was seen.
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { Machine } from '../../dist/machine/index.js'
import { address, bindAnew, command as typeCommand, machineOptions, observe, untilPrompt } from './guest.mjs'

await observe(async (folder, given, seen) => {
  const { board } = given
  const disk = path.join(folder, 'disk.img')
  const content = randomBytes(4 << 20)
  writeFileSync(disk, content)

  const socket = path.join(folder, 'vsock')
  const begun = performance.now()
  const options = machineOptions(given, 'linux', disk)
  if (board === 'standard') {
    const program = path.join(folder, 'program')
    copyFileSync(given.vsock, program)
    truncateSync(program, Math.ceil(statSync(program).size / 512) * 512)
    options.disks.push({ path: program, readOnly: true })
    Object.assign(options, { balloon: true, vsock: { path: socket }, console: given.console })
  }
  let machine = await Machine.create(options)
  const signal = AbortSignal.timeout(200_000)
  const command = text => typeCommand(machine, text, signal)
  // One connection: a line out, its number and the line back.
  const service = async lines => {
    const connection = net.connect({ host: address, port: 7, signal })
    await once(connection, 'connect')
    const answers = createInterface({ input: connection })[Symbol.asyncIterator]()
    const got = []
    for (const line of lines) {
      connection.write(`${line}\n`)
      got.push((await answers.next()).value)
    }
    connection.destroy()
    return got
  }
  // The guest's echo over vsock: whether what comes back is what was sent.
  const echo = async () => {
    const connection = net.connect({ path: socket, signal })
    connection.write('CONNECT 5000\n')
    const sent = randomBytes(1 << 20)
    const pieces = []
    for await (const piece of connection) {
      if (pieces.length === 0) connection.write(sent)
      pieces.push(piece)
      const got = Buffer.concat(pieces)
      const start = got.indexOf('\n') + 1
      if (got.length - start >= sent.length) {
        connection.destroy()
        return got.toString('latin1', 0, 3) === 'OK ' && got.subarray(start).equals(sent)
      }
    }
    return false
  }

  await machine.start()
  await untilPrompt(machine, 0, signal)
  // The serial line has a shell too.
  if (given.console === 'virtio') await untilPrompt(machine, machine.console.text.indexOf('guest# ') + 1, signal)
  seen.seconds = (performance.now() - begun) / 1000
  seen.version = await command('uname -r')
  seen.cpus = Number(await command('grep -c ^processor /proc/cpuinfo'))
  const digest = createHash('sha256').update(content).digest('hex')
  seen.diskRead = (await command('sha256sum /dev/vda')).startsWith(digest)
  await command('echo written by the guest | dd of=/dev/vda bs=512 seek=8 conv=notrunc,fsync 2>/dev/null')
  seen.diskWritten = readFileSync(disk).toString('latin1', 8 * 512, 8 * 512 + 20) === 'written by the guest'
  seen.service = await service(['one', 'two'])
  if (board === 'standard') {
    seen.interrupts = await command("grep -c PCI-MSI /proc/interrupts")
    seen.entropy = await command('dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c')
    machine.setBalloon('32MiB')
    while (machine.balloon().actual < 32 << 20) {
      signal.throwIfAborted()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    machine.setBalloon(0)
    while (machine.balloon().actual > 0) {
      signal.throwIfAborted()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    seen.total = Number(machine.balloon().stats.total ?? 0)
    await command('dd if=/dev/vdb of=/bin/vsock 2>/dev/null; chmod +x /bin/vsock; vsock listen 5000 &')
    seen.echo = await echo()
    const host = net.createServer({ allowHalfOpen: true }, connection => connection.pipe(connection)).listen(`${socket}_6000`)
    seen.called = (await command('vsock call 6000 < /dev/vda | sha256sum')) === (await command('sha256sum < /dev/vda'))
    host.close()
    seen.console = await command('tty')
    seen.clock = await command('cat /sys/devices/system/clocksource/clocksource0/current_clocksource')
  }

  await command('echo kept > /tmp/file')
  await machine.pause()
  const before = await machine.stateDigest()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file)
  await machine.close()
  // Another machine: its address, and where its random numbers come from, are its own.
  machine = await Machine.restore(file, { nets: [{ mac: '52:54:00:99:00:01' }] })
  seen.sameState = (await machine.stateDigest()).combined === before.combined
  await machine.resume()
  seen.restored = await command('cat /tmp/file')
  if (board === 'standard') {
    seen.echoRestored = await echo()
    // Only the generic kernel has the driver; it says so in its log.
    seen.generation = await command("dmesg | grep -c 'virtual machine fork'")
  }
  seen.mac = await bindAnew(machine, address, signal)
  seen.serviceRestored = await service(['three'])

  const off = machine.waitFor('stopped', { signal })
  if (board === 'standard') seen.button = machine.pressPowerButton()
  else machine.console.write('poweroff -f\n')
  await off
  seen.reason = machine.reason
  seen.counters = machine.counters()
  await machine.close()
})
