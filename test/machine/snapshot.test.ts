// A snapshot continues identically, in a new machine, as often as one likes.
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Machine } from '../../lib/machine/index.js'
import { code, guest, noKvm as skip, scratch } from './support.js'

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
    await t.rejects(Machine.restore(bad), { code: /CORRUPT|SNAPSHOT_VERSION/ }, `byte ${at}`)
  }
  for (const size of [0, 63, 4096, statSync(file).size - 1]) {
    writeFileSync(bad, whole)
    truncateSync(bad, size)
    await t.rejects(Machine.restore(bad), code('CORRUPT'), `cut to ${size}`)
  }
  await t.rejects(Machine.restore(file, { disks: ['/nowhere'] }), { code: 'BAD_CONFIG', message: /0 disks/ })
})
