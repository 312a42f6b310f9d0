// The machine's life cycle: every step that is possible, and every one that is not.
import t from 'tap'
import { guestPath } from '../../lib/index.js'
import { Machine, MachineBuilder, MachineError, type MachineState } from '../../lib/machine/index.js'
import { code, guest, noKvm as skip } from './support.js'

t.test('a guest runs to its power-off', { skip }, async t => {
  await using machine = await new MachineBuilder().memory('16MiB').kernel(guestPath('hello')).build()
  t.equal(machine.state, 'created')
  t.equal(machine.reason, 'none')
  await machine.start()
  t.equal(await machine.waitFor('stopped'), 'stopped')
  t.equal(machine.reason, 'power-off')
  t.match(machine.console.text, /^hello from hypertwin\nticks 5\n$/)
  t.ok(machine.boundary > 10n)
  const counters = machine.counters()
  t.ok(counters.interrupts > 0n)
  t.equal(counters.boundaries, machine.boundary)
})

t.test('who finds a machine stopped finds all that it said', { skip }, async t => {
  await using machine = await new MachineBuilder().memory('16MiB').kernel(guestPath('hello')).build()
  await machine.start()
  // Nothing that it tells is heard meanwhile.
  while (machine.state !== 'stopped');
  await machine.waitFor('stopped')
  t.match(machine.console.text, /^hello from hypertwin\nticks 5\n$/)
})

/** Brings a machine of its own into each state. */
const reach: Record<MachineState, (machine: Machine) => Promise<unknown>> = {
  created: () => Promise.resolve(),
  running: machine => machine.start(),
  paused: async machine => {
    await machine.start()
    await machine.pause()
  },
  stopped: machine => machine.stop(),
  failed: async machine => {
    await machine.start()
    await machine.waitFor('failed')
  }
}
/** For ever; the failing one makes the guest's CPU give up. */
const lines = { running: 'ticks=1000000', failed: 'ticks=1000000' }
const possible: Record<MachineState, Partial<Record<'start' | 'pause' | 'resume' | 'stop', MachineState>>> = {
  created: { start: 'running', stop: 'stopped' },
  running: { pause: 'paused', stop: 'stopped' },
  paused: { pause: 'paused', resume: 'running', stop: 'stopped' },
  stopped: { stop: 'stopped' },
  failed: { stop: 'failed' }
}

for (const state of ['created', 'running', 'paused', 'stopped'] as const)
  for (const verb of ['start', 'pause', 'resume', 'stop'] as const) {
    const after = possible[state][verb]
    t.test(`${verb} of a ${state} machine: ${after ?? 'refused'}`, { skip }, async t => {
      const machine = await guest(t, 'hello', lines.running)
      await reach[state](machine)
      t.equal(machine.state, state)
      if (after) {
        await machine[verb]()
        t.equal(machine.state, after)
      } else {
        const error = await machine[verb]().then(
          () => undefined,
          (error: unknown) => error
        )
        t.ok(error instanceof MachineError)
        t.match(error, { code: 'BAD_STATE' })
        // Names the state, and what is possible in it.
        t.match((error as Error).message, `cannot ${verb} a machine that is ${state}: `)
        t.match((error as Error).message, { stopped: 'new machine', created: 'start()', running: 'pause()', paused: 'resume()' }[state])
        t.equal(machine.state, state, 'nothing changed')
      }
    })
  }

t.test('a guest that gives up fails its machine, with a reason', { skip }, async t => {
  const machine = await guest(t, 'hello', lines.failed)
  // An entry point without code: the first instructions of the image become UD2 with no handler for it.
  const { regs } = await machine.registers()
  machine.memory.write(regs.rip, Buffer.alloc(64, Buffer.from([0x0f, 0x0b])))
  await reach.failed(machine)
  t.equal(machine.state, 'failed')
  t.ok(['triple-fault', 'error'].includes(machine.reason), machine.reason)
  t.not(machine.message, '')
  for (const verb of ['start', 'pause', 'resume'] as const) {
    await t.rejects(machine[verb](), code('BAD_STATE'))
  }
  await machine.stop()
  t.equal(machine.state, 'failed', 'stop() changes nothing')
  await t.rejects(machine.waitFor('stopped'), code('FINAL_STATE'))
})

t.test('a closed machine', { skip }, async t => {
  const machine = await guest(t, 'hello', lines.running, { nets: [{}] })
  await machine.start()
  const events = machine.events()
  await Promise.all([machine.close(), machine.close()])
  await machine.close()
  t.ok(machine.closed)
  t.equal(machine.state, 'stopped')
  for (const verb of ['start', 'pause', 'resume', 'stop', 'stateDigest', 'registers'] as const)
    await t.rejects((async () => void (await machine[verb]()))(), code('CLOSED'), verb)
  await t.rejects(machine.snapshot('/tmp/never'), code('CLOSED'))
  t.throws(() => machine.memory.read(0n, 1), code('CLOSED'))
  t.throws(() => machine.net(0).send(Buffer.alloc(60)), code('CLOSED'))
  t.throws(() => machine.console.write('x'), code('CLOSED'))
  t.throws(() => machine.counters(), code('CLOSED'))
  t.strictSame(machine.net(0).take(), [])
  const seen: string[] = []
  for await (const event of events) if (event.type === 'state') seen.push(event.state)
  t.equal(seen.at(-1), 'stopped', 'the end was told')
})

t.test('calls in flight when a machine is closed', { skip }, async t => {
  const machine = await guest(t, 'hello', lines.running)
  const calls = [machine.start(), ...Array.from({ length: 20 }, () => machine.stateDigest())]
  const settled = Promise.allSettled(calls)
  await machine.close()
  for (const result of await settled)
    if (result.status === 'rejected') t.match(result.reason, code('CLOSED'))
})

t.test('waiting for a state', { skip }, async t => {
  const machine = await guest(t, 'hello')
  t.equal(await machine.waitFor('created'), 'created', 'the present one')
  const paused = t.rejects(machine.waitFor('paused'), code('FINAL_STATE'))
  await machine.start()
  await paused
  await t.rejects(machine.waitFor('running'), { code: 'FINAL_STATE', message: /stopped \(power-off\)/ })
  const other = await guest(t, 'hello', lines.running)
  const end = new AbortController()
  const waiting = other.waitFor(['stopped', 'failed'], { signal: end.signal })
  end.abort(new Error('enough'))
  await t.rejects(waiting, /enough/)
  await t.rejects(other.waitFor('stopped', { signal: AbortSignal.abort(new Error('before')) }), /before/)
  const closed = t.rejects(other.waitFor('paused'), code('FINAL_STATE'))
  await other.close()
  await closed
})

t.test('what a machine is, and is not, built from', { skip }, async t => {
  const kernel = guestPath('hello')
  const bad: [string, object, string, RegExp?][] = [
    ['no kernel', {}, 'EINVAL', /kernel/],
    ['a kernel that is not there', { kernel: '/nowhere/kernel' }, 'ENOENT', /nowhere/],
    ['a kernel that is none', { kernel: Buffer.from('#!/bin/sh') }, 'BAD_KERNEL'],
    ['memory as words', { kernel, memory: 'plenty' }, 'EINVAL', /memory.*plenty/],
    ['memory of a part of a page', { kernel, memory: (16 << 20) + 1 }, 'BAD_CONFIG', /4096/],
    ['too little memory', { kernel, memory: '4KiB' }, 'BAD_CONFIG', /2 MiB/],
    ['too much memory', { kernel, memory: '4GiB' }, 'BAD_CONFIG', /3 GiB/],
    ['a long command line', { kernel, commandLine: 'x'.repeat(4096) }, 'BAD_CONFIG', /4095/],
    ['a command line with NUL', { kernel, commandLine: 'a\0b' }, 'EINVAL', /NUL/],
    ['a number as command line', { kernel, commandLine: 7 }, 'EINVAL', /commandLine/],
    ['one disk, not in a list', { kernel, disks: { path: 'x' } }, 'EINVAL', /disks/],
    ['a disk without path', { kernel, disks: [{}] }, 'EINVAL', /disks\[0\]\.path/],
    ['a disk that is not there', { kernel, disks: [{ path: '/nowhere/disk' }] }, 'ENOENT', /nowhere/],
    ['a disk smaller than asked for', { kernel, disks: [{ path: kernel, size: '1GiB' }] }, 'BAD_CONFIG', /image/],
    ['nine disks', { kernel, disks: Array.from({ length: 9 }, () => ({ path: kernel })) }, 'BAD_CONFIG', /8/],
    ['a MAC address', { kernel, nets: [{ mac: '52:54:00' }] }, 'EINVAL', /nets\[0\]\.mac/],
    ['a multicast MAC address', { kernel, nets: [{ mac: '01:00:5e:00:00:01' }] }, 'BAD_CONFIG', /multicast/],
    ['a backend', { kernel, nets: [{ backend: 'magic' }] }, 'EINVAL', /backend/],
    ['vhost', { kernel, nets: [{ backend: { tap: 'tap0', vhost: 'on' as never } }] }, 'EINVAL', /vhost/],
    ['vhost on this board', { kernel, nets: [{ backend: { tap: 'tap0', vhost: true } }] }, 'BAD_CONFIG', /standard/],
    ["a tap's name", { kernel, nets: [{ backend: { tap: 'x'.repeat(16) } }] }, 'BAD_CONFIG', /15/],
    ['a dirty ring', { kernel, dirtyRing: 5 }, 'EINVAL', /dirtyRing/],
    ['a dirty ring of no power of two', { kernel, dirtyRing: 5000 }, 'BAD_CONFIG', /power of two/],
    ['a time before 1970', { kernel, wallClock: new Date(-1) }, 'EINVAL', /wallClock/],
    ['a KVM device that is not there', { kernel, device: '/nowhere/kvm' }, 'ENOENT', /nowhere/],
    ['a KVM device that is none', { kernel, device: '/dev/null' }, 'ENOTTY']
  ]
  for (const [what, options, expected, message] of bad) {
    const error = await Machine.create(options as { kernel: string }).then(
      machine => machine.close(),
      (error: unknown) => error
    )
    t.ok(error instanceof MachineError, what)
    t.match(error, { code: expected, ...(message ? { message } : {}) }, what)
  }
  await t.rejects(new MachineBuilder().build(), code('EINVAL'))
  await t.rejects(Machine.create(undefined as never), code('EINVAL'))
})

t.test('bytes in shared memory', { skip }, async t => {
  const machine = await guest(t, 'hello', '', { nets: [{}] })
  const shared = new Uint8Array(new SharedArrayBuffer(80), 8, 64).fill(7)
  machine.memory.write(0x100000n, shared)
  t.ok(machine.memory.read(0x100000n, 64).every(byte => byte === 7))
  t.equal(machine.console.write(shared), true)
  t.equal(machine.net(0).send(shared), 1)
})

t.test('wrong arguments', { skip }, async t => {
  const machine = await guest(t, 'hello', '', { nets: [{}] })
  t.throws(() => machine.net(1), { code: 'ERANGE', message: /has 1/ })
  t.throws(() => machine.net(-1), code('ERANGE'))
  t.throws(() => machine.net(0).send('packet' as never), code('EINVAL'))
  t.throws(() => machine.net(0).send(['packet'] as never), code('EINVAL'))
  t.throws(() => machine.net(0).send(Buffer.alloc(13)), code('ERANGE'))
  t.throws(() => machine.net(0).send(Buffer.alloc(70_000)), code('ERANGE'))
  t.throws(() => machine.net(0).onPackets(1 as never), code('EINVAL'))
  t.throws(() => machine.console.write(1 as never), code('EINVAL'))
  t.throws(() => machine.console.write('x'.repeat(4097)), code('ERANGE'))
  t.throws(() => machine.memory.read(16n << 20n, 1), code('ERANGE'))
  t.throws(() => machine.memory.read((16n << 20n) - 1n, 2), code('ERANGE'))
  t.throws(() => machine.memory.read(-1n, 1), code('EINVAL'))
  t.throws(() => machine.memory.read(0n, -1), code('ERANGE'))
  t.throws(() => machine.memory.read(0n, 2 ** 40), code('ERANGE'))
  t.throws(() => machine.memory.write(2n ** 64n - 1n, Buffer.alloc(2)), code('ERANGE'))
  t.throws(() => machine.memory.write(0n, 'x' as never), code('EINVAL'))
  t.throws(() => machine.events({ limit: 0 }), code('EINVAL'))
  await t.rejects(machine.waitFor('happy' as never), code('EINVAL'))
  await t.rejects(machine.waitFor([]), code('EINVAL'))
  await t.rejects(machine.snapshot(3 as never), code('EINVAL'))
  await t.rejects(machine.snapshot('/nowhere/snapshot'), code('ENOENT'))
  await t.rejects(Machine.restore('/nowhere/snapshot'), code('ENOENT'))
  await t.rejects(Machine.restore(guestPath('hello')), code('CORRUPT'))
  await t.rejects(Machine.restore('/dev/null'), code('CORRUPT'))
  t.throws(() => new (Machine as unknown as new () => Machine)(), TypeError)
})
