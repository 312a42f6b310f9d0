// Runs in a rig: boots Debian's kernel in a machine of ours, uses its disk, network and console, saves and restores it.
//   node linux_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine"}'
// Prints one line of JSON: what was seen.
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { Machine } from '../../dist/machine/index.js'
import { address, command as typeCommand, machineOptions, observe, untilPrompt } from './guest.mjs'

await observe(async (folder, given, seen) => {
  const { board } = given
  const disk = path.join(folder, 'disk.img')
  const content = randomBytes(4 << 20)
  writeFileSync(disk, content)

  const begun = performance.now()
  let machine = await Machine.create({ ...machineOptions(given, 'linux', disk), balloon: board === 'standard' })
  const signal = AbortSignal.timeout(200_000)
  const command = text => typeCommand(machine, text, signal)
  // One connection: a line out, its number and the line back.
  const service = async lines => {
    const socket = net.connect({ host: address, port: 7, signal })
    await once(socket, 'connect')
    const answers = createInterface({ input: socket })[Symbol.asyncIterator]()
    const got = []
    for (const line of lines) {
      socket.write(`${line}\n`)
      got.push((await answers.next()).value)
    }
    socket.destroy()
    return got
  }

  await machine.start()
  await untilPrompt(machine, 0, signal)
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
    seen.clock = await command('cat /sys/devices/system/clocksource/clocksource0/current_clocksource')
  }

  await command('echo kept > /tmp/file')
  await machine.pause()
  const before = await machine.stateDigest()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file)
  await machine.close()
  machine = await Machine.restore(file)
  seen.sameState = (await machine.stateDigest()).combined === before.combined
  await machine.resume()
  seen.restored = await command('cat /tmp/file')
  seen.serviceRestored = await service(['three'])

  const off = machine.waitFor('stopped', { signal })
  if (board === 'standard') seen.button = machine.pressPowerButton()
  else machine.console.write('poweroff -f\n')
  await off
  seen.reason = machine.reason
  seen.counters = machine.counters()
  await machine.close()
})
