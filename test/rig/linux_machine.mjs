// Runs in a rig: boots Debian's kernel in a machine of ours, uses its disk, network and console, saves and restores it.
//   node linux_machine.mjs '{"board", "vcpus", "kernel", "initrd", "commandLine"}'
// Prints one line of JSON: what was seen.
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { Machine } from '../../dist/machine/index.js'

const { board, vcpus, kernel, initrd, commandLine } = JSON.parse(process.argv[2])
const address = '10.9.0.2'
const folder = mkdtempSync(path.join(tmpdir(), 'linux-'))
const seen = {}
const prompt = 'guest# '

try {
  const ip = (...args) => execFileSync('ip', args)
  ip('tuntap', 'add', 'guest0', 'mode', 'tap')
  ip('address', 'add', '10.9.0.1/16', 'dev', 'guest0')
  ip('link', 'set', 'guest0', 'up')
  const disk = path.join(folder, 'disk.img')
  const content = randomBytes(4 << 20)
  writeFileSync(disk, content)

  const begun = performance.now()
  let machine = await Machine.create({
    board,
    vcpus,
    kernel,
    initrd,
    memory: '192MiB',
    commandLine: `console=ttyS0 quiet guest.name=linux guest.address=${address} ${commandLine}`,
    disks: [{ path: disk }],
    nets: [{ backend: { tap: 'guest0' } }],
    balloon: board === 'standard'
  })
  const signal = AbortSignal.timeout(200_000)
  const end = async from => {
    while (machine.console.text.indexOf(prompt, from) < 0) {
      if (machine.state !== 'running') throw new Error(`it is ${machine.state}: ${machine.message}`)
      signal.throwIfAborted()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  const command = async text => {
    const from = machine.console.text.length
    machine.console.write(`${text}\n`)
    await end(from)
    return machine.console.text.slice(from).replace(/\r/g, '').split('\n').slice(1, -1).join('\n').trim()
  }
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
  await end(0)
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
} catch (error) {
  seen.error = error.stack
} finally {
  try {
    execFileSync('ip', ['link', 'delete', 'guest0'])
  } catch {
    // It was not made.
  }
  rmSync(folder, { recursive: true, force: true })
}
process.stdout.write(`${JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? Number(value) : value))}\n`)
