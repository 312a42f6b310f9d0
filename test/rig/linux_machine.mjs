// Runs in a rig: boots Debian's kernel in a machine of ours, uses its disks, network, console and balloon; saves it, and
// has machines that go on from there end in each way that Linux knows.
//   node linux_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine", "console", "vsock", "ends",
//   "generation", "thorough", "seconds"}'
// `vsock` is the program of vsock.c; with `console`, "virtio", the shell is on a virtio-console. `ends` is what is typed to
// end it, or "button": a machine for each. With `generation` the guest's kernel notices that it goes on in a clone.
// Prints one line of JSON: what was seen.
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Machine } from '../../dist/machine/index.js'
import { address, bindAnew, command as typeCommand, machineOptions, observe, untilPrompt } from './guest.mjs'

/** A loop device on a file. */
const loopDevice = file => execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim()

await observe(async (folder, given, seen) => {
  const { board } = given
  const disk = path.join(folder, 'disk.img')
  const content = randomBytes(4 << 20)
  writeFileSync(disk, content)

  const socket = path.join(folder, 'vsock')
  const scratch = ['file', 'device'].map(name => path.join(folder, name))
  const begun = performance.now()
  const options = machineOptions(given, 'linux', disk)
  if (board === 'standard') {
    const program = path.join(folder, 'program')
    copyFileSync(given.vsock, program)
    truncateSync(program, Math.ceil(statSync(program).size / 512) * 512)
    for (const file of scratch) writeFileSync(file, randomBytes(8 << 20))
    options.disks.push({ path: program, readOnly: true }, { path: scratch[0] }, { path: loopDevice(scratch[1]) })
    Object.assign(options, { balloon: true, vsock: { path: socket }, console: given.console })
  }
  let machine = await Machine.create(options)
  const signal = AbortSignal.timeout(1000 * given.seconds)
  const until = async condition => {
    while (!(await condition())) {
      signal.throwIfAborted()
      await sleep(20)
    }
  }
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

  // What its kernel says to a write, and whether the image is what it was.
  const readOnly = async () => {
    const before = readFileSync(path.join(folder, 'program'))
    const said = await command('cat /sys/block/vdb/ro; dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync 2>&1')
    return [said.split('\n').slice(0, 2).join(', '), readFileSync(path.join(folder, 'program')).equals(before)]
  }
  // How much space its image needs less, and whether nothing else has changed.
  const discard = async (name, file) => {
    const before = readFileSync(file)
    const { blocks } = statSync(file)
    await command(`blkdiscard -o ${1 << 20} -l ${4 << 20} /dev/${name}`)
    const now = readFileSync(file)
    const rest = [0, 5 << 20].every((from, i) => before.subarray(from, [1 << 20, 8 << 20][i]).equals(now.subarray(from, [1 << 20, 8 << 20][i])))
    return [(blocks - statSync(file).blocks) * 512, rest]
  }
  const kilobytes = async name => Number(await command(`sed -n 's/^${name}: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo`))
  const inflate = async size => {
    machine.setBalloon(size)
    await until(() => machine.balloon().actual >= size)
  }
  // The guest's own account of its memory.
  const deflate = async () => {
    machine.setBalloon(0)
    await until(() => machine.balloon().actual === 0)
    await until(() => machine.balloon().stats.total)
    const { total, free } = machine.balloon().stats
    return { total: Number(total), free: Number(free), its: (await kilobytes('MemTotal')) * 1024 }
  }
  // How much of this process's memory comes back from the guest, of how much it gave up: by a report of what is free, and
  // by the balloon.
  const givenUp = async () => {
    const order = '/sys/module/page_reporting/parameters/page_reporting_order'
    const size = (Math.floor((await kilobytes('MemFree')) / 1024) - 24) << 20
    const use = `mount -t tmpfs -o size=100% big /mnt && dd if=/dev/zero of=/mnt/big bs=1M count=${size >> 20} 2>/dev/null`
    await command(use)
    let most = process.memoryUsage.rss()
    await command('umount /mnt')
    // It comes in parts, each some seconds after the last.
    await until(() => most - process.memoryUsage.rss() > size * 0.75)
    const reported = most - process.memoryUsage.rss()
    // No more reports.
    await command(`echo 11 > ${order}`)
    await command(`${use}; umount /mnt`)
    most = process.memoryUsage.rss()
    await inflate(size)
    return { size, reported, inflated: most - process.memoryUsage.rss() }
  }

  await machine.start()
  await untilPrompt(machine, 0, signal)
  // The serial line has a shell too.
  if (given.console === 'virtio') await untilPrompt(machine, machine.console.text.indexOf('guest# ') + 1, signal)
  // Wide enough for what is typed.
  await command('stty cols 1000')
  seen.seconds = (performance.now() - begun) / 1000
  seen.version = await command('uname -r')
  seen.cpus = Number(await command('nproc'))
  // Each runs what is bound to it: the last field but 13 of what a process says of itself.
  seen.ranOn = (await command("i=0; while [ $i -lt $(nproc) ]; do taskset -c $i cut -d' ' -f39 /proc/self/stat; i=$((i+1)); done")).split('\n')
  // PVH has no place for a seed.
  if (given.seeded) seen.random = await command('timeout 60 head -c 16 /dev/urandom | wc -c')
  const digest = createHash('sha256').update(content).digest('hex')
  seen.diskRead = (await command('sha256sum /dev/vda')).startsWith(digest)
  await command('echo written by the guest | dd of=/dev/vda bs=512 seek=8 conv=notrunc,fsync 2>/dev/null')
  seen.diskWritten = readFileSync(disk).toString('latin1', 8 * 512, 8 * 512 + 20) === 'written by the guest'
  seen.service = await service(['one', 'two'])
  if (board === 'standard') {
    seen.interrupts = await command("grep -c PCI-MSI /proc/interrupts")
    seen.entropy = await command('dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c')
    seen.readOnly = await readOnly()
    seen.discarded = [await discard('vdc', scratch[0]), await discard('vdd', scratch[1])]
    if (given.thorough) seen.givenUp = await givenUp()
    else await inflate(32 << 20)
    seen.memory = await deflate()
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
  seen.counters = machine.counters()
  await machine.close()

  // Other machines: their address, and where their random numbers come from, are their own.
  seen.clones = []
  seen.ends = []
  seen.endExits = []
  for (const [i, how] of given.ends.entries()) {
    const mac = `52:54:00:99:00:0${i + 1}`
    machine = await Machine.restore(file, { nets: [{ mac }] })
    if (i === 0) seen.sameState = (await machine.stateDigest()).combined === before.combined
    await machine.resume()
    if (given.generation) await until(async () => (await command("dmesg | grep -c 'virtual machine fork'")) !== '0')
    // The driver has the next of the device's bytes in advance: the snapshot holds those.
    if (board === 'standard')
      seen.clones.push({
        kernel: await command('head -c 16 /dev/urandom | od -An -tx1'),
        device: await command('dd if=/dev/hwrng bs=64 count=2 2>/dev/null | tail -c 64 | od -An -tx1')
      })
    if (i === 0) {
      seen.restored = await command('cat /tmp/file')
      if (board === 'standard') {
        seen.echoRestored = await echo()
        // Only the generic kernel has the driver; it says so in its log.
        seen.generation = await command("dmesg | grep -c 'virtual machine fork'")
      }
      seen.mac = await bindAnew(machine, address, signal)
      seen.serviceRestored = await service(['three'])
    }
    const { portExits } = machine.counters()
    if (how === 'button') machine.pressPowerButton()
    else machine.console.write(`${how}\n`)
    await until(() => machine.state !== 'running')
    seen.ends.push(`${how}: ${machine.state}, ${machine.reason}`)
    seen.endExits.push(machine.counters().portExits - portExits)
    await machine.close()
  }
})
