// Profiles: from traces, merged, told from rubbish, and fitted to images that have changed; what to fetch next; the gate.
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import t from 'tap'
import { pack, Profile, readTrace, StreamError, type Access } from '../../lib/stream/index.js'
import { forecast } from '../../lib/stream/gate.js'
import { Link } from '../../lib/stream/link.js'
import { FetchOrder, type Run } from '../../lib/stream/order.js'
import { CHUNK, code, imageBytes, noise, packed, scratch } from './support.js'

const access = (chunk: number, atMs: number, waitedMs = 0): Access => ({ chunk, atMs, waitedMs })

t.test('of a trace: in the order of time, zeros left out, waits not counted', async t => {
  const { manifest } = await packed(t, imageBytes(40))
  const profile = Profile.fromTrace(manifest, [access(12, 50), access(2, 20), access(8, 0, 1000), access(4, 1200), access(12, 1300)])
  t.same(profile.entries.map(({ chunk, atMs, seen }) => [chunk, atMs, seen]), [[8, 0, 1], [12, 0, 1], [4, 200, 1]])
  t.equal(profile.traces, 1)
  t.throws(() => Profile.fromTrace(manifest, [access(40, 0)]), code('EINVAL'))
  t.same(Profile.parse(profile.toString()), profile)
})

t.test('several traces: what most of them have comes first', async t => {
  const { manifest } = await packed(t, noise(30 * CHUNK, 'merge'))
  const traces = [
    [access(1, 0), access(2, 10), access(9, 15), access(3, 20)],
    [access(1, 0), access(3, 40), access(2, 50)],
    [access(3, 2), access(2, 60), access(1, 70), access(8, 80)]
  ].map(accesses => Profile.fromTrace(manifest, accesses))
  const merged = Profile.merge(traces)
  t.same(merged.entries.map(({ chunk, atMs, seen }) => [chunk, atMs, seen]), [[1, 0, 3], [3, 20, 3], [2, 50, 3], [9, 15, 1], [8, 80, 1]])
  t.equal(merged.traces, 3)
  t.same(Profile.merge([merged]), merged)
  const other = await packed(t, noise(30 * CHUNK, 'other'))
  t.throws(() => Profile.merge([merged, Profile.fromTrace(other.manifest, [access(1, 0)])]), code('EINVAL'))
  t.throws(() => Profile.merge([]), code('EINVAL'))
})

t.test('an image that has changed: the same, elsewhere, gone', async t => {
  const { manifest, image, bytes } = await packed(t, noise(20 * CHUNK, 'stale'))
  const profile = Profile.fromTrace(manifest, [access(3, 0), access(10, 1), access(5, 2), access(19, 3)])
  t.same({ ...profile.match(manifest), wanted: [] }, { wanted: [], unchanged: 4, moved: 0, stale: 0, placed: 0 })
  // Chunk 10 moves to 12, 5 changes, the end is cut off.
  const next = Buffer.from(bytes.subarray(0, 18 * CHUNK))
  bytes.copy(next, 12 * CHUNK, 10 * CHUNK, 11 * CHUNK)
  next.fill(1, 10 * CHUNK, 11 * CHUNK)
  next.fill(2, 5 * CHUNK, 6 * CHUNK)
  const after = (await packed(t, next)).manifest
  const match = profile.match(after)
  t.same(match.wanted.map(({ chunk }) => chunk), [3, 12, 5])
  t.same({ ...match, wanted: [] }, { wanted: [], unchanged: 1, moved: 1, stale: 2, placed: 0 })
  const { manifest: large } = await pack(image, scratch(t), { chunkSize: '128KiB' })
  const places = { unchanged: 0, moved: 0, stale: 0, placed: 4 }
  t.same(profile.match(large), { ...places, wanted: [{ chunk: 1, atMs: 0 }, { chunk: 5, atMs: 1 }, { chunk: 2, atMs: 2 }, { chunk: 9, atMs: 3 }] }, 'larger chunks')
  const { manifest: small } = await pack(image, scratch(t), { chunkSize: '32KiB' })
  t.same(profile.match(small).wanted.map(({ chunk }) => chunk), [6, 7, 20, 21, 10, 11, 38, 39], 'smaller ones')
  const { manifest: cut } = await packed(t, bytes.subarray(0, 10 * CHUNK + 1), { chunkSize: '128KiB' })
  t.match(profile.match(cut), { wanted: { length: 3 }, stale: 1, placed: 3 })
})

t.test('no profile', async t => {
  const { manifest } = await packed(t, noise(4 * CHUNK, 'none'))
  const text = Profile.fromTrace(manifest, [access(1, 0), access(2, 1)]).toString()
  const good = JSON.parse(text) as Record<string, unknown>
  const bad = (change: Record<string, unknown>): void => {
    t.throws(() => Profile.parse(JSON.stringify({ ...good, ...change })), code('BAD_PROFILE'), JSON.stringify(change))
  }
  for (const text of ['', 'null', '[]', '{', '"x"']) t.throws(() => Profile.parse(text), code('BAD_PROFILE'))
  const file = path.join(t.testdir({ profile: '{}' }), 'profile')
  await t.rejects(Profile.load(file), { code: 'BAD_PROFILE', message: new RegExp(`^${file} is no profile`) })
  for (const one of ['{}', '[]', '[{}]']) {
    const message = /more than chunks/
    t.throws(() => Profile.parse(`${text.slice(0, -4)},${`${one},`.repeat(10_000)}null]}`), { code: 'BAD_PROFILE', message }, 'it is not read into memory')
  }
  const many = Array.from({ length: 10_000 }, () => [0, '0'.repeat(16), 0, 0])
  t.equal(Profile.parse(JSON.stringify({ ...good, entries: many })).entries.length, 10_000, 'the shortest ones')
  bad({ format: 'x' })
  bad({ version: 2 })
  bad({ manifest: 'abc' })
  bad({ manifest: 5 })
  for (const chunkSize of [0, 1000, 2 ** 21, -4096, '4096', 4096.5]) bad({ chunkSize })
  bad({ traces: -1 })
  bad({ entries: {} })
  for (const entry of [null, [], [1], [1, 'x', 0, 1], [-1, '0'.repeat(16), 0, 1], [2 ** 22, '0'.repeat(16), 0, 1], [1, '0'.repeat(16), -1, 1], [1, '0'.repeat(16), 1e10, 1], [1, '0'.repeat(16), 0, 1, 1], [1.5, '0'.repeat(16), 0, 1]])
    bad({ entries: [entry] })
  const fifo = path.join(t.testdir({}), 'fifo')
  execFileSync('mkfifo', [fifo])
  await t.rejects(Profile.load(fifo), code('BAD_PROFILE'))
  await t.rejects(readTrace(fifo), code('BAD_TRACE'), 'nor a trace')
  // Anything that still parses fits any image without harm.
  let seed = 7
  const random = (below: number): number => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % below
  for (let round = 0; round < 2000; round++) {
    const characters = [...text]
    for (let i = random(4); i >= 0; i--) characters[random(characters.length)] = '0123456789abcdef[]{},"-.e'.charAt(random(25))
    try {
      const { wanted } = Profile.parse(characters.join('')).match(manifest)
      if (wanted.some(({ chunk }) => chunk >= manifest.chunks)) t.fail(`round ${round}`)
    } catch (error) {
      if (!(error instanceof StreamError)) throw error
    }
  }
})

t.test('what is fetched next: each chunk once, whatever happens, the urgent first', async t => {
  const { manifest } = await packed(t, noise(200 * CHUNK, 'order'))
  let seed = 3
  const random = (below: number): number => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 8) % below
  for (let round = 0; round < 200; round++) {
    const here = new Set(Array.from({ length: random(100) }, () => random(200)))
    const order = new FetchOrder(manifest, manifest.offsets, chunk => here.has(chunk), true)
    const wanted = Uint32Array.from(new Set(Array.from({ length: random(60) }, () => random(200))))
    order.want(wanted)
    const flying: Run[] = []
    const under = new Set<number>()
    const demanded = new Set<number>()
    for (let step = 0; order.missing > 0; step++) {
      if (step > 5000) {
        t.fail(`round ${round}: it never ends`)
        break
      }
      if (random(5) === 0) {
        const blob = random(200)
        if (!order.isHere(blob)) {
          order.demand(blob)
          if (!under.has(blob)) demanded.add(blob)
        }
      }
      const run = order.nextDemand(CHUNK * (1 + random(4))) ?? (random(2) === 0 ? order.next(CHUNK * (1 + random(8))) : undefined)
      if (run) {
        if (demanded.size > 0 && run.why !== 'demand') t.fail(`round ${round}: somebody waits, and ${run.why} comes`)
        for (let blob = run.first; blob <= run.last; blob++) {
          if (here.has(blob) || under.has(blob)) t.fail(`round ${round}: ${blob} comes twice`)
          under.add(blob)
          demanded.delete(blob)
        }
        flying.push(run)
      }
      if (flying.length > 0 && (random(2) === 0 || !run)) {
        const [done] = flying.splice(random(flying.length), 1) as [Run]
        for (let blob = done.first; blob <= done.last; blob++) {
          under.delete(blob)
          const how = random(8)
          if (how === 0) order.missed(blob)
          else if (how === 1) {
            order.rest(blob)
            order.missed(blob)
          } else {
            order.here(blob)
            here.add(blob)
          }
        }
      }
    }
    if (here.size !== 200) t.fail(`round ${round}: ${here.size} of 200`)
  }
  t.pass()
})

t.test('the profile comes in its order', async t => {
  const { manifest } = await packed(t, noise(50 * CHUNK, 'wanted'))
  const order = new FetchOrder(manifest, manifest.offsets, () => false, true)
  order.want(Uint32Array.of(30, 10, 31, 40))
  order.gate = true
  t.same(order.next(10 * CHUNK), { first: 30, last: 31, why: 'gate' })
  order.gate = false
  t.same(order.next(10 * CHUNK), { first: 10, last: 10, why: 'profile' })
  t.ok(order.isWanting, 'one of them has not been asked for')
  order.missed(31)
  t.same(order.next(10 * CHUNK), { first: 31, last: 31, why: 'profile' }, 'what failed comes again before the rest')
  t.same(order.next(10 * CHUNK), { first: 40, last: 40, why: 'profile' })
  order.demand(20)
  t.same(order.nextDemand(CHUNK), { first: 20, last: 20, why: 'demand' })
  t.same(order.next(3 * CHUNK), { first: 21, last: 23, why: 'ahead' }, 'then what lies behind')
  t.notOk(order.isWanting)
  for (let run = order.next(CHUNK); run?.why === 'ahead'; run = order.next(CHUNK));
  t.same(order.next(CHUNK)?.why, 'fill')
})

t.test('a request is of so many bytes as the source carries, not as the pack has', async t => {
  const { manifest } = await packed(t, noise(50 * CHUNK, 'carried'))
  const offsets = Float64Array.from({ length: manifest.blobs + 1 }, (_, blob) => blob * 10 * CHUNK)
  const order = new FetchOrder(manifest, offsets, () => false, true)
  t.same(order.next(20 * CHUNK), { first: 0, last: 1, why: 'fill' })
})

t.test('the forecast: no later than needed, no earlier than possible', async t => {
  const none = (): boolean => false
  const bytes = Float64Array.of(95_000, 95_000, 95_000)
  t.equal(forecast({ bytes, atMs: Float64Array.of(0, 0, 0) }, none, 100_000), 3000)
  t.equal(forecast({ bytes, atMs: Float64Array.of(0, 1000, 2000) }, none, 100_000), 1000, 'the first one decides')
  t.equal(forecast({ bytes, atMs: Float64Array.of(5000, 5000, 5000) }, none, 100_000), 0)
  t.equal(forecast({ bytes, atMs: Float64Array.of(0, 1000, 2000) }, i => i === 0, 100_000), 0, 'what is here need not come')
  t.equal(forecast({ bytes, atMs: Float64Array.of(0, 500, 1000) }, i => i === 0, 100_000), 1000)
  t.equal(forecast({ bytes, atMs: Float64Array.of(0, 4000, 0) }, i => i === 0, 100_000), 0, 'what was put back is not waited for')
})

t.test('what a link carries for long: bursts and pauses are not in it', async t => {
  const link = new Link()
  t.equal(link.sustained, undefined)
  link.busy(0)
  // Nothing for a second, then all that stood in a queue, then what the link can.
  link.came(100_000, 1000)
  t.equal(link.sustained, 100_000)
  link.came(200_000, 1200)
  t.equal(link.sustained, 250_000, 'all the time: 300 kB in 1.2 s')
  for (let i = 1; i <= 40; i++) link.came(50_000, 1200 + 200 * i)
  t.ok(Math.abs((link.sustained ?? 0) - 250_000) < 1, 'of late, too')
  for (let i = 1; i <= 12; i++) link.came(10_000, 9200 + 200 * i)
  t.ok(Math.abs((link.sustained ?? 0) - 50_000) < 1, 'a link that became slow is believed at once')
  link.idle()
  link.busy(100_000)
  link.came(20_000, 100_200)
  t.ok((link.sustained ?? 0) > 50_000, 'the time when nothing was asked for does not count')
})

t.test('a link is known by its best', async t => {
  const link = new Link()
  t.equal(link.fill, undefined)
  // 1 MB/s and 40 ms, behind a queue that grows.
  link.busy(0)
  for (let now = 10; now <= 3000; now += 10) {
    link.came(10_000, now)
    link.answered(40 + now / 10, now)
  }
  t.equal(Math.round(link.bytesPerSecond ?? 0), 1_000_000)
  t.ok((link.roundTripMs ?? 0) < 45, `${link.roundTripMs} ms`)
  t.ok((link.fill ?? 0) < 90_000, 'so that the queue does not feed itself')
  link.idle()
  link.came(10, 4000)
  t.equal(Math.round(link.bytesPerSecond ?? 0), 1_000_000, 'a pause is not the link')
})
