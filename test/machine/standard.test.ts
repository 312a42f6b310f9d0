// Machines with the standard board, by guests of ours; Debian's kernels on it are in test/rig.
import { existsSync, copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { DirtyTracker } from '../../lib/dirty/index.js'
import { Recording } from '../../lib/eventlog/index.js'
import { protect } from '../../lib/ha/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine, MachineBuilder } from '../../lib/machine/index.js'
import { migrate } from '../../lib/migrate/index.js'
import { code, guest, noKvm as skip, scratch } from './support.js'

const standard = { board: 'standard' } as const

t.test('a guest runs to its power-off', { skip }, async t => {
  await using machine = await new MachineBuilder().board('standard').memory('16MiB').kernel(guestPath('hello')).build()
  t.equal(machine.board, 'standard')
  t.equal(machine.vcpus, 1)
  await machine.start()
  t.equal(await machine.waitFor('stopped'), 'stopped')
  t.equal(machine.reason, 'power-off')
  t.equal(machine.console.text, 'hello from hypertwin\nticks 5\n')
  t.equal(machine.boundary, 0n, 'it has none')
  t.ok(machine.counters().portExits > 0n)
})

t.test('what cannot be', { skip }, async t => {
  const create = (options: object) => Machine.create({ kernel: guestPath('hello'), memory: '16MiB', ...options })
  for (const [options, expected] of [
    [{ board: 'magic' }, 'EINVAL'],
    [{ vcpus: 0 }, 'EINVAL'],
    [{ vcpus: 255 }, 'EINVAL'],
    [{ vcpus: 1.5 }, 'EINVAL'],
    [{ vcpus: 2 }, 'BAD_CONFIG'],
    [{ console: 'virtio' }, 'BAD_CONFIG'],
    [{ balloon: true }, 'BAD_CONFIG'],
    [{ vsock: { path: '/tmp/never' } }, 'BAD_CONFIG'],
    [{ ...standard, console: 'line printer' }, 'EINVAL'],
    [{ ...standard, balloon: 'yes' }, 'EINVAL'],
    [{ ...standard, vsock: {} }, 'EINVAL'],
    [{ ...standard, vsock: { cid: 2, path: '/tmp/never' } }, 'EINVAL'],
    [{ ...standard, vsock: { path: '/no/such/folder/socket' } }, 'ENOENT'],
    [{ ...standard, memory: '2048GiB' }, 'BAD_CONFIG']
  ] as [object, string][])
    await t.rejects(create(options), code(expected), JSON.stringify(options))

  const machine = await guest(t, 'hello', '', standard)
  t.throws(() => machine.console.resize(80, 25), code('ERANGE'))
  t.throws(() => machine.setBalloon('4MiB'), code('ERANGE'))
  t.throws(() => machine.balloon(), code('ERANGE'))
  t.equal(machine.pressPowerButton(), false, 'nobody listens yet')
  await t.rejects(machine.registers(1), code('ERANGE'))
  await t.rejects(Recording.start(machine, path.join(scratch(t), 'log')), code('BAD_BOARD'), 'it cannot be recorded')
  await t.rejects(migrate(machine, 'tcp://127.0.0.1:1').done, code('BAD_BOARD'), 'nor migrated')
  const arbiter = new FileArbiter(scratch(t))
  await t.rejects(protect(machine, { backup: 'tcp://127.0.0.1:1', arbiter, wait: true }), code('BAD_BOARD'), 'nor protected')
  const deterministic = await guest(t, 'hello')
  t.equal(deterministic.board, 'deterministic')
  t.throws(() => deterministic.pressPowerButton(), code('BAD_BOARD'))
  t.throws(() => deterministic.console.resize(80, 25), code('BAD_BOARD'))
  t.throws(() => deterministic.setBalloon(0), code('BAD_BOARD'))
})

t.test('several processors, and memory above 4 GiB', { skip }, async t => {
  const machine = await guest(t, 'hello', '', { ...standard, vcpus: 3, memory: '4GiB' })
  t.equal(machine.vcpus, 3)
  machine.memory.write(0x1_3fff_f000n, Buffer.alloc(4096, 7))
  t.equal(machine.memory.read(0x1_3fff_ffffn, 1)[0], 7)
  t.throws(() => machine.memory.read(0xc000_0000n, 1), code('ERANGE'), 'there are the devices')
  await machine.start()
  await machine.waitFor('stopped')
  for (let i = 0; i < 3; i++) t.type((await machine.registers(i)).regs.rip, 'bigint')
  const names = machine.vcpuThreads.map(id => readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim())
  t.same(names, ['ht-vcpu0', 'ht-vcpu1', 'ht-vcpu2'])
  await machine.close()
  t.throws(() => machine.vcpuThreads, code('CLOSED'))
})

t.test('the balloon, the vsock and the virtio-console are there', { skip }, async t => {
  const socket = path.join(scratch(t), 'vsock')
  const machine = await guest(t, 'hello', 'ticks=1000000', {
    ...standard,
    balloon: true,
    console: 'virtio',
    vsock: { path: socket, cid: 52 }
  })
  machine.setBalloon('4MiB')
  t.strictSame(machine.balloon(), { target: 4 << 20, actual: 0, stats: {} }, 'this guest has no driver')
  t.throws(() => machine.setBalloon('17MiB'), code('ERANGE'))
  t.throws(() => machine.setBalloon(1000), code('EINVAL'))
  machine.console.resize(132, 50)
  t.throws(() => machine.console.resize(0, 50), code('EINVAL'))
  await machine.start()
  await machine.console.waitFor('hello')
  t.ok(existsSync(socket))
  t.equal(machine.console.write('nobody reads it'), true)
  await machine.close()
  t.notOk(existsSync(socket))
})

t.test('a snapshot, of which two go on at once', { skip }, async t => {
  const folder = scratch(t)
  const disk = path.join(folder, 'mail.img')
  writeFileSync(disk, '')
  truncateSync(disk, 8 << 20)
  const machine = await guest(t, 'mailroom', '', { ...standard, memory: '32MiB', disks: [{ path: disk }], nets: [{}] })
  await machine.start()
  await machine.console.waitFor('mailroom ready')
  await machine.pause()
  const state = await machine.stateDigest()
  const file = path.join(folder, 'snapshot')
  await machine.snapshot(file)
  const copies = ['a', 'b'].map(name => path.join(folder, name))
  const clones = await Promise.all(
    copies.map(copy => {
      copyFileSync(disk, copy)
      return Machine.restore(file, { disks: [copy] })
    })
  )
  for (const clone of clones) {
    t.teardown(() => clone.close())
    t.equal(clone.board, 'standard')
    t.equal(clone.state, 'paused')
    t.equal((await clone.stateDigest()).combined, state.combined)
    await clone.resume()
  }
  await machine.resume()
  for (const each of [machine, ...clones]) {
    await each.pause()
    t.equal(each.state, 'paused')
  }
  const damaged = readFileSync(file)
  damaged[damaged.length - 20]! ^= 1
  writeFileSync(file, damaged)
  await t.rejects(Machine.restore(file), code('CORRUPT'))
})

t.test('its dirty pages are tracked', { skip }, async t => {
  const machine = await guest(t, 'dirtier', 'rounds=0 pages=64 count=64', { ...standard, memory: '32MiB' })
  await machine.start()
  await machine.console.waitFor('dirtier image')
  await using tracker = await DirtyTracker.attach(machine)
  await tracker.harvest()
  await new Promise(resolve => setTimeout(resolve, 50))
  const harvest = await tracker.harvest()
  t.ok(harvest.pages >= 64, `${harvest.pages} pages`)
})
