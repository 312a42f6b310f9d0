// Migration when all goes well, over each transport, with each option, and what it tells of itself.
import { mkdirSync, statSync, symlinkSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { createMailroom, packetPort } from '../../lib/cli/mailroom/boot.js'
import { MailroomClient } from '../../lib/cli/mailroom/client.js'
import { FrameLink } from '../../lib/cli/mailroom/link.js'
import { MailLoad } from '../../lib/cli/mailroom/load.js'
import { MAILROOM_PORT } from '../../lib/cli/mailroom/protocol.js'
import { RoamingPort } from '../../lib/cli/mailroom/roaming.js'
import { migrate, type MigrationProgress } from '../../lib/migrate/index.js'
import { endless, guest, listener, move, noKvm as skip, noOpenssl, Peer, scratch, tlsIn } from './support.js'

for (const transport of ['tcp', 'unix', 'tls', 'tls over unix'])
  t.test(`a running machine moves by ${transport}`, { skip: skip || (transport.startsWith('tls') && noOpenssl) }, async t => {
    const folder = scratch(t)
    const tls = transport.startsWith('tls') ? { ...tlsIn(folder), servername: 'localhost' } : undefined
    const secure = tls ? { tls } : {}
    const address = transport.endsWith('unix') ? `unix:${path.join(folder, 'socket')}` : 'tcp://127.0.0.1:0'
    const to = await listener(t, secure, address)
    const machine = await guest(t, 'hello', endless)
    await machine.start()
    const { result, received, incoming } = await move(t, machine, to, secure)
    t.match([machine.state, machine.reason], ['stopped', 'migrated'])
    t.equal(received.machine.state, 'running')
    t.strictSame(received.digest, result.digest)
    t.match(result.session, /^[0-9a-f]{32}$/)
    t.equal(received.session, result.session)
    t.ok(result.blackoutMs > 0 && result.blackoutMs < result.totalMs)
    t.match(incoming.peer, address.startsWith('unix') ? /unix/ : /127\.0\.0\.1/)
    const before = result.digest.boundary
    // It goes on where it was.
    while (received.machine.boundary < before + 20n) await new Promise(resolve => setTimeout(resolve, 5))
    t.match(received.machine.console.text, /^(ticks \d+\n)*/)
  })

t.test('a machine goes on to a third place', { skip }, async t => {
  const to = await listener(t)
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const second = (await move(t, machine, to)).received.machine
  const third = (await move(t, second, to)).received.machine
  t.equal(second.reason, 'migrated')
  t.equal(third.state, 'running')
  await third.stop()
  t.equal(third.reason, 'requested')
})

t.test('a paused machine arrives paused, with every register and byte', { skip }, async t => {
  const to = await listener(t)
  const machine = await guest(t, 'dirtier', 'base=8M rounds=0 pages=200 stay=1')
  await machine.start()
  await new Promise(resolve => setTimeout(resolve, 50))
  await machine.pause()
  const [digest, registers] = [await machine.stateDigest(), await machine.registers()]
  const memory = machine.memory.read(0n, machine.memory.size)
  const { result, received } = await move(t, machine, to)
  t.equal(received.machine.state, 'paused')
  t.strictSame(result.digest, digest)
  t.strictSame(await received.machine.stateDigest(), digest)
  t.strictSame(await received.machine.registers(), registers)
  t.ok(received.machine.memory.read(0n, memory.length).equals(memory))
  await received.machine.resume()
  t.equal(received.machine.state, 'running')
})

t.test('startPaused, for this one', { skip }, async t => {
  const to = await listener(t)
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const accepted = to.accept({ startPaused: true })
  const migration = migrate(machine, to.address)
  const { machine: there } = await (await accepted).done
  await migration.done
  t.equal(there.state, 'paused')
})

t.test('with an arbiter that both sides ask', { skip }, async t => {
  const folder = scratch(t)
  const to = await listener(t, { arbiter: new FileArbiter(folder) })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const { result } = await move(t, machine, to, { arbiter: new FileArbiter(folder) })
  t.equal(await new FileArbiter(folder).claim(result.session, 'source'), 'lost')
})

t.test('every option alone changes nothing of what arrives', { skip }, async t => {
  const to = await listener(t)
  for (const options of [
    { compress: false },
    { delta: false },
    { compress: false, delta: false },
    { deltaCache: 0 },
    { verifyMemory: false },
    { maxRounds: 1 },
    { maxBlackoutMs: 0, maxRounds: 3 },
    { maxBlackoutMs: 10_000 },
    { bandwidth: '100MiB' }
  ]) {
    const machine = await guest(t, 'dirtier', 'base=8M rounds=0 pages=300')
    await machine.start()
    const { result, received } = await move(t, machine, to, options)
    await received.machine.pause()
    const at = JSON.stringify(options)
    t.equal(received.machine.state, 'paused', at)
    t.equal(result.rounds.at(-1)?.round, result.progress.round, at)
    if (options.compress === false) t.equal(result.progress.compressedPages, 0, at)
    if (options.delta === false || options.deltaCache === 0) t.equal(result.progress.deltaPages, 0, at)
    if (options.maxRounds !== undefined) t.ok(result.rounds.length <= options.maxRounds + 1, at)
    await received.machine.close()
    await machine.close()
  }
})

t.test('it tells how far it is', { skip }, async t => {
  const to = await listener(t)
  const machine = await guest(t, 'dirtier', 'base=8M rounds=0 pages=500')
  await machine.start()
  const accepted = to.accept()
  // Slow enough for the guest to write in each round, and for each to be told.
  const migration = migrate(machine, to.address, { maxBlackoutMs: 0, maxRounds: 4, compress: false, bandwidth: '16MiB' })
  const seen: MigrationProgress[] = []
  const watching = (async () => {
    for await (const progress of migration) seen.push(progress)
  })()
  const incoming = await accepted
  const there: MigrationProgress[] = []
  for await (const progress of incoming) there.push(progress)
  const result = await migration.done
  t.teardown(async () => (await incoming.done).machine.close())
  await watching
  t.strictSame(
    [...new Set(seen.map(({ phase }) => phase))],
    ['connect', 'memory', 'stop', 'commit', 'done'].filter(phase => seen.some(one => one.phase === phase))
  )
  t.strictSame(seen.at(-1), result.progress)
  t.strictSame(migration.progress, result.progress)
  for (const [i, now] of seen.entries()) {
    const before = seen[i - 1]
    if (!before) continue
    t.ok(now.pages >= before.pages && now.bytes >= before.bytes && now.round >= before.round)
  }
  t.ok(seen.some(({ dirtyPagesPerSecond }) => dirtyPagesPerSecond > 0))
  t.ok(seen.some(({ expectedBlackoutMs }) => expectedBlackoutMs > 0))
  const { rounds, progress } = result
  t.strictSame(rounds, migration.rounds)
  t.strictSame(rounds.map(({ round }) => round), rounds.map((_, i) => i + 1))
  const sum = (name: 'pages' | 'zeroPages' | 'rawPages' | 'compressedPages' | 'deltaPages'): number =>
    rounds.reduce((all, round) => all + round[name], 0)
  for (const name of ['pages', 'zeroPages', 'rawPages', 'compressedPages', 'deltaPages'] as const)
    t.equal(sum(name), progress[name], name)
  t.equal(rounds[0]?.pages, 4096, 'the first round is all of the memory')
  t.equal(progress.pages, progress.zeroPages + progress.rawPages + progress.compressedPages + progress.deltaPages)
  t.ok(there.length > 1)
  t.equal(there.at(-1)?.bytes, progress.bytes, 'what was sent was received')
  const later: MigrationProgress[] = []
  for await (const one of migration) later.push(one)
  t.strictSame(later, [result.progress], 'afterwards: how it ended')
})

t.test('a limit of bandwidth holds, and may be changed on the way', { skip }, async t => {
  const to = await listener(t)
  const machine = await guest(t, 'dirtier', 'base=8M rounds=0 pages=1500 pattern=random')
  await machine.start()
  // At 4 KiB a second this would take minutes.
  const accepted = to.accept()
  const migration = migrate(machine, to.address, { bandwidth: 4096, compress: false, maxRounds: 2 })
  t.equal(migration.bandwidth, 4096)
  const incoming = await accepted
  for await (const { phase, bytes } of migration) if (phase === 'memory' && bytes > 0) break
  t.throws(() => (migration.bandwidth = -1), { code: 'EINVAL' })
  migration.bandwidth = '200MiB'
  t.equal(migration.bandwidth, 200 << 20)
  await migration.done
  await (await incoming.done).machine.close()
})

t.test('the disks go along', { skip }, async t => {
  const folder = scratch(t)
  const [here, there] = [path.join(folder, 'here.img'), path.join(folder, 'there.img')]
  const machine = await createMailroom({ disk: here, memory: '16MiB', diskSize: 8 << 20 })
  t.teardown(() => machine.close())
  await machine.start()
  await machine.console.waitFor('mailroom ready')
  const to = await listener(t, { disks: [there] })
  const { result, received } = await move(t, machine, to, { disks: 'copy' })
  t.ok(result.progress.diskBlocks >= 8 * 16)
  t.equal(received.machine.disks[0]?.path, there)
  t.equal(statSync(there).size, 8 << 20)
  await received.machine.close()
})

t.test('the source chooses a disk only where it may', { skip }, async t => {
  const folder = scratch(t)
  const [mine, images] = ['mine', 'images'].map(name => path.join(folder, name)) as [string, string]
  mkdirSync(mine)
  mkdirSync(images)
  symlinkSync(mine, path.join(images, 'link'))
  const disk = path.join(images, 'disk.img')
  const machine = await createMailroom({ disk, memory: '16MiB', diskSize: 8 << 20 })
  t.teardown(() => machine.close())
  await machine.start()
  await machine.console.waitFor('mailroom ready')
  for (const [disks, options] of [
    ['shared', {}],
    ['copy', {}],
    ['shared', { diskFolders: [mine, path.join(images, 'link')] }]
  ] as const) {
    const to = await listener(t, options)
    const accepted = to.accept()
    const migration = migrate(machine, to.address, { disks })
    await t.rejects((await accepted).done, { code: 'BAD_CONFIG', message: /disk\.img.*diskFolders/ })
    await t.rejects(migration.done, { code: 'REFUSED' })
    t.equal(machine.state, 'running')
  }
  const { received } = await move(t, machine, await listener(t, { diskFolders: [mine, images] }))
  t.equal(received.machine.disks[0]?.path, disk)
  await received.machine.close()
})

t.test('mail goes on while the machine moves', { skip }, async t => {
  const folder = scratch(t)
  const disk = path.join(folder, 'disk.img')
  const machine = await createMailroom({ disk, memory: '16MiB', diskSize: 16 << 20 })
  t.teardown(() => machine.close())
  await machine.start()
  const port = new RoamingPort()
  port.attach(packetPort(machine.net(0)))
  const link = new FrameLink(port, { guestPort: MAILROOM_PORT })
  const client = new MailroomClient(link, { timeout: 'adaptive' })
  t.teardown(() => client.close())
  await link.ready(30_000)
  const load = new MailLoad(client, { users: 10 })
  await load.login()
  load.start()
  const to = await listener(t, { diskFolders: [folder] })
  let at = machine
  for (let moves = 0; moves < 3; moves++) {
    const { received } = await move(t, at, to)
    at = received.machine
    port.attach(packetPort(at.net(0)))
    const had = load.stats().acknowledged
    while (load.stats().acknowledged < had + 100) await new Promise(resolve => setTimeout(resolve, 5))
  }
  await load.stop()
  const stats = load.stats()
  const verdict = await load.verify()
  t.strictSame([verdict.lost, verdict.surplus, verdict.problems], [0, 0, []])
  t.equal(stats.unanswered, 0)
  t.equal(stats.errors, 0)
  t.comment(`${stats.acknowledged} operations, ${stats.retransmissions} sent again`)
})

t.test('to another process', { skip }, async t => {
  const there = await Peer.start(t, { role: 'destination', address: 'tcp://127.0.0.1:0' })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const result = await migrate(machine, there.address).done
  const outcome = await there.outcome()
  t.match(outcome, { type: 'done', session: result.session, digest: result.digest.combined, state: 'running' })
  t.match(await there.status(), { state: 'running' })
})
