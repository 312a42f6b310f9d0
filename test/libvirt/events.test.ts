// Events as async iterables: order, bounds, ends; a connection that is lost and comes back.
import { getEventListeners } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import { addon } from '../../lib/libvirt/addon.js'
import type { DomainEventType} from '../../lib/libvirt/index.js';
import { Connect, ConnectCloseReason, type EventStream, type LibvirtError, watchEvents } from '../../lib/libvirt/index.js'
import { Daemon, noDaemon } from './daemon.js'
import { failure, noLibvirt as skip, testHost } from './support.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

async function host(t: Test): Promise<{ connect: Connect; flip: (times?: number) => Promise<void> }> {
  const connect = await testHost()
  t.teardown(() => connect.close())
  const domain = await connect.domainLookupByName('test')
  const flip = async (times = 1): Promise<void> => {
    for (let i = 0; i < times; i++) {
      await domain.suspend()
      await domain.resume()
    }
  }
  return { connect, flip }
}

async function take<T>(stream: EventStream<T>, count: number): Promise<T[]> {
  const out: T[] = []
  while (out.length < count) {
    const { done, value } = await stream.next()
    if (done) throw new Error(`it ended after ${out.length}`)
    out.push(value)
  }
  return out
}

t.test('events come typed, in order and with their object', { skip }, async t => {
  const { connect, flip } = await host(t)
  const events = connect.events('domain.lifecycle')
  await events.ready
  await flip(3)
  const got = await take(events, 6)
  t.strictSame(
    got.map(event => (event.kind === 'dropped' ? 'dropped' : event.args.event)),
    [3, 4, 3, 4, 3, 4].map(value => value as DomainEventType)
  )
  t.strictSame(got.map(event => event.sequence), [1, 2, 3, 4, 5, 6])
  for (const event of got) {
    if (event.kind === 'dropped') throw new Error('nothing was dropped')
    t.equal(await event.domain.getName(), 'test')
    t.ok(Math.abs(event.time - Date.now()) < 60_000)
  }
  await events.return()
  t.strictSame(await events.next(), { done: true, value: undefined })
})

t.test('several kinds in one iteration, of one domain only', { skip }, async t => {
  const { connect, flip } = await host(t)
  const other = await connect.domainDefineXML('<domain type="test"><name>other</name><memory>65536</memory><os><type>hvm</type></os></domain>')
  const events = connect.events(['domain.lifecycle', 'network.lifecycle', 'storagePool.refresh', 'domain.lifecycle'], { domain: other })
  await events.ready
  await flip()
  await other.create()
  await (await connect.storagePoolLookupByName('default-pool')).refresh()
  await (await connect.networkLookupByName('default')).destroy()
  const got = await take(events, 3)
  t.strictSame(got.map(event => event.kind).sort(), ['domain.lifecycle', 'network.lifecycle', 'storagePool.refresh'])
  for (const event of got) {
    if (event.kind === 'domain.lifecycle') t.equal(await event.domain.getName(), 'other')
    if (event.kind === 'network.lifecycle') t.equal(await event.network.getName(), 'default')
    if (event.kind === 'storagePool.refresh') t.equal(await event.pool.getName(), 'default-pool')
  }
  await events.return()
})

t.test('the oldest are dropped and counted', { skip }, async t => {
  const { connect, flip } = await host(t)
  const events = connect.events('domain.lifecycle', { limit: 4 })
  const control = connect.events('domain.lifecycle')
  await Promise.all([events.ready, control.ready])
  await flip(5)
  await take(control, 10)
  const got = await take(events, 5)
  t.match(got[0], { kind: 'dropped', count: 6, sequence: 6 })
  t.strictSame(got.slice(1).map(event => event.sequence), [7, 8, 9, 10])
  await flip()
  t.strictSame((await take(events, 2)).map(event => event.sequence), [11, 12])
  await Promise.all([events.return(), control.return()])
})

t.test('break, the signal and close() end it', { skip }, async t => {
  const { connect, flip } = await host(t)
  const broken = connect.events('domain.lifecycle')
  await broken.ready
  await flip()
  for await (const event of broken) {
    t.equal(event.kind, 'domain.lifecycle')
    break
  }
  t.strictSame(await broken.next(), { done: true, value: undefined })
  const controller = new AbortController()
  const aborted = connect.events('domain.lifecycle', { signal: controller.signal })
  await aborted.ready
  const reason = new Error('enough')
  const waiting = aborted.next()
  controller.abort(reason)
  await t.rejects(waiting, reason)
  t.strictSame(await aborted.next(), { done: true, value: undefined })
  const already = connect.events('domain.lifecycle', { signal: AbortSignal.abort(reason) })
  await t.rejects(already.ready, reason)
  await t.rejects(already.next(), reason)
  const early = new AbortController()
  const starting = connect.events('domain.lifecycle', { signal: early.signal })
  early.abort(reason)
  await t.rejects(starting.ready, reason, 'it is not ready first')
  let opened = false
  const watch = watchEvents(() => ((opened = true), testHost()), 'domain.lifecycle', { signal: AbortSignal.abort(reason) })
  await t.rejects(watch.next(), reason)
  t.equal(opened, false)
  const closed = connect.events('domain.lifecycle')
  await closed.ready
  await flip()
  const first = await closed.next()
  t.equal(first.done, false)
  await connect.close()
  let left = 0
  while (!(await closed.next()).done) left++
  t.ok(left <= 1, 'what was on its way may come, then it is over')
  t.equal((await failure(t, () => connect.events('domain.lifecycle').next())).code, 'CLOSED')
})

t.test('what cannot be is refused', { skip }, async t => {
  const { connect } = await host(t)
  const code = (body: () => unknown): string | undefined => {
    try {
      body()
    } catch (error) {
      return (error as LibvirtError).code
    }
    return undefined
  }
  t.equal(code(() => connect.events('domain.party' as 'domain.reboot')), 'EINVAL')
  t.equal(code(() => connect.events('domain.reboot', { limit: 0 })), 'EINVAL')
  t.equal(code(() => connect.events('domain.reboot', { limit: 1.5 })), 'EINVAL')
  const qemu = await failure(t, () => connect.events('qemu.monitor').next())
  t.equal(qemu.code, 'VIR_ERR_NO_SUPPORT')
  const mixed = connect.events(['domain.lifecycle', 'qemu.monitor'])
  t.equal((await failure(t, () => mixed.ready)).code, 'VIR_ERR_NO_SUPPORT', 'one that cannot be ends all')
  await failure(t, () => mixed.next())
})

t.test('callbacks as libvirt has them', { skip }, async t => {
  const { connect, flip } = await host(t)
  const seen: number[] = []
  let third: () => void = () => undefined
  const there = new Promise<void>(resolve => (third = resolve))
  const id = await connect.domainEventRegisterAny(undefined, 'lifecycle', event => {
    if (seen.push(event.args.event) === 4) third()
  })
  await flip(2)
  await there
  await connect.domainEventDeregisterAny(id)
  await connect.domainEventDeregisterAny(id)
  await flip()
  t.strictSame(seen, [3, 4, 3, 4])
})

t.test('1000 subscriptions leave nothing', { skip }, async t => {
  const { connect } = await host(t)
  // What the tests before have dropped goes first.
  for (let i = 0; i < 10; i++) {
    gc()
    await new Promise(resolve => setImmediate(resolve))
  }
  while (addon.libvirtUsage().running + addon.libvirtUsage().waiting > 0) await new Promise(resolve => setImmediate(resolve))
  const before = addon.libvirtUsage().handles
  for (let i = 0; i < 20; i++) {
    const all = Array.from({ length: 50 }, () => connect.events('domain.lifecycle'))
    await Promise.all(all.map((stream, n) => (n % 2 ? stream.ready : Promise.resolve())))
    await Promise.all(all.map(stream => stream.return()))
  }
  // Fewer: what earlier tests left has been collected meanwhile.
  const after = addon.libvirtUsage().handles
  t.ok(after <= before, `${after} handles, ${before} before`)
})

t.test('a callback that throws does not cost the others of its batch', { skip }, async t => {
  const { connect, flip } = await host(t)
  const thrown: unknown[] = []
  const microtask = globalThis.queueMicrotask
  t.teardown(() => (globalThis.queueMicrotask = microtask))
  globalThis.queueMicrotask = body =>
    microtask(() => {
      try {
        body()
      } catch (error) {
        thrown.push(error)
      }
    })
  const seen: number[] = []
  let last: () => void = () => undefined
  const there = new Promise<void>(resolve => (last = resolve))
  const mistake = new Error('a mistake')
  const id = await connect.domainEventRegisterAny(undefined, 'lifecycle', event => {
    if (seen.push(event.sequence) === 20) last()
    throw mistake
  })
  await flip(10)
  await there
  await connect.domainEventDeregisterAny(id)
  t.strictSame(seen, Array.from({ length: 20 }, (_, n) => n + 1))
  t.equal(thrown.filter(error => error === mistake).length, 20, 'and is told of as uncaught')
})

t.test('several may wait for the next one', { skip }, async t => {
  const { connect, flip } = await host(t)
  const events = connect.events('domain.lifecycle')
  await events.ready
  const first = [events.next(), events.next()]
  await flip()
  t.strictSame((await Promise.all(first)).map(({ value }) => value?.sequence), [1, 2])
  const last = [events.next(), events.next(), events.next()]
  await events.return()
  t.strictSame((await Promise.all(last)).map(({ done }) => done), [true, true, true])
})

t.test('a daemon that dies ends the iteration with an error, after what came before', { skip: noDaemon }, async t => {
  const daemon = await Daemon.start(t)
  const connect = await Connect.open(daemon.uri())
  t.teardown(() => connect.close())
  const reasons: number[] = []
  for (let i = 0; i < 2; i++) await connect.registerCloseCallback(event => reasons.push(event.args.reason))
  const { signal } = new AbortController()
  const events = connect.events('domain.lifecycle', { signal })
  await events.ready
  const others = connect.events('domain.lifecycle')
  await others.ready
  const domain = await connect.domainLookupByName('test')
  await domain.suspend()
  await domain.resume()
  t.match(await events.next(), { value: { args: { event: 3 } } })
  for (const event of [3, 4]) t.match(await others.next(), { value: { args: { event } } })
  await others.return()
  await daemon.kill()
  t.match(await events.next(), { value: { args: { event: 4 } } })
  const error = await failure(t, () => events.next())
  t.equal(error.code, 'CONNECTION_LOST')
  t.match(error.message, /its end at the other side/)
  t.equal(getEventListeners(signal, 'abort').length, 0, 'it has let go of everything')
  t.strictSame(await events.next(), { done: true, value: undefined })
  t.strictSame(reasons, [ConnectCloseReason.EOF, ConnectCloseReason.EOF], 'both close callbacks heard it')
  t.match((await failure(t, () => domain.getInfo())).code, /^VIR_ERR_/)
})

t.test('keepalive notices a daemon that says nothing', { skip: noDaemon }, async t => {
  const daemon = await Daemon.start(t)
  const connect = await Connect.open(daemon.uri(), { keepalive: { interval: 1, count: 1 } })
  t.teardown(() => connect.close())
  const events = connect.events('domain.lifecycle')
  await events.ready
  daemon.freeze()
  const call = failure(t, () => connect.listAllDomains())
  const error = await failure(t, () => events.next())
  t.equal(error.code, 'CONNECTION_LOST')
  t.match(error.message, /no sign of life/)
  t.match((await call).code, /^VIR_ERR_/, 'the call that waited has failed')
})

t.test('a watch opens the connection again and tells of the gap', { skip: noDaemon }, async t => {
  const daemon = await Daemon.start(t)
  const told: string[] = []
  let opened = 0
  const open = (): Promise<Connect> => {
    opened++
    return Connect.open(daemon.uri())
  }
  const watch = watchEvents(open, 'domain.lifecycle', { minDelayMs: 10, maxDelayMs: 50 })
  const flip = async (connect: Connect): Promise<void> => {
    const domain = await connect.domainLookupByName('test')
    await domain.suspend()
    await domain.resume()
  }
  for await (const event of watch) {
    told.push(event.kind === 'domain.lifecycle' ? String(event.args.event) : event.kind)
    if (event.kind === 'open') await flip(event.connect)
    else if (event.kind === 'gap') {
      t.ok(event.attempts >= 1 && event.until >= event.since)
      t.match(event.reason, { code: 'CONNECTION_LOST' })
      await flip(event.connect)
    } else if (told.length === 3) {
      await daemon.kill()
      await daemon.start()
    } else if (told.length === 6) break
  }
  t.strictSame(told, ['open', '3', '4', 'gap', '3', '4'])
  t.ok(opened >= 2)
  const impatient = watchEvents(open, 'domain.lifecycle', { reconnect: false })
  t.match((await impatient.next()).value, { kind: 'open' })
  await daemon.kill()
  await t.rejects(impatient.next(), { code: 'CONNECTION_LOST' })
  await t.rejects(watchEvents(open, 'domain.lifecycle').next(), { code: 'VIR_ERR_SYSTEM_ERROR' }, 'the first must succeed')
  const controller = new AbortController()
  await daemon.start()
  const ended = watchEvents(open, 'domain.lifecycle', { signal: controller.signal })
  await ended.next()
  await daemon.kill()
  const next = ended.next()
  controller.abort(new Error('enough'))
  await t.rejects(next, { message: 'enough' })
})
