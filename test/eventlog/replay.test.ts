// A log replays to the identical state; what is wrong with one is found and named.
import { EventEmitter, once } from 'node:events'
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { connectMailroom, createMailroom } from '../../lib/cli/mailroom/boot.js'
import { EventLog, EventLogError, Recording, Replay, type LogDamage, type LogRecord } from '../../lib/eventlog/index.js'
import { code, guest, load, noKvm as skip, recordHello, recordMailroom, replayed, scratch } from './support.js'

t.test('hello from its first instruction', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const recorded = await recordHello(t, directory)
  t.equal(recorded.firstBoundary, 0n)
  t.ok(recorded.state)
  await using replay = await Replay.open(directory)
  t.equal(replay.firstBoundary, 0n)
  t.equal(replay.lastBoundary, recorded.lastBoundary)
  const progress: bigint[] = []
  const result = await replay.run({ onProgress: ({ boundary }) => progress.push(boundary), progressMs: 1 })
  t.match(result, { stop: 'log-end', complete: true, divergence: undefined, boundary: recorded.lastBoundary })
  t.strictSame(result.state, recorded.state, 'identical')
  t.ok(result.checks > 0n)
  t.equal(result.stateChecks, 1n)
  t.match(replay.machine.consoleText, /^hello from hypertwin\nticks 20\n$/)
  t.strictSame(await replay.machine.stateDigest(), recorded.state)
  t.strictSame(await replay.run(), result, 'at its end it stays')
})

t.test('the mailroom under load', { skip }, async t => {
  const { directory, result } = await recordMailroom(t, scratch(t))
  t.ok(result.stats.inputBytes > 0n)
  t.equal(result.stats.records, result.stats.durableRecords)
  const again = await replayed(directory)
  t.match(again, { stop: 'log-end', complete: true, divergence: undefined })
  t.strictSame(again.state, result.state)
  t.strictSame((await replayed(directory)).state, result.state, 'as often as one likes')
})

t.test('beginning and ending in the middle, twice', { skip }, async t => {
  const folder = scratch(t)
  const machine = await createMailroom({ disk: path.join(folder, 'disk'), memory: '32MiB' })
  t.teardown(() => machine.close())
  await machine.start()
  const client = await connectMailroom(machine)
  for (const name of ['one', 'two']) {
    const directory = path.join(folder, name)
    const recording = await Recording.start(machine, directory)
    await t.rejects(Recording.start(machine, path.join(folder, 'other')), code('BAD_STATE'))
    await load(client, 3, 2)
    const middle = await recording.checkpoint()
    await load(client, 3, 2)
    const result = await recording.stop()
    t.equal(await recording.stop().then(again => again.lastBoundary), result.lastBoundary, 'stop() twice')
    await recording.close()
    t.equal(machine.state, 'running', 'the machine goes on')
    t.ok(result.firstBoundary > 0n)
    const again = await replayed(directory)
    t.match(again, { stop: 'log-end', complete: true, divergence: undefined, stateChecks: 2n })
    t.strictSame(again.state, result.state)
    t.ok(middle.boundary > result.firstBoundary && middle.boundary <= result.lastBoundary)
  }
  client.close()
})

t.test('seeking forwards and back', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const recorded = await recordHello(t, directory)
  await using replay = await Replay.open(directory)
  const middle = recorded.lastBoundary / 2n
  const first = await replay.run({ to: middle })
  t.match(first, { stop: 'boundary', boundary: middle, divergence: undefined })
  const { regs } = await replay.machine.registers()
  await replay.seek(recorded.lastBoundary)
  await t.rejects(replay.run({ to: middle }), code('ERANGE'))
  const back = await replay.seek(middle)
  t.strictSame(back.state, first.state, 'the same state there again')
  t.strictSame((await replay.machine.registers()).regs, regs)
  t.equal(replay.machine.memory.read(0n, 4096).length, 4096)
  t.throws(() => replay.machine.memory.read(1n << 40n, 1), code('ERANGE'))
  await t.rejects(replay.seek(-1n), code('EINVAL'))
  t.match(await replay.run(), { stop: 'log-end', complete: true })
})

for (const [what, faults] of [
  ['one input left out', [{ skipInput: 20 }]],
  ['one interrupt shifted by one boundary', [{ shiftInterrupt: 10 }]],
  // A packet that a busy client has sent twice changes nothing.
  ['one byte of a packet changed', [{ flipPacket: 20 }, { flipPacket: 21 }, { flipPacket: 22 }]]
] as const)
  t.test(`caught: ${what}`, { skip }, async t => {
    for (const plantedFaults of faults) {
      const { directory, result } = await recordMailroom(t, scratch(t), { plantedFaults })
      const { stop, divergence } = await replayed(directory)
      if (stop !== 'diverged' || !divergence) continue
      t.ok(divergence.boundary >= result.firstBoundary && divergence.boundary <= result.lastBoundary)
      t.match(divergence.kind, /^(digest|input|clock|interrupt|halt|state|stall)$/)
      t.match(divergence.message, new RegExp(`boundary ${divergence.boundary}`), divergence.message)
      return
    }
    t.fail('nothing diverged')
  })

t.test('caught: a guest that reads the time-stamp counter', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const machine = await guest(t, 'probe', 'only=rdtsc repeat=3')
  const recording = await Recording.start(machine, directory)
  await machine.start()
  await machine.waitFor('stopped')
  await recording.stop()
  await machine.close()
  const result = await replayed(directory)
  t.equal(result.stop, 'diverged')
  t.ok(
    result.divergence?.suspects.some(suspect => suspect.instruction === 'rdtsc'),
    'named'
  )
})

t.test('following a log that grows', { skip }, async t => {
  const folder = scratch(t)
  const directory = path.join(folder, 'log')
  const machine = await createMailroom({ disk: path.join(folder, 'disk'), memory: '32MiB' })
  t.teardown(() => machine.close())
  const recording = await Recording.start(machine, directory)
  await using log = await EventLog.open(directory)
  const seen: LogRecord[] = []
  const following = (async () => {
    const records = log.records({ follow: true })
    for await (const record of records) seen.push(record)
    return records.stop
  })()
  await using replay = await Replay.open(directory, { follow: true })
  t.equal(replay.lastBoundary, undefined)
  const end = replay.run()
  await machine.start()
  const client = await connectMailroom(machine)
  await load(client, 3, 3)
  client.close()
  const result = await recording.stop()
  const followed = await end
  t.match(followed, { stop: 'log-end', complete: true, divergence: undefined })
  t.strictSame(followed.state, result.state)
  t.equal(await following, 'end')
  t.equal(BigInt(seen.length), result.stats.records)
  t.equal(seen.at(-1)?.kind, 'end')
  await recording.close()
})

t.test('a follower can be cancelled', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const machine = await guest(t, 'hello', 'ticks=1000000')
  await using recording = await Recording.start(machine, directory)
  void recording
  await using log = await EventLog.open(directory)
  const abort = new AbortController()
  const waiting = log.records({ follow: true, signal: abort.signal })
  const first = waiting.next()
  const replay = await Replay.open(directory, { follow: true })
  const run = replay.run({ signal: abort.signal })
  abort.abort(new Error('enough'))
  await t.rejects(first, /enough/)
  t.equal((await run).stop, 'cancelled')
  t.equal((await replay.run()).stop, 'cancelled', 'only seek() goes on')
  const again = new AbortController()
  const sought = replay.seek(2n ** 60n, { signal: again.signal })
  again.abort()
  t.equal((await sought).stop, 'cancelled', 'even before it began')
  await replay.close()
  await t.rejects(replay.run(), code('CLOSED'))
  const other = await Replay.open(directory, { follow: true })
  const runs = new EventEmitter()
  const begun = once(runs, 'begun')
  const open = other
    .run({ progressMs: 1, onProgress: at => at.boundary > at.firstBoundary && runs.emit('begun') })
    .catch((error: unknown) => error)
  // One that waits for its turn only would be dropped instead.
  await begun
  await other.close()
  t.match(await open, { stop: 'cancelled' }, 'closing ends a run too')
})

t.test('a replay can be cancelled, and sought again', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const recorded = await recordHello(t, directory, 'ticks=300 hz=1000')
  await using replay = await Replay.open(directory)
  const abort = new AbortController()
  const cancelled = await replay.run({ signal: abort.signal, progressMs: 1, onProgress: () => abort.abort() })
  if (cancelled.stop === 'log-end') t.comment('it was faster than its cancellation')
  else t.match(cancelled, { stop: 'cancelled', complete: false, divergence: undefined })
  await t.rejects(replay.run({ signal: AbortSignal.abort(new Error('before')) }), /before/)
  await t.rejects(replay.run({ progressMs: 0 }), code('EINVAL'))
  const whole = await replay.seek(recorded.lastBoundary)
  t.match(whole, { boundary: recorded.lastBoundary, divergence: undefined })
  t.strictSame(whole.state, recorded.state)
})

t.test('a torn log replays to its last whole record', { skip }, async t => {
  const { directory, result } = await recordMailroom(t, scratch(t), { commitLatencyUs: 0 })
  const segment = path.join(directory, readdirSync(directory).find(name => name.endsWith('.htlog'))!)
  const whole = readFileSync(segment)
  truncateSync(segment, Math.floor(whole.length * 0.6))
  await using log = await EventLog.open(directory)
  const report = await log.verify()
  t.match(report, { ok: false, ended: false })
  t.ok(report.replayableRecords > 0n && report.replayableRecords < result.stats.records)
  const records = log.records()
  let count = 0n
  let last = 0n
  for await (const record of records) {
    count++
    last = record.boundary
  }
  t.equal(count, report.replayableRecords)
  t.ok(records.damages.length > 0)
  t.match(records.damages[0], { text: /./ })
  const torn = await replayed(directory)
  t.match(torn, { stop: 'log-end', complete: false, divergence: undefined })
  t.ok(torn.boundary >= last && torn.boundary < result.lastBoundary)
  // Wherever a log ends: a boundary is one point, however it is come to.
  let interrupted = 0
  for (let cut = 0.5; cut < 0.6; cut += 0.01) {
    writeFileSync(segment, whole.subarray(0, Math.floor(whole.length * cut)))
    await using there = await Replay.open(directory)
    const ended = await there.run()
    const again = await there.seek(ended.boundary)
    await using fresh = await Replay.open(directory)
    const sought = await fresh.seek(ended.boundary)
    t.strictSame([again.boundary, again.state], [sought.boundary, sought.state], `cut at ${cut.toFixed(2)}`)
    if (ended.state.combined !== sought.state.combined) interrupted++
  }
  t.comment(`${interrupted} of them end with an interrupt`)

  // A bit in the middle: a gap. Replay goes up to it, reading may go on behind it.
  const flipped = Buffer.from(whole)
  flipped[whole.length >> 1]! ^= 4
  writeFileSync(segment, flipped)
  const gaps = []
  let behind = 0
  const all = log.records({ withGaps: true })
  for await (const record of all) {
    if (record.kind === 'gap') gaps.push(record.damage)
    else if (record.afterGap) behind++
  }
  t.equal(gaps.length, 1)
  t.match(gaps[0], { gap: true, text: /./ })
  t.ok(behind > 0)
  t.equal(all.stop, 'end')
  const stopped = log.records()
  for await (const record of stopped) void record
  t.equal(stopped.stop, 'gap')
  // Who begins in the middle of what is lost is told so, too.
  const from = (gaps[0] as LogDamage).fromBoundary + 1n
  const later = log.records({ from, withGaps: true })
  const seen = []
  for await (const record of later) seen.push(record.kind === 'gap' ? 'gap' : record.afterGap)
  t.equal(seen[0], 'gap')
  t.equal(seen[1], true)
  const ended = log.records({ from })
  for await (const record of ended) void record
  t.equal(ended.stop, 'gap')
  const again = await replayed(directory)
  t.match(again, { stop: 'log-end', complete: false, divergence: undefined })
  t.match(again.damages, [{ gap: true, kind: 'block' }])
})

t.test('a log that cannot be written pauses the machine, and nothing is lost', { skip }, async t => {
  const folder = scratch(t)
  const directory = path.join(folder, 'log')
  const machine = await guest(t, 'hello', 'ticks=300 hz=1000')
  await using recording = await Recording.start(machine, directory, { segmentSize: 600, commitLatencyUs: 0 })
  const told: EventLogError[] = []
  recording.onFailure(error => told.push(error))
  // The next segment file cannot be made.
  const inTheWay = path.join(directory, '00000002.htlog.new')
  mkdirSync(inTheWay)
  await machine.start()
  await machine.waitFor('paused')
  t.equal(machine.reason, 'capture-failed')
  t.match(recording.failure, { code: 'LOG_WRITE_FAILED', errno: Number })
  await t.rejects(recording.stop(), code('LOG_WRITE_FAILED'))
  await t.rejects(recording.retry(), code('LOG_WRITE_FAILED'))
  rmdirSync(inTheWay)
  await recording.retry()
  t.equal(recording.failure, undefined)
  t.match(told[0], code('LOG_WRITE_FAILED'))
  await machine.resume()
  await machine.waitFor('stopped')
  const result = await recording.stop()
  t.ok(result.stats.segments > 1n)
  const again = await replayed(directory)
  t.match(again, { stop: 'log-end', complete: true, divergence: undefined })
  t.strictSame(again.state, result.state)
})

t.test('what does not belong together is refused', { skip }, async t => {
  const folder = scratch(t)
  const one = path.join(folder, 'one')
  const two = path.join(folder, 'two')
  await recordHello(t, one, 'ticks=5')
  await recordHello(t, two, 'ticks=6')
  await t.rejects(Recording.start(await guest(t, 'hello'), one), code('LOG_EXISTS'))
  copyFileSync(path.join(one, 'initial.htsnap'), path.join(two, 'initial.htsnap'))
  await t.rejects(Replay.open(two), { code: 'LOG_INITIAL_STATE' })
  appendFileSync(path.join(one, 'initial.htsnap'), 'more')
  truncateSync(path.join(one, 'initial.htsnap'), 5000)
  await t.rejects(Replay.open(one), code('CORRUPT'))
  await t.rejects(Replay.open(path.join(folder, 'nothing')), code('LOG_NOT_FOUND'))
  await t.rejects(EventLog.open(folder), code('LOG_NOT_FOUND'))
})

t.test('a machine that is closed while it is recorded', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const machine = await guest(t, 'hello', 'ticks=1000000')
  const recording = await Recording.start(machine, directory)
  await machine.start()
  await machine.console.waitFor('hello from hypertwin\n')
  await machine.close()
  await t.rejects(recording.stop(), code('CLOSED'))
  t.throws(() => recording.stats(), code('CLOSED'))
  await recording.close()
  t.match(await replayed(directory), { stop: 'log-end', complete: false, divergence: undefined })
  await t.rejects(Recording.start(machine, path.join(directory, 'x')), code('CLOSED'))
})

t.test('a machine that is closed while its recording begins', { skip }, async t => {
  const directory = path.join(scratch(t), 'log')
  const machine = await guest(t, 'hello')
  const starting = Recording.start(machine, directory)
  // Both go on without JavaScript, which hears of them only then.
  while (!existsSync(path.join(directory, '00000001.htlog')));
  const closing = machine.close()
  while (machine.state !== 'stopped');
  await t.rejects(starting, { name: 'EventLogError', code: 'CLOSED' })
  await closing
})

t.test('wrong arguments', { skip }, async t => {
  const folder = scratch(t)
  const machine = await guest(t, 'hello')
  await t.rejects(Recording.start({} as never, folder), code('EINVAL'))
  await t.rejects(Recording.start(undefined as never, folder), code('EINVAL'))
  for (const options of [
    { fsync: 'sometimes' },
    { onFull: 'explode' },
    { bufferSize: 'much' },
    { bufferSize: 0 },
    { segmentSize: -1 },
    { fsyncIntervalMs: 0 },
    { commitLatencyUs: 1.5 }
  ])
    await t.rejects(Recording.start(machine, path.join(folder, 'x'), options as never), code('EINVAL'))
  await t.rejects(Recording.start(machine, ''), code('EINVAL'))
  await t.rejects(Recording.start(machine, '/proc/nowhere'), { code: /EACCES|ENOENT|EPERM/ })
  await t.rejects(EventLog.open(7 as never), code('EINVAL'))
  await t.rejects(Replay.open(''), code('EINVAL'))
  await t.rejects(Replay.open(folder, { stallMs: 0 }), code('EINVAL'))
  const directory = path.join(folder, 'log')
  await recordHello(t, directory, 'ticks=1')
  await using log = await EventLog.open(directory)
  t.throws(() => log.records({ from: 1 as never }), code('EINVAL'))
  await using replay = await Replay.open(directory)
  await t.rejects(replay.run({ to: 1 as never }), code('EINVAL'))
  const run = replay.run()
  const error = await replay.run().catch((error: unknown) => error)
  t.ok(error instanceof EventLogError)
  t.match(error, code('BAD_STATE'))
  await run
})
