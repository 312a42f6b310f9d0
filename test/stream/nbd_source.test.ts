// Streams from an NBD server that has the image itself: verified by a manifest from elsewhere, whatever the server does.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { ImageStream, Profile, type StreamOptions } from '../../lib/stream/index.js'
import { openSource } from '../../lib/stream/source.js'
import { NbdKit, noNbdkit } from '../nbdkit.js'
import { limit } from '../patience.js'
import { CHUNK, checkCache, code, copyOf, imageBytes, noise, packed, scratch, until, WebServer, type Packed } from './support.js'

const skip = noNbdkit

async function open(t: Test, uri: string, options: Partial<StreamOptions>): Promise<ImageStream> {
  const stream = await ImageStream.open(uri, { cache: scratch(t), ...options })
  t.teardown(() => stream.close())
  return stream
}

const manifestOf = ({ folder }: Packed): string => path.join(folder, 'manifest')

t.test('all of it comes, right and in the order that is wanted', { skip }, async t => {
  const pack = await packed(t, imageBytes(200))
  const { bytes, manifest } = pack
  const server = await new NbdKit(t, pack.image, ['-r', '--filter=delay'], ['delay-read=1ms']).start()
  const stream = await open(t, server.uri, { manifest: manifestOf(pack), digest: manifest.digest, fill: false, gate: 'none' })
  t.equal(stream.manifest.digest, manifest.digest)
  t.ok((await stream.read(120 * CHUNK + 100, 3 * CHUNK)).equals(bytes.subarray(120 * CHUNK + 100, 123 * CHUNK + 100)))
  t.ok((await stream.read(199 * CHUNK, bytes.length - 199 * CHUNK)).equals(bytes.subarray(199 * CHUNK)), 'the short one at the end')
  t.ok(stream.progress().presentBytes < 60 * CHUNK, 'and nothing else but the 50 that are equal')
  await stream.close()
  // The pack's web server goes on with the same copy, and an NBD server with that one.
  const web = await WebServer.start(t, pack.folder)
  const second = await open(t, web.url, { cache: stream.cache, fill: false, gate: 'none' })
  t.ok((await second.read(0, 10 * CHUNK)).equals(bytes.subarray(0, 10 * CHUNK)))
  await second.close()
  const third = await open(t, server.uri, { cache: stream.cache, manifest: web.url })
  await third.complete
  t.ok(copyOf(third).equals(bytes))
})

t.test('nothing unverified is given out', { skip }, async t => {
  const pack = await packed(t, noise(40 * CHUNK, 'nbd'))
  const damaged = Buffer.from(pack.bytes)
  damaged[17 * CHUNK + 5]! ^= 1
  const image = path.join(scratch(t), 'image')
  writeFileSync(image, damaged)
  const server = await new NbdKit(t, image, ['-r']).start()
  const stream = await open(t, server.uri, { manifest: pack.folder })
  await t.rejects(stream.read(17 * CHUNK, 10), { code: 'CHUNK_CORRUPT', message: /Chunk 17/ })
  await until(() => stream.progress().missingBytes === CHUNK)
  t.equal(await checkCache(stream.cache, pack.bytes), 39)
  writeFileSync(image, pack.bytes)
  t.ok((await stream.read(17 * CHUNK, CHUNK)).equals(pack.bytes.subarray(17 * CHUNK, 18 * CHUNK)), 'put right, it comes')
  await stream.complete
})

t.test('the server goes and comes back, fails, and does not answer', { skip }, async t => {
  const pack = await packed(t, noise(100 * CHUNK, 'away'))
  const fail = path.join(scratch(t), 'fail')
  const server = await new NbdKit(t, pack.image, ['-r', '--filter=error'], ['error-pread=EIO', 'error-pread-rate=100%', `error-pread-file=${fail}`]).start()
  const stream = await open(t, server.uri, { manifest: manifestOf(pack), fill: false, gate: 'none', silenceMs: 300 })
  const chunk = async (n: number): Promise<void> => {
    t.ok((await stream.read(n * CHUNK, CHUNK)).equals(pack.bytes.subarray(n * CHUNK, (n + 1) * CHUNK)), `chunk ${n}`)
  }
  const trouble = (): Promise<void> => until(() => stream.progress().trouble?.code === 'SOURCE_UNREACHABLE')
  await chunk(0)
  await server.kill()
  const waits = chunk(10)
  await trouble()
  await server.start()
  await waits
  writeFileSync(fail, '')
  const fails = chunk(20)
  await trouble()
  rmSync(fail)
  await fails
  await server.stop()
  const silent = chunk(30)
  await trouble()
  server.goOn()
  await silent
  await server.stop()
  const never = t.rejects(stream.read(40 * CHUNK, 1), code('CLOSED'))
  await stream.close()
  await never
})

t.test('a server that is slow is not silent', { skip }, async t => {
  const pack = await packed(t, noise(100 * CHUNK, 'slow'))
  // It answers one after the other.
  const server = await new NbdKit(t, pack.image, ['-r', '-t', '1', '--filter=delay'], ['delay-read=200ms']).start()
  const stream = await open(t, server.uri, { manifest: manifestOf(pack), fill: false, gate: 'none', silenceMs: 2000 })
  const chunks = Array.from({ length: 15 }, (_, i) => 5 * i)
  const reads = await Promise.all(chunks.map(chunk => stream.read(chunk * CHUNK, CHUNK)))
  t.ok(reads.every((read, i) => read.equals(pack.bytes.subarray(5 * i * CHUNK, (5 * i + 1) * CHUNK))))
  t.equal(stream.progress().requests.failed, 0, 'though the last one has waited for longer than silence may last')
})

/** Stands between clients and a server, whose words it can keep back. */
class Relay {
  readonly uri: string
  /** One for each that a client has made. */
  readonly connections: { client: Socket; server: Socket }[] = []
  /** Of those to come: the server is not heard. */
  hold = false

  constructor(t: Test, uri: string) {
    const socket = path.join(scratch(t), 'relay')
    this.uri = `nbd+unix:///?socket=${socket}`
    const listener = createServer(client => {
      const server = connect(new URL(uri).searchParams.get('socket') as string)
      for (const end of [client, server]) end.on('error', () => undefined).on('close', () => [client, server].forEach(one => one.destroy()))
      client.pipe(server)
      if (!this.hold) server.pipe(client)
      this.connections.push({ client, server })
    }).listen(socket)
    t.teardown(() => listener.close())
  }
}

t.test('a connection that has been given up does nothing to the next one', { skip }, async t => {
  const pack = await packed(t, noise(40 * CHUNK, 'late'))
  const server = await new NbdKit(t, pack.image, ['-r']).start()
  const begin = (): { relay: Relay; chunk: (n: number) => Promise<boolean> } => {
    const relay = new Relay(t, server.uri)
    const source = openSource(relay.uri, { manifest: manifestOf(pack), silenceMs: limit(1000) })
    t.teardown(() => source.close())
    source.layout?.(pack.manifest)
    const chunk = async (n: number): Promise<boolean> => {
      const pieces: Buffer[] = []
      for await (const piece of await source.range('', n * CHUNK, (n + 1) * CHUNK, new AbortController().signal)) pieces.push(piece)
      return Buffer.concat(pieces).equals(pack.bytes.subarray(n * CHUNK, (n + 1) * CHUNK))
    }
    return { relay, chunk }
  }

  await t.test('when another read fails with it', async t => {
    const { relay, chunk } = begin()
    t.ok(await chunk(0))
    const { client, server } = relay.connections[0]!
    server.unpipe(client)
    // Whoever is first to give it up reads again before the other one hears.
    let again: Promise<boolean> | undefined
    const reads = [1, 2].map(n => chunk(n).catch((error: unknown) => ((again ??= chunk(3)), Promise.reject(error as Error))))
    for (const read of reads) await t.rejects(read, code('SOURCE_UNREACHABLE'))
    t.equal(await again, true)
    t.ok(await chunk(4))
    t.equal(relay.connections.length, 2)
    if (!client.closed) await once(client, 'close')
    t.notOk(relay.connections[1]!.client.closed)
  })

  await t.test('when it is made at last, or fails at last', async t => {
    const { relay, chunk } = begin()
    relay.hold = true
    for (const n of [1, 2]) await t.rejects(chunk(n), code('SOURCE_UNREACHABLE'))
    relay.hold = false
    t.ok(await chunk(3))
    const [made, failed] = [relay.connections[0]!, relay.connections[1]!]
    made.server.pipe(made.client)
    await once(made.client, 'close')
    t.ok(await chunk(4))
    failed.client.destroy()
    await once(failed.client, 'close')
    t.ok(await chunk(5))
    t.equal(relay.connections.length, 3)
    t.notOk(relay.connections[2]!.client.closed)
  })
})

t.test('a profile of the pack is taken; demand overtakes', { skip }, async t => {
  const pack = await packed(t, noise(300 * CHUNK, 'demand'))
  const server = await new NbdKit(t, pack.image, ['-r', '--filter=rate'], ['rate=40M']).start()
  const stream = await open(t, server.uri, { manifest: manifestOf(pack), gate: 'none' })
  t.ok((await stream.read(290 * CHUNK, CHUNK)).equals(pack.bytes.subarray(290 * CHUNK, 291 * CHUNK)))
  t.ok(stream.progress().missingBytes > 100 * CHUNK, 'before what lies in front of it')
  await stream.complete
  t.ok(copyOf(stream).equals(pack.bytes))
  const wanted = [250, 7, 100]
  const profile = Profile.fromOrder(pack.manifest, wanted.map((chunk, i) => ({ chunk, atMs: i })), 1)
  writeFileSync(path.join(pack.folder, 'profile.json'), profile.toString())
  const next = await open(t, server.uri, { manifest: pack.folder, gate: 'profile', fill: false })
  await next.ready
  const map = next.map()
  t.strictSame([...map.keys()].filter(chunk => map[chunk] !== 0), [7, 100, 250])
})

t.test('what cannot be', { skip }, async t => {
  const pack = await packed(t, noise(4 * CHUNK, 'no'))
  const small = path.join(scratch(t), 'small')
  writeFileSync(small, 'small')
  const server = await new NbdKit(t, small, ['-r']).start()
  const cache = scratch(t)
  await t.rejects(ImageStream.open(server.uri, { cache }), { code: 'EINVAL', message: /manifest/ })
  await t.rejects(ImageStream.open('nbd://me:word@h/', { cache }), { code: 'EINVAL', message: /^(?!.*word).*nbd:\/\/me@h\// })
  const refused = await open(t, 'nbd://me:wo rd@h/', { manifest: manifestOf(pack), gate: 'none' })
  t.equal(refused.source, 'nbd://me@h/')
  await until(() => refused.progress().trouble !== undefined)
  t.match(refused.progress().trouble, { message: /^(?!.*wo rd)/s })
  await t.rejects(ImageStream.open(server.uri, { cache, manifest: path.join(cache, 'none') }), code('SOURCE_REFUSED'))
  await t.rejects(ImageStream.open(server.uri, { cache, manifest: manifestOf(pack), digest: '0'.repeat(64) }), code('BAD_DIGEST'))
  const other = await open(t, server.uri, { manifest: manifestOf(pack), gate: 'none' })
  await until(() => other.progress().trouble !== undefined)
  t.match(other.progress().trouble, { code: 'SOURCE_REFUSED', message: /less than/ })
  const nobody = await open(t, `${server.uri}-not`, { manifest: manifestOf(pack), gate: 'none' })
  await until(() => nobody.progress().trouble !== undefined)
  t.match(nobody.progress().trouble, code('SOURCE_UNREACHABLE'))
})

t.test('hypertwin stream serve', { skip }, async t => {
  const pack = await packed(t, imageBytes(20))
  const server = await new NbdKit(t, pack.image, ['-r']).start()
  const cache = path.join(scratch(t), 'copy')
  mkdirSync(cache)
  const child = spawn(process.execPath, ['dist/cli/main.js', 'stream', 'serve', server.uri, '--manifest', manifestOf(pack), '--cache', cache], { stdio: 'ignore' })
  t.teardown(() => child.kill('SIGKILL'))
  const image = path.join(cache, 'image')
  await until(() => child.exitCode !== null || (existsSync(image) && readFileSync(image).equals(pack.bytes)))
  t.equal(child.exitCode, null)
  child.kill('SIGINT')
  await once(child, 'exit')
})
