// Reading a log: its header, its records, its index.
import path from 'node:path'
import t from 'tap'
import { EventLog, type LogRecord } from '../../lib/eventlog/index.js'
import { code, noKvm as skip, recordHello, recordMailroom, scratch } from './support.js'

t.test('header, index and verification agree with the recording', { skip }, async t => {
  const { directory, result } = await recordMailroom(t, scratch(t))
  await using log = await EventLog.open(directory)
  t.match(log.header, { board: 'deterministic', memorySize: 32 << 20, hypertwin: /^\d/ })
  t.match(log.header.id, /^[0-9a-f]{32}$/)
  t.ok(Math.abs(log.header.created.getTime() - Date.now()) < 600_000)
  const report = await log.verify()
  t.match(report, {
    ok: true,
    ended: true,
    chainOk: true,
    records: result.stats.records,
    replayableRecords: result.stats.records,
    lastBoundary: result.lastBoundary,
    damages: []
  })
  const blocks = await log.index()
  t.equal(BigInt(blocks.length), report.blocks)
  t.equal(
    blocks.reduce((sum, block) => sum + block.records, 0),
    Number(report.records)
  )
  t.equal(blocks.at(-1)?.lastBoundary, result.lastBoundary)
})

t.test('records, all and from a boundary on', { skip }, async t => {
  const { directory, result } = await recordMailroom(t, scratch(t))
  await using log = await EventLog.open(directory)
  const records = log.records()
  const seen: LogRecord[] = []
  for await (const record of records) seen.push(record)
  t.equal(records.stop, 'end')
  t.strictSame(records.damages, [])
  t.equal(BigInt(seen.length), result.stats.records)
  t.ok(seen.every((record, i) => record.index === BigInt(i) && !record.afterGap))
  t.ok(seen.every((record, i) => i === 0 || record.boundary >= seen[i - 1]!.boundary))
  const kinds = new Set(seen.map(record => record.kind))
  for (const kind of ['packet', 'block-completion', 'interrupt', 'check', 'state-digest', 'end'] as const)
    t.ok(kinds.has(kind), kind)
  const packet = seen.find(record => record.kind === 'packet')!
  t.equal(packet.kind === 'packet' && packet.bytes.readUInt16BE(12), 0x0806, 'the first packet asks by ARP')
  const state = seen.find(record => record.kind === 'state-digest')!
  t.match(state, {
    memory: result.state?.memory,
    devices: result.state?.devices,
    vcpu: result.state?.vcpu,
    boundary: result.lastBoundary
  })
  const checks = seen.filter(record => record.kind === 'check')
  t.equal(
    BigInt(checks.reduce((sum, check) => sum + check.prefixes.length, 0)),
    result.lastBoundary,
    'a check covers each boundary'
  )
  t.match(checks[0]?.rolling, /^[0-9a-f]{32}$/)

  const from = seen[seen.length >> 1]!.boundary
  const later: LogRecord[] = []
  for await (const record of log.records({ from })) later.push(record)
  t.strictSame(later, seen.slice(seen.findIndex(record => record.boundary >= from)))

  for await (const record of log.records()) {
    t.equal(record.index, 0n)
    break
  }
  const aborted = log.records({ signal: AbortSignal.abort(new Error('before')) })
  await t.rejects(aborted.next(), /before/)
  t.match(await aborted.next(), { done: true })
})

t.test('the time that a guest had', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  await recordHello(t, directory, 'ticks=5')
  await using log = await EventLog.open(directory)
  const times: bigint[] = []
  for await (const record of log.records()) if (record.kind === 'time') times.push(record.ns)
  t.ok(times.length >= 5)
  t.ok(times.every((ns, i) => i === 0 || ns >= times[i - 1]!))
})

t.test('a closed log', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  await recordHello(t, directory, 'ticks=1')
  const log = await EventLog.open(directory)
  const records = log.records()
  await Promise.all([log.close(), log.close()])
  for await (const record of records) void record
  t.match(records.stop, /end|cancelled/)
  t.throws(() => log.records(), code('CLOSED'))
  await t.rejects(log.verify(), code('CLOSED'))
  await t.rejects(log.index(), code('CLOSED'))
})
