// Protection with both sides in one process: its states, its ends, its errors.
import { existsSync, statSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { protect, HaError } from '../../lib/ha/index.js'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { Recording } from '../../lib/eventlog/index.js'
import { backup } from '../../lib/ha/index.js'
import { code, endless, guest, noKvm as skip, noOpenssl, protection, scratch, standby, TestArbiter, tlsIn, Told } from './support.js'

t.test('a machine becomes protected, and is handed over', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  t.match(there, { state: 'listening', listen: /^tcp:\/\/127\.0\.0\.1:\d+$/, session: '' })
  const toldThere = new Told(there)
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  const told = new Told(here)
  const phases = new Set<string>()
  for await (const progress of here.syncProgress()) phases.add(progress.phase)
  await Promise.all([here.ready, there.waitFor('protected')])
  t.ok(phases.size > 0)
  t.match(here.progress(), { round: Number, pagesSent: Number, bytesSent: Number })
  t.ok(here.progress().bytesSent > 1000)
  t.match(here, { state: 'protected', code: 'PROTECTED', backup: there.listen, session: /^[0-9a-f]{32}$/ })
  t.equal(there.session, here.session)
  t.match(there.primary, /127\.0\.0\.1/)
  t.equal(arbiter.asked.length, 0, 'nobody need be asked')

  // The log grows, and all of it is acknowledged.
  const { ackedRecords } = here.stats()
  const seen = machine.boundary
  while (here.stats().ackedRecords <= ackedRecords + 20n || here.stats().peerBoundary < seen)
    await new Promise(resolve => setTimeout(resolve, 5))
  t.ok(here.stats().logBytes > 0n)
  t.equal(there.stats().droppedOutputs, 0n)

  await here.handOver()
  const survivor = await there.live
  t.equal(there.machine, survivor)
  t.match(machine, { state: 'stopped', reason: 'handed-over' })
  await here.waitFor('ended')
  t.match(here, { code: 'HAND_OVER' })
  await told.over
  t.strictSame(
    told.states.filter(state => state !== 'connecting'),
    ['syncing', 'protected', 'ended']
  )
  t.match(there.timeline(), { cause: 'HAND_OVER', live: Number, boundary: machine.boundary })
  t.match(await toldThere.find('failover'), { timeline: { boundary: machine.boundary } })
  t.match(survivor, { state: 'running' })
  const boundary = survivor.boundary
  while (survivor.boundary <= boundary + 5n) await new Promise(resolve => setImmediate(resolve))
  await t.rejects(here.handOver(), code('BAD_STATE'))
  // The standby may go, its machine stays.
  await there.close()
  t.equal(survivor.state, 'running')
  await toldThere.over
  t.strictSame(toldThere.states, ['listening', 'syncing', 'protected', 'live'])
})

t.test('what the guest says waits for the backup, and comes', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', 'ticks=60')
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  await here.ready
  await machine.start()
  await machine.waitFor('stopped')
  // The guest's own end is no failover; what it said last came when the backup had it.
  await here.waitFor('ended')
  t.match(machine.console.text, /hello from hypertwin[^]*ticks 60/)
  t.match(here, { code: 'GUEST_ENDED' })
  await there.waitFor('listening')
  t.equal(there.machine, undefined)
  t.strictSame(arbiter.asked, [])
})

t.test('the backup is lost: the machine goes on, and is protected again by the next one and the same', { skip }, async t => {
  const arbiter = new TestArbiter()
  const first = await standby(t, { arbiter })
  const second = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: [first.listen, second.listen], arbiter })
  const told = new Told(here)
  await here.ready
  t.equal(here.backup, first.listen)
  await first.close()
  const lost = await told.find('state', event => event.state === 'unprotected')
  t.match(lost, { code: 'CLOSED', message: /backup gave up/ })
  await told.find('state', event => event.state === 'protected' && event.peer === second.listen)
  t.equal(machine.state, 'running')
  t.equal(arbiter.asked.length, 0, 'a goodbye needs no arbiter')
  await second.close()
  await told.find('state', event => event.state === 'unprotected' && event.at > lost.at)
  // Nobody is there now; then somebody is.
  await told.find('retry')
  await told.find('attempt-failed', event => event.address === second.listen && event.code === 'PEER_UNREACHABLE')
  const again = await standby(t, { arbiter, listen: first.listen })
  await here.ready
  await again.waitFor('protected')
  t.equal(here.backup, first.listen)
  await here.close()
  t.match(here, { state: 'ended', code: 'CLOSED' })
  t.equal(machine.state, 'running')
  await again.waitFor('listening')
  t.match(again, { code: 'CLOSED' })
})

t.test('the policy to stop without a backup', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter, onLoss: 'stop' })
  await here.ready
  await there.close()
  await machine.waitFor('paused')
  t.equal(machine.reason, 'unprotected')
  const again = await standby(t, { arbiter, listen: there.listen })
  await machine.waitFor('running')
  t.equal(here.state, 'protected')
  t.equal(again.state, 'protected')
})

t.test('without re-protection', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter, reprotect: false })
  await here.ready
  await there.close()
  await here.waitFor('ended')
  t.equal(machine.state, 'running')
  await t.rejects(here.ready, code('ENDED'))
  await t.rejects(here.waitFor('protected'), code('ENDED'))
  await protection(t, machine, { backup: (await standby(t, { arbiter })).listen, arbiter })
})

t.test('a standby follows one primary at a time', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const [one, two] = [await guest(t, 'hello', endless), await guest(t, 'hello', endless)]
  await one.start()
  await two.start()
  const first = await protection(t, one, { backup: there.listen, arbiter })
  await first.ready
  const second = await protection(t, two, { backup: there.listen, arbiter })
  const told = new Told(second)
  t.match(await told.find('attempt-failed'), { message: /backup of another primary/ })
  t.equal(first.state, 'protected')
  await first.close()
  await second.ready
  t.equal(there.session, second.session)
})

t.test('disks: the copy is made where the backup is told, and written on both sides', { skip }, async t => {
  const folder = scratch(t)
  const arbiter = new TestArbiter()
  const { createMailroom, connectMailroom } = await import('../../lib/cli/mailroom/boot.js')
  const copy = path.join(folder, 'copy.img')
  const there = await standby(t, { arbiter, disks: [copy], taps: [null] })
  const machine = await createMailroom({ disk: path.join(folder, 'mail.img'), memory: '16MiB', diskSize: 8 << 20 })
  t.teardown(() => machine.close())
  await machine.start()
  const client = await connectMailroom(machine)
  t.teardown(() => client.close())
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  await here.ready
  t.ok(existsSync(copy))
  t.equal(statSync(copy).size, 8 << 20)
  const { MailLoad } = await import('../../lib/cli/mailroom/load.js')
  const load = new MailLoad(client, { users: 5 })
  await load.login()
  load.start()
  while (load.operations < 200) await new Promise(resolve => setTimeout(resolve, 5))
  await load.stop()
  t.match(await load.verify(), { lost: 0, surplus: 0 })
  t.ok(here.stats().releasedOutputs > 200n)
  t.equal(here.state, 'protected')
  // More disks than the machine has: the primary is told why.
  const wrong = await standby(t, { arbiter, disks: [copy, copy] })
  await here.close()
  const other = await protection(t, machine, { backup: wrong.listen, arbiter, reprotect: false })
  await t.rejects(other.ready, code('ENDED'))
  t.match(other.message, /1 disks/)
})

t.test('UNIX sockets; TLS', { skip }, async t => {
  const folder = scratch(t)
  const arbiter = new TestArbiter()
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const local = await standby(t, { arbiter, listen: `unix:${path.join(folder, 'ha.sock')}` })
  const here = await protection(t, machine, { backup: local.listen, arbiter })
  await here.ready
  await here.close()
  if (noOpenssl) return t.comment(`TLS is not tried: ${noOpenssl}`)
  const tls = tlsIn(folder, '127.0.0.1')
  const there = await standby(t, { arbiter, tls })
  const told = new Told(there)
  await t.rejects(
    protection(t, machine, { backup: there.listen, arbiter, tls: tlsIn(scratch(t), '127.0.0.1') }),
    code('TLS_FAILED')
  )
  await told.find('refused')
  const secured = await protection(t, machine, { backup: there.listen, arbiter, tls })
  await secured.ready
  // The other side hears of it a moment later.
  while (there.state === 'syncing') await new Promise(resolve => setTimeout(resolve, 5))
  t.equal(there.state, 'protected')
})

t.test('arguments that cannot be', { skip }, async t => {
  const arbiter = new TestArbiter()
  const machine = await guest(t, 'hello', endless)
  const good = { backup: 'tcp://127.0.0.1:1', arbiter }
  for (const [bad, expected] of [
    [{ ...good, backup: 'somewhere' }, 'BAD_ADDRESS'],
    [{ ...good, backup: [] }, 'EINVAL'],
    [{ backup: good.backup }, 'EINVAL'],
    [{ ...good, arbiter: {} }, 'EINVAL'],
    [{ ...good, maxLagMs: 'much' }, 'EINVAL'],
    [{ ...good, onLoss: 'cry' }, 'EINVAL'],
    [{ ...good, heartbeat: { intervalMs: 10, minTimeoutMs: 11 } }, 'EINVAL'],
    [{ ...good, heartbeat: { minTimeoutMs: 100, maxTimeoutMs: 50 } }, 'EINVAL'],
    [{ ...good, sync: { bandwidth: 'plenty' } }, 'EINVAL'],
    [{ ...good, sync: { maxRounds: 0 } }, 'EINVAL'],
    [{ ...good, tls: { ca: 'x', cert: 'y', key: 'z' } }, 'EINVAL'],
    [{ ...good, connectTimeoutMs: 3000 }, 'PEER_UNREACHABLE'],
    [{ ...good, backup: 'tcp://no.such.host.invalid:1' }, 'PEER_UNREACHABLE']
  ] as const) {
    const error: unknown = await protect(machine, bad as never).catch((error: unknown) => error)
    t.type(error, HaError)
    t.match(error, { code: expected }, JSON.stringify(bad))
    t.ok((error as Error).message.length > 10)
  }
  await t.rejects(protect({} as never, good), code('EINVAL'))
  for (const [bad, expected] of [
    [{ arbiter }, 'EINVAL'],
    [{ arbiter, listen: 'here' }, 'BAD_ADDRESS'],
    [{ listen: 'tcp://127.0.0.1:0' }, 'EINVAL'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', disks: 'a' }, 'EINVAL'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', diskFolders: 'a' }, 'EINVAL'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', taps: [7] }, 'EINVAL'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', device: '/nonexistent/kvm' }, 'ENOENT'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', pool: ['x'] }, 'BAD_ADDRESS'],
    [{ arbiter, listen: 'tcp://127.0.0.1:0', protection: { maxLagMs: -1 }, pool: ['tcp://h:1'] }, 'EINVAL']
  ] as const)
    await t.rejects(backup(bad as never), code(expected), JSON.stringify(bad))
  const there = await standby(t, { arbiter })
  await t.rejects(backup({ listen: there.listen, arbiter }), code('EADDRINUSE'))
})

t.test('machines that cannot be protected', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const options = { backup: there.listen, arbiter }
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const recording = await Recording.start(machine, path.join(scratch(t), 'log'))
  await t.rejects(protection(t, machine, options).then(it => it.ready), { code: /BAD_STATE|ENDED/ })
  await recording.stop()
  const here = await protection(t, machine, options)
  await t.rejects(protect(machine, options), code('BAD_STATE'))
  await here.ready
  await t.rejects(Recording.start(machine, path.join(scratch(t), 'log2')), code('BAD_STATE'))
  await here.close()
  await here.close()
  await machine.stop()
  await t.rejects(protect(machine, options), code('BAD_STATE'))
  await machine.close()
  await t.rejects(protect(machine, options), code('CLOSED'))
})

t.test('an arbiter that does not answer is said before it matters', { skip }, async t => {
  const arbiter = new FileArbiter(path.join(scratch(t), 'nothing'))
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  for (const side of [here, there]) {
    while (!side.status().events.some(event => /arbiter/.test(event.text))) await new Promise(resolve => setImmediate(resolve))
  }
})

t.test('a slow consumer of events', { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  const slow = here.events({ limit: 3 })
  await here.ready
  await here.close()
  const seen = []
  for await (const event of slow) seen.push(event)
  t.ok(seen.length <= 3)
  t.match(seen[0], { type: 'dropped', count: Number })
  t.match(seen.at(-1), { type: 'state', state: 'ended' })
  const gone = new AbortController()
  gone.abort(new Error('enough'))
  await t.rejects(there.events({ signal: gone.signal }).next(), /enough/)
})
