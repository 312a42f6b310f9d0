// Streams: what is read is right from the first moment on, urgent reads overtake, and the copy ends up whole.
import { getEventListeners } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import t from 'tap'
import { ImageStream, Profile, type StreamProgress } from '../../lib/stream/index.js'
import { checkCache, CHUNK, code, copyOf, imageBytes, noise, packed, scratch, until, WebServer } from './support.js'

t.test('over HTTP: read at once, whole in the end', async t => {
  const { folder, bytes, manifest } = await packed(t, imageBytes(100))
  const server = await WebServer.start(t, folder)
  const stream = await ImageStream.open(server.url, { cache: path.join(scratch(t), 'a', 'b'), digest: manifest.digest })
  t.ok((await stream.read(50 * CHUNK - 10, 20)).equals(bytes.subarray(50 * CHUNK - 10, 50 * CHUNK + 10)))
  t.ok((await stream.read(bytes.length - 7, 1000)).equals(bytes.subarray(-7)), 'the end')
  t.equal((await stream.read(bytes.length, 10)).length, 0)
  await t.rejects(stream.read(-1, 10), code('EINVAL'))
  await t.rejects(stream.read(0.5, 10), code('EINVAL'))
  await stream.complete
  await stream.ready
  t.ok(copyOf(stream).equals(bytes), 'the copy is the image')
  const { state, missingBytes, presentBytes, allocatedBytes, fetched, trouble, requests } = stream.progress()
  t.same({ state, missingBytes, trouble }, { state: 'complete', missingBytes: 0, trouble: undefined })
  t.equal(presentBytes, allocatedBytes)
  const sum = Object.values(fetched).reduce((a, b) => a + b)
  t.equal(sum, manifest.dataSize, 'each byte came once')
  t.ok(requests.count < 40, `adjacent chunks share a request: ${requests.count} for ${manifest.blobs}`)
  await stream.close()
  await stream.close()
  t.equal(stream.progress().state, 'closed')
  await t.rejects(stream.read(0, 1).then(() => stream.read(CHUNK * 4, 1)), Error)
})

t.test('from a folder', async t => {
  const { folder, bytes } = await packed(t, imageBytes(50))
  for (const source of [folder, `file://${folder}`]) {
    await using stream = await ImageStream.open(source, { cache: scratch(t) })
    await stream.complete
    t.ok(copyOf(stream).equals(bytes))
  }
})

t.test('what somebody waits for overtakes what comes besides', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(200 * CHUNK, 'overtake'))
  const server = await WebServer.start(t, folder)
  // What is not asked for by a read stands still after its first answers.
  let held: (() => void)[] = []
  const last = manifest.offsets[manifest.blobOf[199] as number] as number
  server.trouble = async ({ name, from }) => {
    if (name.endsWith('.chunks') && from !== last) await new Promise<void>(resolve => held.push(resolve))
    return false
  }
  await using stream = await ImageStream.open(server.url, { cache: scratch(t) })
  await until(() => held.length >= 1)
  const read = await stream.read(199 * CHUNK, CHUNK)
  t.ok(read.equals(bytes.subarray(199 * CHUNK)), 'while nothing else comes')
  t.ok(stream.progress().missingBytes >= 190 * CHUNK)
  t.equal(stream.progress().fetched.demand, CHUNK)
  server.trouble = () => false
  for (const go of held) go()
  held = []
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
})

t.test('a read that is ended waits no more, and others go on', async t => {
  const { folder, bytes } = await packed(t, noise(20 * CHUNK, 'ended'))
  const server = await WebServer.start(t, folder)
  const held: (() => void)[] = []
  server.trouble = async ({ name }) => {
    if (name.endsWith('.chunks')) await new Promise<void>(resolve => held.push(resolve))
    return false
  }
  const stream = await ImageStream.open(server.url, { cache: scratch(t), fill: false, gate: 'none' })
  t.teardown(() => stream.close())
  const ends = new AbortController()
  const ended = t.rejects(stream.read(0, 3 * CHUNK, { signal: ends.signal }), { message: 'enough' })
  const goesOn = stream.read(2 * CHUNK, CHUNK)
  await until(() => held.length > 0)
  t.equal(stream.progress().waiting, 3)
  ends.abort(new Error('enough'))
  await ended
  t.equal(stream.progress().waiting, 1, 'the other one waits')
  await t.rejects(stream.read(0, 1, { signal: ends.signal }), { message: 'enough' })
  server.trouble = () => false
  for (const go of held) go()
  t.ok((await goesOn).equals(bytes.subarray(2 * CHUNK, 3 * CHUNK)))
  const { signal } = new AbortController()
  t.ok((await stream.read(5 * CHUNK, 1, { signal })).equals(bytes.subarray(5 * CHUNK, 5 * CHUNK + 1)))
  t.same(getEventListeners(signal, 'abort'), [], 'and leaves nothing with its signal')
  t.match(stream.progress().reads, { count: 2, failed: 0 })
})

t.test('what is under way besides is bounded', async t => {
  const { folder } = await packed(t, noise(400 * CHUNK, 'bounded'))
  const server = await WebServer.start(t, folder)
  server.trouble = ({ name }) => name.endsWith('.chunks')
  await using stream = await ImageStream.open(server.url, { cache: scratch(t) })
  await until(() => server.ranges().length >= 4)
  await new Promise(resolve => setTimeout(resolve, 100))
  const asked = server.ranges().reduce((sum, { from, to }) => sum + to - from, 0)
  t.ok(asked <= 640 << 10, `${asked} bytes before anything is known of the link`)
  t.equal(stream.progress().state, 'rest', 'there is no profile to wait for')
})

t.test('a gate for all of it opens when the copy is whole', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(60 * CHUNK, 'all'))
  const server = await WebServer.start(t, folder)
  const last = manifest.offsets[manifest.blobOf[59] as number] as number
  let release: (() => void) | undefined
  server.trouble = async ({ name, from, to }) => {
    if (name.endsWith('.chunks') && from <= last && last < to) await new Promise<void>(resolve => (release = resolve))
    return false
  }
  await using stream = await ImageStream.open(server.url, { cache: scratch(t), gate: 'all' })
  let opened = false
  const ready = stream.ready.then(() => (opened = true))
  await until(() => release !== undefined && stream.progress().missingBytes < 30 * CHUNK)
  t.same([opened, stream.progress().state], [false, 'gate'])
  release?.()
  await ready
  t.equal(stream.progress().missingBytes, 0)
  t.ok(copyOf(stream).equals(bytes))
})

t.test('in the order of the profile, then the rest', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(120 * CHUNK, 'order'))
  const order = [100, 7, 8, 9, 55, 3]
  const profile = Profile.fromOrder(manifest, order.map((chunk, i) => ({ chunk, atMs: i * 10 })), 1)
  writeFileSync(path.join(folder, 'profile.json'), profile.toString())
  const server = await WebServer.start(t, folder)
  let released = false
  const held: (() => void)[] = []
  const wanted = new Set(order.map(chunk => manifest.offsets[manifest.blobOf[chunk] as number]))
  server.trouble = async ({ name, from }) => {
    if (!released && name.endsWith('.chunks') && !wanted.has(from)) await new Promise<void>(resolve => held.push(resolve))
    return false
  }
  await using stream = await ImageStream.open(server.url, { cache: scratch(t), gate: 'profile' })
  t.same({ ...stream.match, wanted: undefined }, { unchanged: 6, moved: 0, stale: 0, placed: 0, wanted: undefined })
  await stream.ready
  const map = stream.map()
  t.ok(order.every(chunk => map[chunk] === 1), 'the gate opens when the profile is here')
  const asked = server.ranges().flatMap(({ from, to }) => Array.from({ length: (to - from) / CHUNK }, (_, i) => from / CHUNK + i))
  t.same(asked.slice(0, 6), order)
  t.ok(server.ranges().some(({ from, to }) => from === 7 * CHUNK && to === 9 * CHUNK), 'adjacent ones in one request')
  const { profile: told, fetched, state, startInMs } = stream.progress()
  t.same({ told, gate: fetched.gate, state, startInMs }, { told: { bytes: 6 * CHUNK, missingBytes: 0, unchanged: 6, moved: 0, stale: 0, placed: 0 }, gate: 6 * CHUNK, state: 'rest', startInMs: 0 })
  released = true
  for (const go of held) go()
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
})

t.test('of a profile of an earlier version what is unchanged comes first, and it is told how much that is', async t => {
  const before = await packed(t, noise(120 * CHUNK, 'before'))
  const profile = Profile.fromOrder(before.manifest, [100, 7, 55, 3, 70].map((chunk, i) => ({ chunk, atMs: i })), 1)
  const bytes = Buffer.from(before.bytes)
  bytes.fill(noise(CHUNK, 'new'), 7 * CHUNK, 8 * CHUNK)
  before.bytes.copy(bytes, 20 * CHUNK, 55 * CHUNK, 56 * CHUNK)
  bytes.fill(noise(CHUNK, 'newer'), 55 * CHUNK, 56 * CHUNK)
  const { folder } = await packed(t, bytes)
  const server = await WebServer.start(t, folder)
  await using stream = await ImageStream.open(server.url, { cache: scratch(t), profile, gate: 'profile' })
  await stream.ready
  t.match(stream.progress().profile, { unchanged: 3, moved: 1, stale: 1, placed: 0, missingBytes: 0 })
  const asked = server.ranges().flatMap(({ from, to }) => Array.from({ length: (to - from) / CHUNK }, (_, i) => from / CHUNK + i))
  t.same(asked.slice(0, 5), [100, 20, 3, 70, 7], 'then what has changed')
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
  const other = await packed(t, bytes, { chunkSize: '128KiB' })
  await using large = await ImageStream.open(other.folder, { cache: scratch(t), profile, gate: 'profile', fill: false })
  await large.ready
  t.match(large.progress().profile, { unchanged: 0, placed: 5, bytes: 5 * 2 * CHUNK, missingBytes: 0 })
  t.same(large.map().reduce<number[]>((all, byte, chunk) => (byte === 0 ? all : [...all, chunk]), []), [1, 3, 27, 35, 50])
})

t.test('without a fill nothing comes unasked', async t => {
  const { folder, bytes } = await packed(t, imageBytes(60))
  const server = await WebServer.start(t, folder)
  await using stream = await ImageStream.open(server.url, { cache: scratch(t), fill: false, gate: 'none', profile: false })
  await stream.ready
  t.ok((await stream.read(8 * CHUNK, 10)).equals(bytes.subarray(8 * CHUNK, 8 * CHUNK + 10)))
  t.ok((await stream.read(2 * CHUNK, CHUNK)).equals(Buffer.alloc(CHUNK)), 'zeros cost nothing')
  t.equal(server.ranges().length, 1)
  t.equal(stream.progress().fetched.demand, CHUNK)
})

t.test('the gate by forecast opens early, and nothing is late', async t => {
  const { folder, manifest } = await packed(t, noise(64 * CHUNK, 'forecast'))
  const server = await WebServer.start(t, folder)
  // 1 MiB/s; the start needs 512 KiB at once and the rest only much later.
  let free = Promise.resolve()
  server.trouble = async ({ name, from, to }) => {
    if (!name.endsWith('.chunks')) return false
    const before = free
    free = before.then(() => new Promise(resolve => setTimeout(resolve, (1000 * (to - from)) / (1 << 20))))
    await free
    return false
  }
  const entries = Array.from({ length: 64 }, (_, chunk) => ({ chunk, atMs: chunk < 8 ? 0 : 60_000 }))
  await using stream = await ImageStream.open(server.url, { cache: scratch(t), profile: Profile.fromOrder(manifest, entries, 1) })
  await stream.ready
  const map = stream.map()
  t.ok(Array.from({ length: 8 }).every((_, chunk) => map[chunk] === 1), 'what is needed at once is here')
  t.ok(map.filter(byte => byte !== 0).length < 48, 'and much of the rest is not')
})

t.test('a stream goes on where the last one ended', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(80 * CHUNK, 'resume'))
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  const one = await ImageStream.open(server.url, { cache, fill: false, gate: 'none' })
  await one.read(10 * CHUNK, 30 * CHUNK)
  await one.close()
  t.equal(await checkCache(cache, bytes), 30)
  server.asked.length = 0
  const two = await ImageStream.open(server.url, { cache })
  await two.complete
  t.equal(Object.values(two.progress().fetched).reduce((a, b) => a + b), manifest.dataSize - 30 * CHUNK)
  await two.close()
  await server.stop()
  const three = await ImageStream.open(server.url, { cache })
  await three.ready
  await three.complete
  t.ok((await three.read(0, bytes.length)).equals(bytes), 'and without its source when all is here')
  await three.close()
})

t.test('one process at a time; the next one waits', async t => {
  const { folder } = await packed(t, imageBytes(20))
  const cache = scratch(t)
  await t.rejects(ImageStream.status(cache), code('NOT_RUNNING'))
  const one = await ImageStream.open(folder, { cache })
  await t.rejects(ImageStream.open(folder, { cache }), code('IN_USE'))
  const told = await ImageStream.status(cache)
  t.equal(told.imageBytes, one.manifest.imageSize)
  let released = false
  const wait = ImageStream.released(cache).then(() => (released = true))
  await t.rejects(ImageStream.released(cache, AbortSignal.timeout(20)), { name: 'TimeoutError' })
  t.equal(released, false)
  await one.close()
  await wait
  const two = await ImageStream.open(folder, { cache })
  await two.close()
  await ImageStream.released(cache)
})

t.test('of those that begin at once one streams, and each has its turn', async t => {
  const { folder, bytes } = await packed(t, imageBytes(20))
  const cache = scratch(t)
  let streaming = 0
  let refused = 0
  const turn = async (): Promise<void> => {
    for (;;)
      try {
        const stream = await ImageStream.open(folder, { cache })
        t.equal(++streaming, 1)
        await stream.complete
        streaming--
        return await stream.close()
      } catch (error) {
        if ((error as { code?: string }).code !== 'IN_USE') throw error
        refused++
        await ImageStream.released(cache)
      }
  }
  await Promise.all(Array.from({ length: 6 }, turn))
  t.ok(refused >= 5, `${refused} had to wait`)
  t.equal(await checkCache(cache, bytes), 20)
})

t.test('two packs do not share a cache', async t => {
  const a = await packed(t, imageBytes(20))
  const b = await packed(t, imageBytes(20, 'b'))
  const cache = scratch(t)
  await (await ImageStream.open(a.folder, { cache })).close()
  await t.rejects(ImageStream.open(a.folder, { cache, digest: b.manifest.digest }), code('BAD_DIGEST'))
  await t.rejects(ImageStream.open(b.folder, { cache: scratch(t), digest: a.manifest.digest }), code('BAD_DIGEST'))
  await using other = await ImageStream.open(a.folder, { cache })
  await t.rejects(ImageStream.open(b.folder, { cache, digest: b.manifest.digest }), code('BAD_DIGEST'), 'nor when another process streams there')
  await t.rejects(ImageStream.open(a.folder, { cache, digest: other.manifest.digest }), code('IN_USE'))
})

t.test("the pack's own profile is had, or is known to be missing; a copy has kept it for when its source does not answer", async t => {
  const { folder, manifest } = await packed(t, noise(40 * CHUNK, 'own'))
  const publish = (...chunks: number[]): void =>
    writeFileSync(path.join(folder, 'profile.json'), Profile.fromOrder(manifest, chunks.map(chunk => ({ chunk, atMs: 0 })), 1).toString())
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  const wanted = async (): Promise<number[] | undefined> => {
    await using stream = await ImageStream.open(server.url, { cache, gate: 'none', fill: false })
    return stream.profile?.entries.map(({ chunk }) => chunk)
  }
  publish(3)
  server.trouble = ({ name }, response) => {
    if (name !== 'profile.json') return false
    response.writeHead(503).end('busy')
    return true
  }
  await t.rejects(wanted(), { code: 'SOURCE_UNREACHABLE', message: /profile\.json.*503/ }, 'nothing begins without the order that it has')
  t.same(readdirSync(cache), [])
  server.trouble = () => false
  t.same(await wanted(), [3])
  publish(5)
  t.same(await wanted(), [5])
  server.trouble = (_asked, response) => {
    response.writeHead(200).end('<html>Please sign in</html>')
    return true
  }
  t.same(await wanted(), [5], 'what somebody else answers is no profile')
  await server.stop()
  t.same(await wanted(), [5])
  await server.listen()
  server.trouble = () => false
  rmSync(path.join(folder, 'profile.json'))
  t.same(await wanted(), undefined, 'there is none any more')
})

t.test('a profile that is too long for its image is left alone', async t => {
  const { folder, manifest } = await packed(t, imageBytes(20))
  t.equal(manifest.blobs, 12, 'others are zeros, or stored once')
  const text = Profile.fromTrace(manifest, [{ chunk: 4, atMs: 0, waitedMs: 0 }]).toString()
  const file = path.join(folder, 'profile.json')
  for (const [spaces, wanted] of [[2000, 1], [12 * 64 + 4096, undefined]] as const) {
    writeFileSync(file, text + ' '.repeat(spaces))
    await using stream = await ImageStream.open(folder, { cache: scratch(t) })
    t.equal(stream.profile?.entries.length, wanted)
  }
})

t.test('a chunk with many places is given out before all of them have it', async t => {
  const { folder, bytes, manifest } = await packed(t, Buffer.alloc(1000 * CHUNK, 'the same'))
  t.equal(manifest.blobs, 1)
  const stream = await ImageStream.open(folder, { cache: scratch(t), fill: false, gate: 'none' })
  t.ok((await stream.read(700 * CHUNK, CHUNK)).equals(bytes.subarray(0, CHUNK)))
  t.ok((await stream.read(300 * CHUNK, CHUNK)).equals(bytes.subarray(0, CHUNK)))
  t.ok(stream.progress().presentBytes < bytes.length / 2, 'most are yet to have it')
  await stream.close()
  t.ok((await checkCache(stream.cache, bytes)) < 500, 'and closing does not wait for them')
  await using again = await ImageStream.open(folder, { cache: stream.cache })
  await again.complete
  t.ok(copyOf(again).equals(bytes))
})

t.test('a cache whose files are not what they were', async t => {
  const { folder, bytes } = await packed(t, imageBytes(40))
  const cache = scratch(t)
  const fill = async (): Promise<StreamProgress> => {
    await using stream = await ImageStream.open(folder, { cache })
    await stream.complete
    t.ok(copyOf(stream).equals(bytes))
    return stream.progress()
  }
  const fetched = (progress: StreamProgress): number => Object.values(progress.fetched).reduce((a, b) => a + b)
  const all = fetched(await fill())
  t.equal(fetched(await fill()), 0)
  const map = path.join(cache, 'chunks')
  const good = readFileSync(map)
  for (const change of [
    () => rmSync(map),
    () => rmSync(path.join(cache, 'image')),
    () => {
      // As of another image that was there before.
      writeFileSync(path.join(cache, 'image'), Buffer.alloc(bytes.length, 1))
      rmSync(map)
      rmSync(path.join(cache, 'manifest'))
    },
    () => writeFileSync(path.join(cache, 'image'), 'short'),
    () => writeFileSync(map, good.subarray(1)),
    () => writeFileSync(map, Buffer.alloc(good.length)),
    () => writeFileSync(map, Buffer.concat([good.subarray(0, 4096), Buffer.alloc(good.length - 4096, 3)])),
    () => writeFileSync(map, Buffer.concat([good.subarray(0, 4096), Buffer.alloc(good.length - 4096, 2)]))
  ]) {
    change()
    t.equal(fetched(await fill()), all, 'begins anew')
  }
  writeFileSync(path.join(cache, 'manifest'), 'rubbish')
  await t.rejects(fill(), { code: 'BAD_MANIFEST', message: new RegExp(`^${cache}/manifest is no manifest .* Give another folder`) })
})

t.test('a folder that is no cache keeps its files', async t => {
  const { folder, bytes } = await packed(t, imageBytes(4))
  for (const name of ['image', 'chunks', 'reads', 'profile.json']) {
    const cache = scratch(t)
    writeFileSync(path.join(cache, name), "somebody's")
    await t.rejects(ImageStream.open(folder, { cache }), { code: 'BAD_CACHE', message: new RegExp(`file ${name}, .*: give a new or empty folder`) })
    t.same(readdirSync(cache), [name], 'and no others')
    t.equal(readFileSync(path.join(cache, name), 'utf8'), "somebody's")
  }
  const cache = scratch(t)
  writeFileSync(path.join(cache, 'notes'), "somebody's")
  await using stream = await ImageStream.open(folder, { cache })
  await stream.complete
  t.ok(copyOf(stream).equals(bytes), 'what stands in nobody’s way may be there')
})

/** As after a power failure: another boot, and it was not closed. */
function powerFails(cache: string): void {
  const map = readFileSync(path.join(cache, 'chunks'))
  map.writeUInt32LE(0, 28)
  map.write('00000000-0000-0000-0000-000000000000', 64, 'latin1')
  writeFileSync(path.join(cache, 'chunks'), map)
}

t.test('an opening can be ended while chunks are verified, and leaves nothing open', async t => {
  const { folder, bytes } = await packed(t, noise(40 * CHUNK, 'ended'))
  const cache = scratch(t)
  const one = await ImageStream.open(folder, { cache })
  await one.complete
  await one.close()
  powerFails(cache)
  const handle = await open(path.join(cache, 'image'))
  const prototype = Object.getPrototypeOf(handle) as { read: (this: FileHandle, ...args: unknown[]) => Promise<unknown> }
  await handle.close()
  const read: (this: FileHandle, ...args: unknown[]) => Promise<unknown> = prototype.read
  const controller = new AbortController()
  let reads = 0
  prototype.read = async function (...args) {
    if (++reads === 3) controller.abort(new Error('enough'))
    return read.apply(this, args)
  }
  t.teardown(() => (prototype.read = read))
  const before = readdirSync('/proc/self/fd').length
  await t.rejects(ImageStream.open(folder, { cache, profile: false, signal: controller.signal }), { message: 'enough' })
  t.equal(reads, 3)
  t.equal(readdirSync('/proc/self/fd').length, before)
  await using again = await ImageStream.open(folder, { cache })
  await again.complete
  t.ok(copyOf(again).equals(bytes))
  t.equal(again.progress().requests.count, 0, 'each chunk was verified then')
})

t.test('after a power failure every chunk is verified', async t => {
  const { folder, bytes, manifest } = await packed(t, imageBytes(40))
  const cache = scratch(t)
  const one = await ImageStream.open(folder, { cache })
  await one.complete
  await one.close()
  // Two chunks did not make it to the disk.
  powerFails(cache)
  const image = readFileSync(path.join(cache, 'image'))
  image.fill(0, 4 * CHUNK, 6 * CHUNK)
  writeFileSync(path.join(cache, 'image'), image)
  const two = await ImageStream.open(folder, { cache, fill: false })
  t.equal(await checkCache(cache, bytes), 38)
  await two.close()
  const three = await ImageStream.open(folder, { cache })
  await three.complete
  t.ok(copyOf(three).equals(bytes))
  const length = [4, 5].reduce((sum, chunk) => sum + manifest.lengthOf(manifest.blobOf[chunk] as number), 0)
  t.equal(Object.values(three.progress().fetched).reduce((a, b) => a + b), length)
  await three.close()
})

t.test('what did not reach the disk is doubted, and the stream ends all the same', async t => {
  const { folder, bytes } = await packed(t, imageBytes(40))
  const cache = scratch(t)
  const stream = await ImageStream.open(folder, { cache })
  await stream.complete
  const all: StreamProgress[] = []
  const told = (async () => {
    for await (const progress of stream) all.push(progress)
  })()
  const handle = await open(path.join(cache, 'image'))
  const prototype = Object.getPrototypeOf(handle) as { datasync: (this: FileHandle) => Promise<void> }
  await handle.close()
  const datasync: (this: FileHandle) => Promise<void> = prototype.datasync
  // As the kernel does, it tells of its failure once.
  let failures = 1
  prototype.datasync = async function () {
    if (failures-- > 0) throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })
    return datasync.call(this)
  }
  t.teardown(() => (prototype.datasync = datasync))
  await t.rejects(stream.close(), code('EIO'))
  await told
  t.equal(all.at(-1)?.state, 'closed')
  const image = readFileSync(path.join(cache, 'image'))
  image.fill(0, 4 * CHUNK, 5 * CHUNK)
  writeFileSync(path.join(cache, 'image'), image)
  await using again = await ImageStream.open(folder, { cache })
  await again.complete
  t.ok(copyOf(again).equals(bytes), 'each chunk was verified')
})

t.test('progress is told until the end', async t => {
  const { folder } = await packed(t, imageBytes(60))
  const server = await WebServer.start(t, folder)
  const stream = await ImageStream.open(server.url, { cache: scratch(t) })
  const states: string[] = []
  const iterated = (async () => {
    for await (const { state } of stream) states.push(state)
  })()
  await stream.complete
  await stream.close()
  await iterated
  t.equal(states.at(-1), 'closed')
  for await (const { state } of stream) t.equal(state, 'closed')
})

t.test('a copy of another image than the source publishes goes on as such, and says so', async t => {
  const a = await packed(t, imageBytes(20))
  const b = await packed(t, imageBytes(20, 'b'))
  const cache = scratch(t)
  for (const digest of [undefined, undefined, a.manifest.digest]) {
    await using stream = await ImageStream.open(a.folder, { cache, ...(digest && { digest }) })
    await stream.complete
    t.equal(stream.progress().trouble, undefined)
  }
  await using stream = await ImageStream.open(b.folder, { cache })
  await until(() => stream.progress().trouble?.code === 'SOURCE_CHANGED')
  t.match(stream.progress(), { state: 'complete', trouble: { message: /is of another image than/ } })
  t.ok((await stream.read(0, CHUNK)).equals(a.bytes.subarray(0, CHUNK)))
})

t.test('what cannot be streamed', async t => {
  const { folder } = await packed(t, imageBytes(4))
  const cache = scratch(t)
  await t.rejects(ImageStream.open(folder, undefined as unknown as { cache: string }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache: folder }), { code: 'BAD_CACHE', message: /is a pack/ })
  t.notOk(existsSync(path.join(folder, 'image')))
  const closed = await ImageStream.open(folder, { cache: scratch(t) })
  await closed.close()
  await t.rejects(closed.read(0, 1), code('CLOSED'))
  await t.rejects(ImageStream.open('', { cache }), code('EINVAL'))
  await t.rejects(ImageStream.open('ftp://x/y', { cache }), code('EINVAL'))
  await t.rejects(ImageStream.open('http://', { cache }), code('EINVAL'))
  await t.rejects(ImageStream.open('http://127.0.0.1/x?y', { cache }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache: '' }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache, digest: 'abc' }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache, gate: 'soon' as 'none' }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache, gate: 'all', fill: false }), { code: 'EINVAL', message: /leave out one/ })
  await t.rejects(ImageStream.open(folder, { cache, profile: {} as Profile }), code('EINVAL'))
  await t.rejects(ImageStream.open(folder, { cache, silenceMs: 0 }), code('EINVAL'))
  await t.rejects(ImageStream.open(path.join(folder, 'nosuch'), { cache }), { code: 'SOURCE_REFUSED', message: /stream pack/ })
  const file = { code: 'SOURCE_REFUSED', message: /manifest is no folder: give the one .*NBD server/ }
  await t.rejects(ImageStream.open(path.join(folder, 'manifest'), { cache }), file)
  for (const source of [folder, `file://${folder}`, 'http://me:word@127.0.0.1:1/'])
    await t.rejects(ImageStream.open(source, { cache, manifest: path.join(folder, 'manifest') }), { code: 'EINVAL', message: /^(?!.*word).*leave it out/ })
  await t.rejects(ImageStream.open('http://127.0.0.1:1/', { cache }), code('SOURCE_UNREACHABLE'))
  await t.rejects(ImageStream.open(folder, { cache, signal: AbortSignal.abort(new Error('no')) }), { message: 'no' })
  writeFileSync(path.join(folder, 'manifest'), 'rubbish')
  await t.rejects(ImageStream.open(folder, { cache }), { code: 'BAD_MANIFEST', message: new RegExp(`^What ${folder} has .* Fetch it again`) })
})
