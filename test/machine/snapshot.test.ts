// A snapshot continues identically, in a new machine, as often as one likes.
import { copyFileSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Machine } from '../../lib/machine/index.js'
import { code, guest, noKvm as skip, scratch } from './support.js'

/** A paused machine keeps no program alive that waits for it. */
async function failed(machine: Machine): Promise<void> {
  while (machine.state !== 'failed') await new Promise(resolve => setTimeout(resolve, 5))
}

t.test('the state is the same, and the guest goes on', { skip }, async t => {
  const file = path.join(scratch(t), 'snapshot')
  const machine = await guest(t, 'hello', 'ticks=60 hz=100')
  await machine.start()
  await machine.console.waitFor('hello from hypertwin\n')
  await machine.pause()
  const digest = await machine.stateDigest()
  const registers = await machine.registers()
  await machine.snapshot(file)
  t.strictSame(await machine.stateDigest(), digest, 'a snapshot changes nothing')
  for (const turn of [1, 2]) {
    await using restored = await Machine.restore(file)
    t.equal(restored.state, 'paused')
    t.strictSame(await restored.stateDigest(), digest, `restore ${turn}: equal digests`)
    t.strictSame(await restored.registers(), registers)
    t.equal(restored.boundary, digest.boundary)
    t.ok(restored.memory.read(0n, 16 << 20).equals(machine.memory.read(0n, 16 << 20)), 'equal memory')
    await restored.resume()
    await restored.waitFor('stopped')
    t.equal(restored.reason, 'power-off')
    t.equal(restored.console.text, 'ticks 60\n', 'it says what was left to say')
  }
  await machine.resume()
  await machine.waitFor('stopped')
  t.match(machine.console.text, /ticks 60\n$/)
})

t.test('of a created and of a running machine', { skip }, async t => {
  const file = path.join(scratch(t), 'snapshot')
  const machine = await guest(t, 'hello', 'ticks=20')
  await machine.snapshot(file)
  await using first = await Machine.restore(file)
  t.equal((await first.stateDigest()).combined, (await machine.stateDigest()).combined)
  await first.resume()
  await first.waitFor('stopped')
  t.match(first.console.text, /hello[^]*ticks 20/)
  await machine.start()
  await machine.console.waitFor('hello from hypertwin\n')
  await machine.snapshot(file)
  t.equal(machine.state, 'running', 'it goes on')
  await machine.waitFor('stopped')
  await using second = await Machine.restore(file)
  await second.resume()
  await second.waitFor('stopped')
  t.equal(second.console.text, 'ticks 20\n')
})

t.test('a damaged snapshot is refused, whatever is damaged', { skip }, async t => {
  const folder = scratch(t)
  const file = path.join(folder, 'snapshot')
  const machine = await guest(t, 'hello')
  await machine.snapshot(file)
  const whole = readFileSync(file)
  const bad = path.join(folder, 'bad')
  for (const at of [0, 9, 20, 4096, whole.length >> 1, whole.length - 1]) {
    const bytes = Buffer.from(whole)
    bytes[at]! ^= 0x10
    writeFileSync(bad, bytes)
    await t.rejects(Machine.restore(bad, { verify: 'before' }), { code: /CORRUPT|SNAPSHOT_VERSION/ }, `byte ${at}`)
  }
  for (const size of [0, 63, 4096, statSync(file).size - 1]) {
    writeFileSync(bad, whole)
    truncateSync(bad, size)
    await t.rejects(Machine.restore(bad), code('CORRUPT'), `cut to ${size}`)
  }
  await t.rejects(Machine.restore(file, { disks: ['/nowhere'] }), { code: 'BAD_CONFIG', message: /0 disks/ })
})

t.test('incremental ones, of what changed since the base', { skip }, async t => {
  const folder = scratch(t)
  const at = (name: string) => path.join(folder, name)
  const machine = await guest(t, 'dirtier', 'rounds=0 pattern=random pages=512 count=16 pause=1 hz=100', { memory: '32MiB' })
  await t.rejects(machine.snapshot(at('none'), { incremental: true }), code('BAD_STATE'))
  await machine.start()
  await machine.console.waitFor('dirtier image')
  const first = await machine.snapshot(at('0'), { track: true })
  t.equal(first.parent, undefined)
  t.ok(first.pages > 0 && first.bytes > first.pages * 4096, `${first.pages} pages`)
  await machine.pause()
  machine.memory.write(31n << 20n, Buffer.from('changed'))
  const digest = await machine.stateDigest()
  const second = await machine.snapshot(at('1'), { incremental: true })
  t.equal(second.parent, at('0'))
  t.ok(second.pages > 0 && second.pages <= 600, `${second.pages} pages`)
  await t.rejects(machine.snapshot(at('0'), { incremental: true }), code('EINVAL'))
  await using clone = await Machine.restore(at('1'), { verify: 'before' })
  t.equal((await clone.stateDigest()).combined, digest.combined)
  t.equal(clone.memory.read(31n << 20n, 7).toString(), 'changed')
  const own = await clone.snapshot(at('2'), { incremental: true })
  t.equal(own.parent, at('0'), 'against the full one that it is mapped from')
  t.equal(own.pages, second.pages)
  rmSync(at('0'))
  await t.rejects(Machine.restore(at('1')), code('SNAPSHOT_PARENT'))
  await t.rejects(machine.snapshot(at('3'), { incremental: 1 } as never), code('EINVAL'))
})

t.test('a file that is damaged or cut fails the machine, and nothing else', { skip }, async t => {
  const folder = scratch(t)
  const file = path.join(folder, 'snapshot')
  const machine = await guest(t, 'hello')
  await machine.snapshot(file)
  const damaged = readFileSync(file)
  // The guest's program, which lies at 1 MiB.
  damaged[4096 + (1 << 20) + 100]! ^= 1
  writeFileSync(path.join(folder, 'damaged'), damaged)
  await t.rejects(Machine.restore(path.join(folder, 'damaged'), { verify: 'before' }), code('CORRUPT'))
  await t.rejects(Machine.restore(file, { verify: 'never' as 'before' }), code('EINVAL'))
  await using behind = await Machine.restore(path.join(folder, 'damaged'))
  await failed(behind)
  t.match(behind.message, /checksum/)

  copyFileSync(file, path.join(folder, 'cut'))
  await using cut = await Machine.restore(path.join(folder, 'cut'), { verify: 'before' })
  truncateSync(path.join(folder, 'cut'), 4096)
  t.equal(cut.memory.read(1n << 20n, 4096).compare(Buffer.alloc(4096)), 0, 'what is lost reads as zeros')
  await failed(cut)
  t.match(cut.message, /lost bytes/)
  t.equal(machine.state, 'created')
})

t.test('a clone with an address of its own', { skip }, async t => {
  const folder = scratch(t)
  const machine = await guest(t, 'mailroom', 'disk=0', { memory: '32MiB', nets: [{}] })
  await machine.snapshot(path.join(folder, 's'))
  await using clone = await Machine.restore(path.join(folder, 's'), { nets: [{ mac: '52:54:00:01:02:03' }] })
  t.equal(clone.net(0).mac, '52:54:00:01:02:03')
  await t.rejects(Machine.restore(path.join(folder, 's'), { nets: [{ mac: 'none' }] }), code('EINVAL'))
  await t.rejects(Machine.restore(path.join(folder, 's'), { nets: [{}, {}] }), code('BAD_CONFIG'))
})
