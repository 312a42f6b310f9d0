// A program on a captured connection, and again on its log: it sees the same, also where there is no libvirt. Damaged
// logs, programs that do something else, disks that are full.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import t, { type Test } from 'tap'
import { captureConnection, ConnectionCapture, replayConnection } from '../../lib/capture/index.js'
import { EventLog, EventLogError, Replay } from '../../lib/eventlog/index.js'
import { Domain, LibvirtError, type Connect } from '../../lib/libvirt/index.js'
import { noLibvirt as skip, testHost } from '../libvirt/support.js'
import { code, scratch } from '../machine/support.js'
import { limit } from '../patience.js'
import { nobody, program } from './program.js'

async function captured(t: Test, body: (connect: Connect) => Promise<unknown>): Promise<string> {
  const log = path.join(scratch(t), 'log')
  await using connect = await testHost()
  await using capture = await captureConnection(connect, log)
  await body(connect)
  await capture.close()
  return log
}

/** What goes wrong, as LibvirtError. */
async function strays(t: Test, body: () => Promise<unknown>): Promise<string> {
  const error: unknown = await body().catch((error: unknown) => error)
  if (!t.type(error, LibvirtError) || !(error instanceof LibvirtError)) return ''
  t.equal(error.code, 'LIBVIRT_REPLAY_STRAYED')
  t.match(error.stack, /capture\.test/, 'it says who called')
  return error.message
}

t.test('a program sees from the log what it saw of libvirt', { skip }, async t => {
  let seen: unknown[] = []
  const log = await captured(t, async connect => (seen = await program(connect)))
  t.ok(seen.length > 15)
  await using replay = await replayConnection(log)
  t.ok(replay.remaining > 20)
  t.strictSame(await program(replay.connect), seen)
  t.equal(replay.remaining, 0)
  replay.finish()
  t.equal(replay.strayed, undefined)

  await using whole = await EventLog.open(log)
  t.match(await whole.verify(), { ok: true, ended: true, chainOk: true })
  t.match(whole.header, { board: 'libvirt-operations', boardVersion: 1 })
  const records = whole.records({ extensions: true })
  for await (const record of records)
    if (record.kind !== 'end') t.match(record, { kind: 'extension', extension: 128n, boundary: record.index })
  t.equal(records.stop, 'end')
  const skipped = []
  for await (const record of whole.records()) skipped.push(record.kind)
  t.strictSame(skipped, ['end'], 'who does not know operations skips them')
})

t.test('without libvirt', { skip }, async t => {
  let seen: unknown[] = []
  const log = await captured(t, async connect => (seen = await program(connect)))
  const folder = scratch(t)
  writeFileSync(path.join(folder, 'libvirt.so.0'), 'no library')
  const child = spawnSync(
    process.execPath,
    [...process.execArgv, fileURLToPath(new URL('child.ts', import.meta.url)), log],
    { encoding: 'utf8', env: { ...process.env, LD_LIBRARY_PATH: folder }, timeout: limit(60_000) }
  )
  t.equal(child.status, 0, child.stderr)
  t.strictSame(JSON.parse(child.stdout), { library: 'LIBVIRT_MISSING', seen: inspect(seen, { depth: 9 }) })
})

t.test('a program that does something else', { skip }, async t => {
  const log = await captured(t, async connect => {
    const domain = await connect.domainLookupByName('test')
    await domain.getInfo()
    await domain.getMaxMemory()
    await connect.close()
  })
  {
    await using replay = await replayConnection(log)
    const said = await strays(t, () => replay.connect.domainLookupByName('other'))
    t.match(said, 'call 1 of the log is virDomainLookupByName(Connect 1, "test"), but the program calls')
    t.match(said, 'virDomainLookupByName(Connect 1, "other")')
    t.equal(await strays(t, () => replay.connect.domainLookupByName('test')), said, 'and so do all calls after')
    t.throws(() => replay.finish(), { code: 'LIBVIRT_REPLAY_STRAYED', message: said })
    await replay.connect.close()
  }
  {
    await using replay = await replayConnection(log)
    const domain = await replay.connect.domainLookupByName('test')
    t.type(domain, Domain)
    t.match(await strays(t, () => domain.destroy()), /is virDomainGetInfo\(Domain 2\).* calls virDomainDestroy\(Domain 2\)/)
  }
  {
    await using replay = await replayConnection(log)
    const domain = await replay.connect.domainLookupByName('test')
    t.match(await strays(t, () => replay.connect.domainLookupByID(domain.closed ? 0 : 7)), 'virDomainLookupByID(Connect 1, 7)')
  }
  {
    await using replay = await replayConnection(log)
    const domain = await replay.connect.domainLookupByName('test')
    t.throws(() => replay.finish(), { code: 'LIBVIRT_REPLAY_STRAYED', message: /3 calls are left, the next is virDomainGetInfo/ })
    await domain.getInfo()
    await domain.getMaxMemory()
    await replay.connect.close()
    replay.finish()
    const late = await domain.getInfo().catch((error: unknown) => error)
    t.match(late, { code: 'LIBVIRT_REPLAY_STRAYED', message: /calls virDomainGetInfo\(Domain 2\), but the log ends here/ })
  }
})

t.test('calls that do not wait for each other may change places', { skip }, async t => {
  let seen: unknown
  const log = await captured(t, async connect => {
    const domain = await connect.domainLookupByName('test')
    seen = await Promise.all([domain.getInfo(), domain.getName(), domain.getMaxMemory()])
  })
  await using replay = await replayConnection(log)
  const domain = await replay.connect.domainLookupByName('test')
  const [memory, name, info] = await Promise.all([domain.getMaxMemory(), domain.getName(), domain.getInfo()])
  t.strictSame([info, name, memory], seen)
  replay.finish()
})

t.test('a torn log is replayed to its last whole record', { skip }, async t => {
  const names = Array.from({ length: 40 }, (_, i) => `domain-${i}`)
  const look = async (connect: Connect): Promise<string[]> => {
    const codes: string[] = []
    for (const name of names)
      try {
        await connect.domainLookupByName(name)
      } catch (error) {
        if (!(error instanceof LibvirtError)) throw error
        if (error.code !== 'VIR_ERR_NO_DOMAIN') throw error
        codes.push(name)
      }
    return codes
  }
  const directory = path.join(scratch(t), 'log')
  await using connect = await testHost()
  await using capture = await captureConnection(connect, directory)
  for (const name of names) {
    await connect.domainLookupByName(name).catch(() => undefined)
    // A block of its own.
    await capture.flush()
  }
  const segment = path.join(directory, '00000001.htlog')
  const whole = readFileSync(segment)
  {
    await using replay = await replayConnection(directory)
    t.equal((await look(replay.connect)).length, names.length, 'one that is still written is replayed as far as it goes')
  }
  truncateSync(segment, whole.length - Math.floor(whole.length / 3))
  {
    await using replay = await replayConnection(directory)
    t.ok(replay.remaining > 15 && replay.remaining < names.length - 5, `${replay.remaining} calls are left of it`)
    t.match(replay.damages, [{ kind: 'torn-tail' }])
    t.match(await strays(t, () => look(replay.connect)), /the log is lost from here on \(.+\)/)
  }
  const damaged = Buffer.from(whole)
  const middle = whole.length >> 1
  damaged[middle] = (damaged[middle] ?? 0) ^ 4
  writeFileSync(segment, damaged)
  {
    await using replay = await replayConnection(directory)
    t.ok(replay.remaining > 10 && replay.remaining < names.length - 10, `${replay.remaining} calls before the damage`)
    t.match(await strays(t, () => look(replay.connect)), /the log is lost from here on/)
  }
  writeFileSync(segment, whole.subarray(0, 40))
  await t.rejects(replayConnection(directory), code('LOG_HEADER_DAMAGED'))
})

t.test('a call without a result in the log', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  await using connect = await testHost()
  const capture = await captureConnection(connect, directory)
  const running = connect.getHostname()
  await capture.close()
  await running
  await using replay = await replayConnection(directory)
  t.match(await strays(t, () => replay.connect.getHostname()), /waits for virConnectGetHostname\(Connect 1\), but the log ends here/)
})

t.test('events that nobody takes end with the log', { skip }, async t => {
  const body = async (connect: Connect): Promise<number> => {
    let count = 0
    const events = connect.events('domain.lifecycle')
    await events.ready
    const domain = await connect.domainLookupByName('test')
    const counted = (async () => {
      for await (const event of events) if (event.kind === 'domain.lifecycle') count++
    })()
    for (let i = 0; i < 20; i++) {
      await domain.suspend()
      await domain.resume()
    }
    // Closing may come before the last.
    while (count < 10) await new Promise(resolve => setImmediate(resolve))
    await connect.close()
    await counted
    return count
  }
  let count = 0
  const log = await captured(t, async connect => (count = await body(connect)))
  t.ok(count <= 40)
  await using replay = await replayConnection(log)
  t.equal(await body(replay.connect), count)
  replay.finish()
})

t.test('large results go over several records', { skip }, async t => {
  const xml = (name: string) =>
    `<domain type='test'><name>${name}</name><description>${'x'.repeat(3 << 20)}</description><memory>65536</memory><os><type>hvm</type></os></domain>`
  const body = async (connect: Connect) => {
    const domain = await connect.domainDefineXML(xml('large'))
    return (await domain.getXMLDesc()).length
  }
  let length = 0
  const log = await captured(t, async connect => (length = await body(connect)))
  t.ok(length > 3 << 20)
  await using replay = await replayConnection(log)
  t.equal(await body(replay.connect), length)
})

t.test('several connections in one log, and objects from before', { skip }, async t => {
  await using a = await testHost()
  await using b = await testHost()
  const before = await b.domainLookupByName('test')
  const directory = path.join(scratch(t), 'log')
  const capture = await captureConnection([a, b], directory)
  const body = async (one: Connect, two: Connect) => [await one.getURI(), (await two.listAllDomains()).length]
  const seen = await body(a, b)
  t.equal(await before.getName(), 'test')
  t.equal(capture.operations, 2, 'what is called on an object from before is not captured')
  await capture.close()
  await a.getType()
  await using replay = await replayConnection(directory)
  t.strictSame(await body(...(replay.connections as [Connect, Connect])), seen)
  replay.finish()
})

t.test('a log that cannot be written says so, and calls go on', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  await using connect = await testHost()
  const told: EventLogError[] = []
  const capture = await captureConnection(connect, directory, { onFailure: error => told.push(error) })
  // The next segment cannot be made.
  mkdirSync(path.join(directory, '00000002.htlog.new'))
  const domain = await connect.domainDefineXML(
    `<domain type='test'><name>d</name><description>${'x'.repeat(900_000)}</description><memory>65536</memory><os><type>hvm</type></os></domain>`
  )
  for (let i = 0; i < 200 && !capture.failure; i++) {
    await domain.getXMLDesc()
    // The disk keeps up.
    await capture.flush().catch(() => undefined)
  }
  t.match(capture.failure, { code: 'LOG_WRITE_FAILED' })
  t.strictSame(told, [capture.failure])
  t.equal(await domain.getName(), 'd')
  await t.rejects(capture.flush(), code('LOG_WRITE_FAILED'))
  await t.rejects(capture.close(), code('LOG_WRITE_FAILED'))
  t.equal(await domain.getName(), 'd')
  await using replay = await replayConnection(directory)
  t.ok(replay.remaining > 1, 'what was written can be replayed')
})

const noMount =
  skip || (spawnSync('unshare', ['-m', 'true']).status === 0 ? false : 'no permission to mount a small file system')

t.test('a full disk', { skip: noMount }, async t => {
  const folder = scratch(t)
  const mounted = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@" "$0"'
  const program = [process.execPath, ...process.execArgv, fileURLToPath(new URL('full.ts', import.meta.url))]
  const child = spawnSync('unshare', ['-m', 'sh', '-c', mounted, folder, ...program], {
    encoding: 'utf8',
    timeout: limit(60_000)
  })
  t.equal(child.status, 0, child.stderr)
  const found = JSON.parse(child.stdout) as { calls: number; remaining: number }
  t.match(found, { told: ['LOG_WRITE_FAILED'], type: 'TEST', closing: /ENOSPC/, damages: 0 })
  t.ok(found.remaining > found.calls / 2 && found.remaining < found.calls, 'what was written before is whole')
})

t.test('what cannot be captured or replayed', { skip }, async t => {
  const folder = scratch(t)
  await using connect = await testHost()
  await t.rejects(captureConnection({} as Connect, path.join(folder, 'a')), code('EINVAL'))
  await t.rejects(captureConnection([], path.join(folder, 'a')), code('EINVAL'))
  await t.rejects(captureConnection(connect, ''), code('EINVAL'))
  await t.rejects(captureConnection(connect, '/proc/nothing'), { code: 'ENOENT' })
  await using capture = await captureConnection(connect, path.join(folder, 'a'))
  t.type(capture, ConnectionCapture)
  await t.rejects(captureConnection(connect, path.join(folder, 'b')), code('BUSY'))
  await capture.close()
  await capture.close()
  await t.rejects(captureConnection(await testHost(), path.join(folder, 'a')), code('LOG_EXISTS'))
  const gone = await testHost()
  await gone.close()
  await t.rejects(captureConnection(gone, path.join(folder, 'c')), code('EINVAL'))

  await t.rejects(replayConnection(path.join(folder, 'nothing')), code('LOG_NOT_FOUND'))
  await t.rejects(Replay.open(path.join(folder, 'a')), EventLogError, 'no machine is replayed from operations')
  await using replay = await replayConnection(path.join(folder, 'a'))
  await t.rejects(captureConnection(replay.connect, path.join(folder, 'd')), code('BUSY'))
  const waiting = replay.connect.domainLookupByUUID(nobody)
  await replay.close()
  await t.rejects(waiting, code('CLOSED'))
  await t.rejects(replay.connect.getType(), code('CLOSED'))
  t.notOk(replay.connect.closed)
  await replay.connect.close()
  t.ok(replay.connect.closed)
})
