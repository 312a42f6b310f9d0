// The mailroom's client and the load, over frames, against a mailroom that can be told to misbehave.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import t, { type Test } from "tap"
import { MailroomClient } from '../../lib/cli/mailroom/client.js'
import { FrameLink, SocketLink } from '../../lib/cli/mailroom/link.js'
import { MailLoad } from '../../lib/cli/mailroom/load.js'
import { MAILROOM_PORT, Reply } from '../../lib/cli/mailroom/protocol.js'
import { FakeMailroom, udpChecksum, type Faults } from './fake_mailroom.js'

async function connect(t: Test, faults: Faults = {}, options = {}) {
  const room = new FakeMailroom(faults)
  const link = new FrameLink(room, { guestPort: MAILROOM_PORT })
  const client = new MailroomClient(link, { timeout: 20, ...options })
  t.teardown(() => client.close())
  await link.ready(5000)
  return { room, link, client }
}

/** Runs a load until it has done so many operations. */
async function run(client: MailroomClient, operations: number, options = {}) {
  const load = new MailLoad(client, { users: 8, ...options })
  await load.login()
  load.start()
  while (load.operations < operations) await new Promise(resolve => setImmediate(resolve))
  await load.stop()
  return load
}

t.test('one user does everything', async t => {
  const { client } = await connect(t)
  const [ann, bob] = [client.user(3), client.user(255)]
  await ann.login()
  await bob.login()
  const id = await ann.send(255, Buffer.from('hello, Bob'))
  t.same(await bob.list(), { total: 1, entries: [{ id, from: 3, size: 10, flags: 0 }] })
  await bob.flag(id, 255)
  const mail = await bob.read(id)
  t.equal(mail.body.toString(), 'hello, Bob')
  t.equal(mail.from, 3)
  t.equal(mail.flags, 255)
  await bob.delete(id)
  t.same(await bob.list(), { total: 0, entries: [] })
  await t.rejects(bob.read(id), { code: 'REFUSED', message: /noSuchMail/ })
  t.same((await client.digest()).operations, 9n)
  t.throws(() => client.user(256), RangeError)
})

t.test('a client that comes after another goes on with its sequence numbers', async t => {
  const { room, client } = await connect(t)
  await client.user(1).login()
  await client.user(1).send(1, Buffer.from('x'))
  client.close()
  const link = new FrameLink(room, { guestPort: MAILROOM_PORT })
  const second = new MailroomClient(link, { timeout: 20 })
  t.teardown(() => second.close())
  await link.ready(5000)
  await second.user(1).login()
  t.equal((await second.user(1).list()).total, 1)
})

t.test('what is lost on the way is sent again and done once', async t => {
  const { client, room } = await connect(t, {
    dropReply: n => n % 5 === 1,
    repeatReply: n => n % 7 === 0,
    garble: n => n % 11 === 3
  })
  const load = await run(client, 300)
  const stats = load.stats()
  t.ok(stats.retransmissions > 0)
  t.ok(room.requests > stats.operations)
  t.equal(stats.acknowledged, stats.operations)
  t.equal(stats.errors, 0)
  t.match(await load.verify(), { lost: 0, surplus: 0, problems: [] })
})

t.test('the load counts, measures and verifies', async t => {
  const { client } = await connect(t)
  const load = await run(client, 2000)
  const stats = load.stats()
  t.equal(
    Object.values(stats.byOperation).reduce((a, b) => a + b),
    stats.operations
  )
  t.equal(stats.byOperation.login, 8)
  for (const op of ['list', 'read', 'send', 'flag', 'delete'] as const) t.ok(stats.byOperation[op] > 0, op)
  t.equal(stats.latency.all.count, stats.operations)
  t.ok(stats.latency.all.p50 <= stats.latency.all.p99 && stats.latency.all.p99 <= stats.latency.all.max)
  const verdict = await load.verify()
  t.match(verdict, { lost: 0, surplus: 0, problems: [] })
  t.ok(verdict.mails > 0)
})

for (const [op, name] of [
  [4, 'send'],
  [5, 'flag'],
  [6, 'delete']
] as const)
  t.test(`a ${name} that is acknowledged but not done is found`, async t => {
    let armed = false
    let planted = 0
    const { client } = await connect(t, { forget: o => armed && o === op && planted++ === 0 })
    // Only this operation from here on, so that nothing later covers it up.
    const load = await run(client, 400)
    const before = await load.verify()
    t.equal(before.lost + before.surplus, 0)
    armed = true
    load.start()
    while (planted === 0) await new Promise(resolve => setImmediate(resolve))
    await load.stop()
    const after = await load.verify()
    t.ok(after.lost + after.surplus + load.stats().errors > 0, after.problems.join('; '))
    t.ok(after.problems.length > 0)
  })

t.test('an operation given up leaves either outcome right', async t => {
  let dead = false
  const { client } = await connect(t, { dropReply: () => dead }, { timeout: 5, attempts: 2 })
  const load = await run(client, 400)
  dead = true
  load.start()
  while (load.stats().unanswered < 20) await new Promise(resolve => setImmediate(resolve))
  await load.stop()
  dead = false
  t.match(await load.verify(), { lost: 0, surplus: 0, problems: [] })
})

t.test('a client that is closed ends the load', async t => {
  let dead = false
  const { client } = await connect(t, { dropReply: () => dead }, { timeout: 60_000 })
  const load = await run(client, 100)
  dead = true
  load.start()
  setImmediate(() => client.close())
  while (load.stats().unanswered < 8) await new Promise(resolve => setImmediate(resolve))
  await load.stop()
  t.equal(load.stats().unanswered, 8)
  await t.rejects(load.verify(), { code: 'NO_ANSWER' })
})

t.test('the same seed draws the same', async t => {
  const draw = async (seed: number) => {
    const { client, room } = await connect(t)
    await run(client, 200, { users: 1, seed })
    const frames = room.seen.filter(frame => frame.readUInt16BE(12) === 0x0800).map(frame => frame.toString('hex'))
    // On a busy host some are sent once more.
    return [...new Set(frames)].slice(0, 200)
  }
  t.same(await draw(7), await draw(7))
  t.notSame(await draw(7), await draw(8))
})

t.test('frames are well formed, and malformed ones dropped', async t => {
  const { client, room, link } = await connect(t)
  const user = client.user(0)
  await user.login()
  await user.send(0, Buffer.alloc(511, 7))
  const request = room.seen.at(-1)!
  t.equal(request.length, 42 + 32 + 511)
  t.equal(udpChecksum(request), 0)
  t.equal(request.subarray(0, 6).toString('hex'), '525400687401')

  const before = link.malformed
  const bad = [
    Buffer.alloc(0),
    Buffer.alloc(13),
    Buffer.concat([Buffer.alloc(12), Buffer.from([8, 0])]),
    Buffer.concat([Buffer.alloc(12), Buffer.from([8, 0, 0x45, 0, 0xff, 0xff]), Buffer.alloc(20)]),
    Buffer.concat([Buffer.alloc(12), Buffer.from([8, 0, 0x4f, 0, 0, 20]), Buffer.alloc(16)]),
    Buffer.concat([Buffer.alloc(12), Buffer.from([8, 6, 0, 1])])
  ]
  for (const frame of bad) room.deliver(frame)
  await user.list()
  t.equal(link.malformed - before, bad.length)
})

t.test('it answers ARP', async t => {
  const { client, room } = await connect(t)
  const ask = Buffer.alloc(42)
  ask.set([255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0x68, 0x74, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1])
  ask.set([0x52, 0x54, 0, 0x68, 0x74, 1, 10, 77, 0, 2, 0, 0, 0, 0, 0, 0, 10, 77, 0, 1], 22)
  room.deliver(ask)
  await client.user(0).login()
  const answer = room.seen.find(frame => frame.readUInt16BE(12) === 0x0806 && frame.readUInt16BE(20) === 2)
  t.equal(answer?.subarray(28, 32).join('.'), '10.77.0.1')
  t.equal(answer?.subarray(38, 42).join('.'), '10.77.0.2')
})

t.test('replies of every length are judged before they are used', async t => {
  const good = Buffer.alloc(44)
  good.writeUInt32LE(0x504d5448, 0)
  good[4] = 1
  good.writeUInt16LE(12, 18)
  const reply = new Reply()
  t.ok(reply.decode(good, 0, 44))
  t.throws(() => reply.entries(), { code: 'BAD_REPLY' })
  for (let size = 0; size < 44; size++) t.notOk(reply.decode(good, 0, size))
  t.notOk(reply.decode(good, 1, 44))
  for (const at of [0, 4, 18, 15, 31]) {
    const bad = Buffer.from(good)
    bad[at]! ^= 0x80
    t.notOk(reply.decode(bad, 0, 44), `byte ${at}`)
  }
})

t.test('a guest that never answers', async t => {
  const room = new FakeMailroom()
  room.send = () => true
  const link = new FrameLink(room, { guestPort: MAILROOM_PORT })
  await t.rejects(link.ready(30), { code: 'NO_ANSWER' })
  const abort = new AbortController()
  const ready = link.ready(60_000, abort.signal)
  abort.abort()
  await t.rejects(ready, { name: 'AbortError' })
  const client = new MailroomClient(link, { timeout: 4, attempts: 2 })
  t.teardown(() => client.close())
  await t.rejects(client.user(0).login(), { code: 'NO_ANSWER' })
})

t.test('the same over a socket', async t => {
  const server = createSocket('udp4').bind(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  let copies = 0
  server.on('message', (message, from) => {
    if (copies++ === 0) return // lost
    const reply = Buffer.alloc(32)
    message.copy(reply, 4, 4, 16)
    reply.writeUInt32LE(0x504d5448, 0)
    reply.writeUInt32LE(42, 20)
    server.send(reply, from.port, from.address)
  })
  const link = new SocketLink('127.0.0.1', server.address().port)
  const client = new MailroomClient(link, { timeout: 20 })
  t.teardown(() => client.close())
  await link.ready()
  await client.user(5).login()
  t.equal(client.user(5).session, 42)
  t.ok(client.retransmissions > 0)
})
