// Bad links, bad servers, bad chunks, no room: nothing wrong is ever given out, and what can go on does.
import { execFileSync } from 'node:child_process'
import { readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import path from 'node:path'
import t, { type Test } from 'tap'
import { ImageStream, pack, Profile, type Manifest, type StreamProgress } from '../../lib/stream/index.js'
import { checkCache, CHUNK, code, copyOf, imageBytes, noise, noMount, packed, scratch, smallDisk, until, WebServer } from './support.js'

async function open(t: Test, source: string, options: Partial<Parameters<typeof ImageStream.open>[1]> = {}): Promise<ImageStream> {
  const stream = await ImageStream.open(source, { cache: scratch(t), ...options })
  t.teardown(() => stream.close())
  return stream
}

/** Until its trouble is this. */
async function trouble(stream: ImageStream, code: string): Promise<NonNullable<StreamProgress['trouble']>> {
  await until(() => stream.progress().trouble?.code === code)
  return stream.progress().trouble as NonNullable<StreamProgress['trouble']>
}

t.test('every chunk comes damaged once, in all kinds of ways', async t => {
  const { folder, bytes, manifest } = await packed(t, imageBytes(80))
  const server = await WebServer.start(t, folder)
  const damaged = new Set<number>()
  server.spoil = (sent, { from, to }) => {
    const copy = Buffer.from(sent)
    for (let blob = 0; blob < manifest.blobs; blob++) {
      const at = manifest.offsets[blob] as number
      if (at < from || at >= to || damaged.has(blob)) continue
      damaged.add(blob)
      const middle = at - from + Math.floor(manifest.lengthOf(blob) / 2)
      copy[middle] = (copy[middle] as number) ^ (1 << blob % 8)
    }
    return copy
  }
  const stream = await open(t, server.url)
  const all = await stream.read(0, bytes.length)
  t.ok(all.equals(bytes), 'nothing damaged is given out')
  await stream.complete
  t.equal(await checkCache(stream.cache, bytes), 80)
  t.equal(damaged.size, manifest.blobs)
  const { corrupt, trouble } = stream.progress()
  // Brotli has bits that mean nothing, so that a few may have come well.
  t.ok(corrupt >= manifest.blobs - 5, `${corrupt} of ${manifest.blobs} were refused`)
  t.equal(trouble, undefined)
  t.ok(server.ranges().some(({ headers }) => headers['cache-control'] === 'no-cache'), 'caches on the way are passed over')
})

t.test('a chunk that stays damaged fails its readers, and no others; put right, it comes', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(40 * CHUNK, 'bad'))
  const server = await WebServer.start(t, folder)
  const at = manifest.offsets[17] as number
  let bad = true
  server.spoil = (sent, { from, to }) => {
    if (!bad || at < from || at >= to) return sent
    const copy = Buffer.from(sent)
    copy.fill(1, at - from, at - from + 100)
    return copy
  }
  const stream = await open(t, server.url)
  await t.rejects(stream.read(17 * CHUNK, 1), { code: 'CHUNK_CORRUPT', message: /Chunk 17/ })
  await until(() => stream.progress().missingBytes === CHUNK)
  t.equal(stream.map()[17], 0)
  t.equal(stream.progress().trouble?.code, 'CHUNK_CORRUPT')
  t.ok((await stream.read(0, 17 * CHUNK)).equals(bytes.subarray(0, 17 * CHUNK)))
  bad = false
  t.ok((await stream.read(17 * CHUNK, CHUNK)).equals(bytes.subarray(17 * CHUNK, 18 * CHUNK)))
  t.equal(stream.progress().trouble, undefined, 'and nobody has to put anything right any more')
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
})

/** Cuts each answer at the first of these offsets of the data file that lies in it; at each of them once. */
function cutting(server: WebServer, manifest: Manifest, at: number[]): Set<number> {
  const left = new Set(at)
  server.trouble = ({ name, from, to }, response) => {
    if (!name.endsWith('.chunks')) return false
    const cut = Math.min(...[...left].filter(one => one >= from && one < to))
    if (cut === Infinity) return false
    left.delete(cut)
    const data = readFileSync(path.join(server.folder, name)).subarray(from, cut)
    response.writeHead(206, { 'content-length': to - from, 'content-range': `bytes ${from}-${to - 1}/${manifest.dataSize}` })
    response.write(data, () => response.destroy())
    return true
  }
  return left
}

t.test('the link is cut at every hundredth of the way, and goes on each time', async t => {
  const chunks = 100
  const { folder, bytes, manifest } = await packed(t, noise(chunks * CHUNK, 'cut'))
  const server = await WebServer.start(t, folder)
  // In an order that lies nowhere.
  const profile = Profile.fromOrder(manifest, Array.from({ length: chunks }, (_, i) => ({ chunk: (i * 37) % chunks, atMs: i })), 1)
  const inOrder = { profile, fill: false, gate: 'profile' } as const
  for (const [what, within, options] of [
    ['after a byte of a chunk', 1, {}],
    ['before its last byte', CHUNK - 1, {}],
    ['in the middle of what a profile has', CHUNK / 2, inOrder]
  ] as const) {
    const left = cutting(server, manifest, Array.from({ length: chunks }, (_, i) => i * CHUNK + within))
    const stream = await open(t, server.url, options)
    await stream.ready
    await stream.complete
    t.ok(copyOf(stream).equals(bytes), what)
    t.equal(left.size, 0)
    const { requests, trouble, corrupt, fetched } = stream.progress()
    t.ok(requests.failed >= chunks, `${requests.failed} failures`)
    t.same([corrupt, trouble], [0, undefined])
    if (options === inOrder) t.equal(fetched.fill, 0)
    await stream.close()
  }
})

t.test('the stream is closed and begun again at every hundredth', async t => {
  const { folder, bytes } = await packed(t, noise(100 * CHUNK, 'restart'))
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  let fetched = 0
  let here = 0
  for (let round = 0; here < 100; round++) {
    const stream = await ImageStream.open(server.url, { cache })
    await until(() => stream.map().filter(byte => byte !== 0).length > here)
    await stream.close()
    fetched += Object.values(stream.progress().fetched).reduce((a, b) => a + b)
    here = await checkCache(cache, bytes)
    if (round > 100) t.fail('it never ends')
  }
  t.equal(here, 100)
  t.ok(fetched < 3 * bytes.length, `what is here does not come again: ${fetched} of ${bytes.length} bytes`)
})

t.test('the server goes, and comes back', async t => {
  const { folder, bytes } = await packed(t, noise(60 * CHUNK, 'gone'))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url, { fill: false, gate: 'none' })
  await stream.read(0, 10 * CHUNK)
  await server.stop()
  const read = stream.read(20 * CHUNK, CHUNK)
  const { message } = await trouble(stream, 'SOURCE_UNREACHABLE')
  t.match(message, /127\.0\.0\.1/)
  t.ok((await stream.read(5 * CHUNK, CHUNK)).equals(bytes.subarray(5 * CHUNK, 6 * CHUNK)), 'what is here can be read')
  await until(() => stream.progress().requests.failed >= 3)
  await server.listen()
  t.ok((await read).equals(bytes.subarray(20 * CHUNK, 21 * CHUNK)))
  t.equal(stream.progress().trouble, undefined)
})

t.test('a server that says nothing is given up after its time', async t => {
  const { folder, bytes } = await packed(t, noise(30 * CHUNK, 'silent'))
  const server = await WebServer.start(t, folder)
  let silent = true
  server.trouble = ({ name, from, to }, response) => {
    if (!silent || !name.endsWith('.chunks')) return false
    response.writeHead(206, { 'content-length': to - from, 'content-range': `bytes ${from}-${to - 1}/${30 * CHUNK}` })
    response.write(Buffer.alloc(10))
    return true
  }
  const stream = await open(t, server.url, { silenceMs: 200 })
  await trouble(stream, 'SOURCE_UNREACHABLE')
  silent = false
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
})

t.test('what servers say', async t => {
  const { folder, bytes } = await packed(t, noise(30 * CHUNK, 'status'))
  const server = await WebServer.start(t, folder)
  for (const status of [500, 503, 429]) {
    let times = 3
    server.trouble = ({ name }, response) => {
      if (!name.endsWith('.chunks') || times-- <= 0) return false
      response.writeHead(status).end('busy')
      return true
    }
    const stream = await open(t, server.url)
    await stream.complete
    t.ok(copyOf(stream).equals(bytes), `${status} passes`)
  }
  server.trouble = ({ name }, response) => {
    if (!name.endsWith('.chunks')) return false
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
    return true
  }
  const whole = await open(t, server.url)
  await t.rejects(whole.complete, code('SOURCE_NO_RANGES'))
  await t.rejects(whole.read(0, 1), code('SOURCE_NO_RANGES'))
  t.equal(whole.progress().state, 'failed')
  const answered = server.ranges().length
  server.trouble = ({ name }, response) => {
    if (!name.endsWith('.chunks') || server.ranges().length !== answered + 2) return false
    response.writeHead(200).end('Please sign in')
    return true
  }
  const between = await open(t, server.url, { fill: false, gate: 'none' })
  await between.read(0, CHUNK)
  t.ok((await between.read(5 * CHUNK, CHUNK)).equals(bytes.subarray(5 * CHUNK, 6 * CHUNK)), 'of a server that knows ranges it passes')
  t.equal(server.ranges().length, answered + 3)
  server.trouble = ({ name, to }, response) => {
    if (!name.endsWith('.chunks')) return false
    response.writeHead(206, { 'content-range': `bytes 0-${to - 1}/${30 * CHUNK}` }).end(Buffer.alloc(10))
    return true
  }
  const others = await open(t, server.url)
  await trouble(others, 'SOURCE_UNREACHABLE')
  server.trouble = ({ name }, response) => {
    if (name !== 'manifest') return false
    response.writeHead(403).end('no')
    return true
  }
  await t.rejects(ImageStream.open(server.url, { cache: scratch(t) }), { code: 'SOURCE_REFUSED', message: /403/ })
  server.trouble = ({ name }, response) => {
    if (name !== 'manifest') return false
    response.writeHead(302, { location: '/pack/manifest' }).end()
    return true
  }
  await t.rejects(ImageStream.open(server.url, { cache: scratch(t) }), { code: 'SOURCE_REFUSED', message: /again and again/ })
  server.trouble = (_asked, response) => {
    response.writeHead(302, { location: 'file:///etc/passwd' }).end()
    return true
  }
  await t.rejects(ImageStream.open(server.url, { cache: scratch(t) }), { code: 'SOURCE_REFUSED', message: /not followed/ })
})

t.test('a copy that was begun goes on once somebody else no longer answers in the server’s place', async t => {
  const { folder, bytes } = await packed(t, noise(40 * CHUNK, 'portal'))
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  const first = await open(t, server.url, { cache, fill: false, gate: 'none' })
  await first.read(0, 10 * CHUNK)
  await first.close()
  server.trouble = (_asked, response) => {
    response.writeHead(200).end('<html>Please sign in</html>')
    return true
  }
  const stream = await open(t, server.url, { cache })
  await trouble(stream, 'SOURCE_NO_RANGES')
  t.equal(stream.progress().state, 'rest')
  server.trouble = () => false
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
  t.equal(stream.progress().trouble, undefined)
})

t.test('what is no manifest is no other image', async t => {
  const { folder, bytes } = await packed(t, noise(40 * CHUNK, 'upload'))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url, { fill: false, gate: 'none' })
  await stream.read(0, CHUNK)
  for (const [turn, body] of ['', '<html>Please sign in</html>'].entries()) {
    const before = server.asked.length
    server.trouble = ({ name }, response) => {
      response.writeHead(name === 'manifest' ? 200 : 404).end(name === 'manifest' ? body : '')
      return true
    }
    const read = stream.read((20 + turn) * CHUNK, CHUNK)
    // The source is asked, and after a while, if that is another image, for the chunk.
    await until(() => server.asked.slice(before).some(({ name }) => name === 'manifest'))
    await new Promise(resolve => setTimeout(resolve, 1000))
    t.not(stream.progress().state, 'failed')
    server.trouble = () => false
    t.ok((await read).equals(bytes.subarray((20 + turn) * CHUNK, (21 + turn) * CHUNK)))
  }
})

t.test('trouble of any kind is over when something comes', async t => {
  const { folder, bytes, manifest } = await packed(t, noise(40 * CHUNK, 'over'))
  const data = path.join(folder, manifest.dataName)
  const stream = await open(t, folder, { fill: false, gate: 'none' })
  renameSync(data, `${data}.away`)
  symlinkSync(path.basename(data), data)
  const read = stream.read(0, CHUNK)
  await trouble(stream, 'ELOOP')
  renameSync(`${data}.away`, data)
  t.ok((await read).equals(bytes.subarray(0, CHUNK)))
  t.equal(stream.progress().trouble, undefined)
})

t.test('redirected to another server, without what is secret', async t => {
  const { folder, bytes } = await packed(t, noise(30 * CHUNK, 'redirect'))
  const mirror = await WebServer.start(t, folder)
  const server = await WebServer.start(t, folder)
  server.trouble = ({ name }, response) => {
    response.writeHead(307, { location: `${mirror.url}${name}` }).end()
    return true
  }
  const stream = await open(t, server.url, { headers: { authorization: 'Bearer secret' } })
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
  t.ok(server.asked.every(({ headers }) => headers.authorization === 'Bearer secret'))
  t.ok(mirror.asked.length > 0 && mirror.asked.every(({ headers }) => headers.authorization === undefined))
})

t.test('the publisher replaces the image', async t => {
  const { folder, image, bytes, manifest } = await packed(t, noise(60 * CHUNK, 'old'))
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  const stream = await open(t, server.url, { cache, fill: false, gate: 'none' })
  await stream.read(0, 10 * CHUNK)
  const next = noise(60 * CHUNK, 'new')
  writeFileSync(image, next)
  await pack(image, folder)
  t.ok((await stream.read(10 * CHUNK, CHUNK)).equals(bytes.subarray(10 * CHUNK, 11 * CHUNK)), 'the old data file is still there')
  let damaged = 0
  server.spoil = sent => {
    if (damaged++ > 0) return sent
    const copy = Buffer.from(sent)
    copy[copy.length >> 1] = (copy[copy.length >> 1] as number) ^ 1
    return copy
  }
  t.ok((await stream.read(11 * CHUNK, CHUNK)).equals(bytes.subarray(11 * CHUNK, 12 * CHUNK)), 'a chunk that comes damaged once is had from it')
  t.ok(damaged > 1)
  let refused = 0
  server.trouble = ({ name }, response) => {
    if (!name.endsWith('.chunks') || refused++ > 0) return false
    response.writeHead(404).end('not at the moment')
    return true
  }
  t.ok((await stream.read(12 * CHUNK, CHUNK)).equals(bytes.subarray(12 * CHUNK, 13 * CHUNK)), 'and one that is refused once')
  await until(() => server.asked.filter(({ name }) => name === 'manifest').length >= 2)
  await new Promise(resolve => setTimeout(resolve, 1000))
  t.equal(stream.progress().state, 'rest', 'it is not given up')
  rmSync(path.join(folder, manifest.dataName))
  await t.rejects(stream.read(20 * CHUNK, CHUNK), { code: 'SOURCE_CHANGED', message: /another image/ })
  t.ok((await stream.read(0, 13 * CHUNK)).equals(bytes.subarray(0, 13 * CHUNK)), 'what is here stays')
  t.equal(stream.progress().state, 'failed')
  await stream.close()
  const fresh = await open(t, server.url)
  await fresh.complete
  t.ok(copyOf(fresh).equals(next))
  t.equal(await checkCache(cache, bytes), 13)
})

t.test('the publisher writes over the data file in its place', async t => {
  const { folder, image, bytes, manifest } = await packed(t, noise(60 * CHUNK, 'old'))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url, { fill: false, gate: 'none' })
  await stream.read(0, 10 * CHUNK)
  writeFileSync(image, noise(60 * CHUNK, 'new'))
  const { manifest: after } = await pack(image, folder)
  renameSync(path.join(folder, after.dataName), path.join(folder, manifest.dataName))
  await t.rejects(stream.read(20 * CHUNK, CHUNK), Error)
  t.equal(stream.progress().trouble?.code, 'SOURCE_CHANGED')
  t.equal(await checkCache(stream.cache, bytes), 10)
})

t.test('a cache without room: reads go on, and so does the rest when there is room', { skip: noMount }, async t => {
  const { folder, bytes } = await packed(t, noise(60 * CHUNK, 'full'))
  const server = await WebServer.start(t, folder)
  const disk = smallDisk(t, '2m')
  const cache = path.join(disk, 'cache')
  const stream = await open(t, server.url, { cache })
  const { message } = await trouble(stream, 'CACHE_FULL')
  t.match(message, /no more room for the cache .*ENOSPC/)
  t.ok((await checkCache(cache, bytes)) < 32)
  t.ok((await stream.read(0, bytes.length)).equals(bytes), 'all of it can be read')
  t.equal(stream.progress().trouble?.code, 'CACHE_FULL')
  execFileSync('mount', ['-o', 'remount,size=16m', disk])
  await stream.complete
  t.equal(await checkCache(cache, bytes), 60)
  t.equal(stream.progress().trouble, undefined)
})

t.test('no room for a cache at all', { skip: noMount }, async t => {
  const { folder } = await packed(t, noise(4000 * 4096, 'none'), { chunkSize: 4096 })
  const disk = smallDisk(t, '100k')
  await t.rejects(ImageStream.open(folder, { cache: path.join(disk, 'cache') }), code('CACHE_FULL'))
})

t.test('a server that speaks no HTTP', async t => {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.end('220 ready\r\n')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  await t.rejects(ImageStream.open(`http://127.0.0.1:${port}/`, { cache: scratch(t) }), code('SOURCE_UNREACHABLE'))
})

t.test('a server that wants to speak something else', async t => {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('data', () => socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n'))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  await t.rejects(ImageStream.open(`http://127.0.0.1:${port}/`, { cache: scratch(t) }), { code: 'SOURCE_UNREACHABLE', message: /without an answer/ })
})

t.test('an answer that does not end says so', async t => {
  const { folder } = await packed(t, imageBytes(4))
  const server = await WebServer.start(t, folder)
  let end = (_response: ServerResponse): void => undefined
  server.trouble = ({ name }, response) => {
    if (name !== 'manifest') return false
    response.writeHead(200, { 'content-length': 1000 })
    response.write(Buffer.alloc(10), () => end(response))
    return true
  }
  const opens = (): Promise<ImageStream> => ImageStream.open(server.url, { cache: scratch(t), silenceMs: 300 })
  await t.rejects(opens(), { code: 'SOURCE_UNREACHABLE', message: /no answer for 0\.3 s/ })
  end = response => void response.destroy()
  await t.rejects(opens(), { code: 'SOURCE_UNREACHABLE', message: /closed before the answer had ended/ })
})

t.test('what comes compressed is refused, and what cannot be a header', async t => {
  const { folder, bytes } = await packed(t, imageBytes(4))
  const server = await WebServer.start(t, folder)
  server.trouble = ({ name }, response) => {
    if (name === 'manifest') response.setHeader('content-encoding', 'gzip')
    return false
  }
  await t.rejects(ImageStream.open(server.url, { cache: scratch(t) }), { code: 'SOURCE_REFUSED', message: /manifest comes compressed \(content-encoding: gzip\)/ })
  server.trouble = ({ headers }, response) => {
    response.setHeader('content-encoding', headers['accept-encoding'] === 'identity' ? 'Identity' : 'br')
    return false
  }
  const stream = await open(t, server.url)
  await stream.complete
  t.ok(copyOf(stream).equals(bytes))
  for (const headers of [{ 'a b': 'secret' }, { a: 'secret\n' }, { a: undefined as unknown as string }])
    await t.rejects(ImageStream.open(server.url, { cache: scratch(t), headers }), { code: 'EINVAL', message: /^(?!.*secret).*headers/s })
})

t.test('closing in the middle', async t => {
  const { folder, bytes } = await packed(t, noise(60 * CHUNK, 'close'))
  const server = await WebServer.start(t, folder)
  server.trouble = async ({ name }) => {
    if (name.endsWith('.chunks')) await new Promise(resolve => setTimeout(resolve, 50))
    return false
  }
  const stream = await ImageStream.open(server.url, { cache: scratch(t), gate: 'all' })
  const read = stream.read(40 * CHUNK, 10 * CHUNK)
  await Promise.all([
    t.rejects(read, code('CLOSED')),
    t.rejects(stream.ready, code('CLOSED')),
    t.rejects(stream.complete, code('CLOSED')),
    stream.close()
  ])
  await checkCache(stream.cache, bytes)
})
