// The arithmetic under the figures of bench/stream: worked out by hand.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { counted, readsOf } from '../../bench/stream/plain.mjs'
import { goals, quantile, summary, tables } from '../../bench/stream/report.mjs'
import { downloadRow, fullRow, localRow, oracleOf, oracleSeconds, plainRow, storedBytes, streamedRow } from '../../bench/stream/rows.mjs'
import type { Access } from '../../lib/stream/index.js'
import { scratch } from '../stream/support.js'

const ZERO = 0xffffffff
// Chunks 0, 1, 3 and 6 have contents of their own, 4 those of 1; 2 and 5 are zeros.
const lengths = [1_000_000, 500_000, 1_200_000, 90_000_000]
const manifest = { blobOf: Uint32Array.of(0, 1, ZERO, 2, 1, ZERO, 3), lengthOf: (blob: number) => lengths[blob] as number }
/** 1,000,000 bytes a second. */
const link = { mbit: 8, roundTripMs: 40 }
// QEMU starts at 1 s; the disk is read first half a second later; it is ready 3 s after its start.
const local = { guestMs: 1000, firstReadMs: 1500, readyMs: 4000 }
const access = (chunk: number, atMs: number): Access => ({ chunk, atMs, waitedMs: 0 })
const accesses = [access(0, 0), access(2, 100), access(1, 1500), access(4, 1600), access(3, 2000), access(6, 2600)]
const near = (is: number | undefined, should: number): boolean => is !== undefined && Math.abs(is - should) < 1e-9

t.test('equal chunks count once, and those of zeros not at all', async t => {
  t.equal(storedBytes(manifest, [2, 5]), 0)
  t.equal(storedBytes(manifest, [0, 1, 4, 4, 2, 0]), 1_500_000)
})

t.test('a local start: times from QEMU’s start on, and what is read before it is ready', async t => {
  t.strictSame(localRow(manifest, { ...local, seen: { accesses } }), {
    readySeconds: 3,
    firstReadSeconds: 0.5,
    neededBytes: 2_700_000,
    readBytes: 92_700_000
  })
  const last = { ...local, seen: { accesses: [access(0, 0), access(1, 2500)] } }
  t.equal(localRow(manifest, last).neededBytes, 1_500_000, 'what is read when it is ready is among it')
})

t.test('the oracle', async t => {
  const row = localRow(manifest, { ...local, seen: { accesses } })
  // Chunk 0 is needed at 0.5 s and here after 1 s; chunk 1 needed at 2 s, here after 1.5 s; chunk 3 needed at 2.5 s, here
  // after 2.7 s; chunk 6 is read when it is ready already.
  t.ok(near(oracleSeconds(manifest, accesses, row, link), 0.04 + 3 + 0.5))
  t.ok(near(oracleSeconds(manifest, accesses, row, { mbit: 80, roundTripMs: 5 }), 0.005 + 3), 'nothing is late')
  // At half the rate: after 2, 3 and 5.4 s.
  t.ok(near(oracleSeconds(manifest, accesses, row, { mbit: 4, roundTripMs: 0 }), 3 + 2.9), 'the last one is late most')
  t.ok(near(oracleSeconds(manifest, [], row, link), 3.04))
})

t.test('of several starts the mean', async t => {
  const folder = scratch(t)
  /** As the plugin for nbdkit writes it: docs/stream-format.md. */
  const trace = (name: string, list: Access[]): string => {
    const bytes = Buffer.alloc(4096 + 16 * list.length)
    bytes.write('htaccess')
    bytes.writeUInt32LE(1, 8)
    bytes.writeUInt32LE(manifest.blobOf.length, 16)
    list.forEach(({ chunk, atMs }, i) => {
      bytes.writeBigUInt64LE(BigInt(7_000_000 + 1000 * atMs), 4096 + 16 * i)
      bytes.writeUInt32LE(chunk, 4096 + 16 * i + 8)
    })
    writeFileSync(path.join(folder, name), bytes)
    return path.join(folder, name)
  }
  const row = localRow(manifest, { ...local, seen: { accesses } })
  const other = { readySeconds: 2, firstReadSeconds: 1 }
  // Chunk 3 is needed at 1 s, and here after 1.2 s.
  const locals = [{ row, trace: trace('one', accesses) }, { row: other, trace: trace('two', [access(3, 0)]) }]
  t.ok(near(await oracleOf(manifest, locals, link), (3.54 + 2.24) / 2))
})

// Chunks 2 and 5 are not allocated.
const whole = { ...manifest, bytes: Buffer.alloc(300), imageSize: 100_000_000, dataSize: 92_700_000, sizeOf: () => 10_000_000 }

t.test('a streamed start', async t => {
  const profile = { toString: () => 'x'.repeat(700), match: () => ({ wanted: [0, 1, 3, 6].map(chunk => ({ chunk, atMs: 0 })), unchanged: 4, moved: 0, stale: 0, placed: 0 }) }
  const waited = { reads: 5, ms: 250, longestMs: 80 }
  const started = {
    gateMs: 1000,
    guestMs: 1200,
    firstReadMs: 1500,
    readyMs: 4000,
    watched: true,
    answers: 10,
    atReady: { fetched: { demand: 1_200_000, gate: 1_000_000, profile: 500_000, ahead: 30_000, fill: 70_000 } },
    atEnd: { fetched: { demand: 1_200_000, gate: 1_000_000, profile: 500_000, ahead: 30_000, fill: 170_000 }, bytesPerSecond: 1e6 },
    seenAtReady: { waited, stalls: 2 },
    seen: { waited, stalls: 3, accesses: [access(0, 0), access(3, 2000), access(1, 2501)] },
    // Chunk 6 has not come.
    here: Uint8Array.of(1, 1, 1, 1, 1, 1, 0)
  }
  const row = streamedRow(whole, started, profile)
  t.match(row, { readySeconds: 4, gateSeconds: 1, lostSeconds: 1.25, stallsBeforeReady: 2, stallsAfterReady: 1, stallsAtEnd: 3 })
  t.match(row, { headBytes: 1000, demandBytes: 1_200_000, profileBytes: 1_500_000, neededBytes: 2_200_000, fetchedBytesAtEnd: 2_901_000 })
  t.ok(near(row['shareOfImage'], 0.02701) && near(row['shareOfAllocated'], 0.05402) && near(row['shareOfStored'], 2_701_000 / 92_700_000))
  t.ok(near(row['shareOfImageWithFill'], 0.02801))
  t.equal(row['allocatedBytes'], 50_000_000)
  t.equal(row['vainShare'], 0, 'what was read later is not in vain')
  started.seen.accesses.pop()
  t.ok(near(streamedRow(whole, started, profile)['vainShare'], 5 / 27))
  t.equal(streamedRow(whole, started, profile)['vainBytes'], 500_000)
  t.equal(streamedRow(whole, started)['vainShare'], undefined)
  t.equal(streamedRow(whole, started)['headBytes'], 300)
})

t.test('a start on nbdkit alone, and after a whole download', async t => {
  const waited = { reads: 5, ms: 250, longestMs: 80 }
  const seen = { waited, stalls: 2 }
  const row = plainRow(whole, { gateMs: 50, guestMs: 60, readyMs: 4000, watched: false, seen, seenAtReady: seen, atReady: { bytes: 5_000_000 }, atEnd: { bytes: 6_000_000 } })
  t.match(row, { demandBytes: 5_000_000, shareOfImage: 0.05, shareOfAllocated: 0.1, fetchedBytesAtEnd: 6_000_000, stallsBeforeReady: 2, lostSeconds: 0.3 })
  t.equal(row['stallsAfterReady'], undefined, 'it was not watched')
  t.match(fullRow(whole, 3, link), { computed: true, readySeconds: 95.7, shareOfImage: 0.927, shareOfStored: 1 })
  // Twice as long as the link would have taken for 92,700,300 bytes.
  const download = downloadRow(whole, { ms: 185_400.6, progress: { fetched: { demand: 700_000, gate: 92_000_000 } } }, link)
  t.ok(near(download['shareOfLink'], 0.5) && download['fetchedBytesAtEnd'] === 92_700_300)
})

t.test('quantiles', async t => {
  t.equal(quantile([], 0.5), undefined)
  t.equal(quantile([undefined, NaN], 0.5), undefined)
  t.equal(quantile([7], 0.5), 7)
  t.equal(quantile([7], 0.9), 7)
  t.equal(quantile([10, 9, 1], 0.5), 9, 'by number, not by text')
  t.equal(quantile([4, 1, undefined, 3, 2], 0.5), 2, 'of an even number the lower one')
  const twelve = [12, 3, 11, 1, 10, 2, 9, 4, 8, 5, 7, 6]
  t.strictSame([0, 0.5, 0.9, 1].map(q => quantile(twelve, q)), [1, 6, 11, 12])
  t.equal(twelve[0], 12, 'and theirs stay as they are')
})

t.test('goals are of what was measured, at each link, of all and of those held out', async t => {
  const at = { mbit: 20, roundTripMs: 40 }
  const row = (image: string, way: string, toOracle: number, more: object = {}) => ({ image, way, ...at, toOracle, ...more })
  const rows = [
    { image: 'a', way: 'local', number: 1, toOracle: 100 },
    row('a', 'traced', 1, { shareOfImage: 0.03 }),
    row('b', 'traced', 2, { shareOfImage: 0.0301, heldOut: true }),
    row('c', 'traced', 100, { error: 'failed' }),
    row('b', 'examined', 3, { heldOut: true }),
    row('a', 'examined', 1.4),
    row('c', 'examined', 100),
    { ...row('a', 'traced', 50), mbit: 5 }
  ]
  const found = (name: string, where = 'all images', speed = '20 Mb/s, 40 ms'): unknown =>
    goals(rows).filter(one => one.goal === name && one.where === where && one.link === speed).map(({ value, met }) => [value, met])
  t.strictSame(found('traced: bytes at the first request, of the image, median'), [[0.03, true]], 'as much as is allowed is met')
  t.strictSame(found('traced: bytes at the first request, of the image, median', 'held out'), [[0.0301, false]])
  t.strictSame(found('traced: bytes at the first request, of the image, p90'), [[0.0301, true]])
  t.strictSame(found('traced: time to the oracle’s, p90'), [[2, false]])
  t.strictSame(found('traced: time to the oracle’s, median', 'all images', '5 Mb/s, 40 ms'), [[50, false]])
  t.strictSame(found('examined to traced, time, median'), [[1.4, true]], 'each image by itself: 1.4 and 1.5')
  t.strictSame(found('examined to traced, time, p90'), [[1.5, true]])
  t.strictSame(found('traced: prefetched in vain, median'), [], 'nothing was measured')
  t.match(summary(rows), [
    { link: '5 Mb/s, 40 ms', way: 'traced', images: 1 },
    { link: '20 Mb/s, 40 ms', way: 'examined', images: 3, toOracle: { median: 3, p90: 100 } },
    { way: 'traced', images: 2, toOracle: { median: 1, p90: 2 }, vainShare: { median: undefined } }
  ])
  t.match(tables(rows), '| 20 Mb/s, 40 ms | 2 | traced |  |  | 1.00; 2.00 | 3.0 %; 3.0 % |')
  t.match(tables(rows), '| b (held out) |')
  t.match(tables(rows), '| traced: time to the oracle’s, p90 <= 1.15 | 20 Mb/s, 40 ms | all images | 2.00 | not met |')
})

t.test('nbdkit’s log', async t => {
  const log = `2026-11-28 23:59:59.606874 Ready thread_model=3
2026-11-28 23:59:59.611666 connection=1 Connect export="" tls=0 size=0x40000 write=0
2026-11-28 23:59:59.900000 connection=1 Read id=1 offset=0x0 count=0x1000 ...
2026-11-28 23:59:59.950000 connection=1 Read id=2 offset=0x10000 count=0x200 ...
2026-11-28 23:59:59.960000 connection=2 Read id=1 offset=0x0 count=0x10000 ...
2026-11-28 23:59:59.999500 connection=1 ...Read id=2 return=0
2026-11-29 00:00:00.000001 connection=1 ...Read id=1 return=0
2026-11-29 00:00:00.010000 connection=1 Write id=3 offset=0x0 count=0x1000 ...
2026-11-29 00:00:00.020000 connection=1 ...Write id=3 return=0
2026-11-29 00:00:00.160000 connection=2 ...Read id=1 return=0
2026-11-29 00:00:00.200000 connection=1 Read id=4 offset=0x0 count=0x1000 ...
2026-11-29 00:00:00.2`
  const reads = readsOf(log)
  t.strictSame(reads.map(({ bytes }) => bytes), [0x200, 0x1000, 0x10000], 'as they end; what has no answer yet is none')
  const [first, second, third] = reads.map(({ atMs, ms }) => [Math.round((atMs + performance.timeOrigin) * 100) / 100, Math.round(ms * 100) / 100])
  const midnight = Date.UTC(2026, 10, 29)
  t.strictSame([first, second, third], [[midnight - 50, 49.5], [midnight - 100, 100], [midnight - 40, 200]])
  const { stalls, waited } = counted(reads)
  t.equal(stalls, 2, 'of more than 100 ms')
  t.equal(waited.reads, 3)
  t.ok(Math.abs(waited.ms - 349.501) < 0.01 && Math.abs(waited.longestMs - 200) < 0.01)
  t.same([readsOf(''), counted([])], [[], { stalls: 0, waited: { reads: 0, ms: 0, longestMs: 0 } }])
})
