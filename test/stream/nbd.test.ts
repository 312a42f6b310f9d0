// Over NBD, with qemu-img, qemu-io and nbdinfo as clients: right while it comes, whoever is killed meanwhile.
import { execFile, execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { freePort } from '../arbiter/support.js'
import { native } from '../../lib/native.js'
import { ImageStream, NbdServer, Profile, readTrace, whyNoNbd, type NbdOptions } from '../../lib/stream/index.js'
import { DOOR_FILE, request } from '../../lib/stream/door.js'
import { limit } from '../patience.js'
import { checkCache, CHUNK, code, imageBytes, noise, noMount, packed, scratch, smallDisk, until, WebServer } from './support.js'

const run = promisify(execFile)
const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined
const skip = whyNoNbd()?.message ?? (has('qemu-img') && has('qemu-io') ? false : 'qemu-img and qemu-io are missing (Debian: qemu-utils)')

/** As machines of ours have one. */
interface Disk {
  read(offset: number, size: number): Promise<Buffer>
  close(): Promise<void>
}

async function served(t: Test, cache: string, options: NbdOptions = {}): Promise<NbdServer> {
  const server = await NbdServer.start(cache, options)
  t.teardown(() => server.close())
  return server
}

/** A client without a process of its own. */
async function diskAt(uri: string): Promise<Disk> {
  const { nbd } = native as { nbd: { open(uri: string): Promise<[Disk, number]> } }
  return (await nbd.open(uri))[0]
}

async function open(t: Test, source: string, options: Partial<Parameters<typeof ImageStream.open>[1]> = {}): Promise<ImageStream> {
  const stream = await ImageStream.open(source, { cache: scratch(t), ...options })
  t.teardown(() => stream.close())
  return stream
}

/** All of it, read by qemu-img. */
async function copied(t: Test, uri: string): Promise<Buffer> {
  const file = path.join(scratch(t), 'copy')
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, file])
  return readFileSync(file)
}

const qemuIo = async (uri: string, ...commands: string[]): Promise<string> => {
  const readOnly = commands.some(command => command.startsWith('write')) ? [] : ['-r']
  return (await run('qemu-io', ['-f', 'raw', ...readOnly, ...commands.flatMap(command => ['-c', command]), uri])).stdout
}

t.test('a client reads the image while it comes', { skip }, async t => {
  const { folder, bytes } = await packed(t, imageBytes(100))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url)
  const trace = path.join(scratch(t), 'trace')
  const nbd = await served(t, stream.cache, { trace })
  t.ok((await copied(t, nbd.uri)).subarray(0, bytes.length).equals(bytes))
  await stream.complete
  t.ok((await copied(t, nbd.uri)).subarray(0, bytes.length).equals(bytes), 'and again when it is whole')
  const { manifest, reads, failedReads, accesses } = await readTrace(trace)
  t.equal(manifest, stream.manifest.digest)
  t.equal(failedReads, 0)
  t.ok(reads > 0)
  t.equal(new Set(accesses.map(({ chunk }) => chunk)).size, accesses.length, 'each chunk is written down once')
  t.same(accesses.filter(({ chunk }) => chunk % 4 === 2), [], 'chunks of zeros are known to be, and not read')
})

t.test('what is read is what is fetched', { skip }, async t => {
  const { folder } = await packed(t, noise(100 * CHUNK, 'demand'))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url, { fill: false, gate: 'none' })
  const trace = path.join(scratch(t), 'trace')
  const nbd = await served(t, stream.cache, { trace })
  await qemuIo(nbd.uri, `read ${70 * CHUNK} 4096`, `read ${12 * CHUNK + 60000} 10000`, `read ${70 * CHUNK} 4096`)
  t.same(stream.map().reduce<number[]>((all, byte, chunk) => (byte === 0 ? all : [...all, chunk]), []).filter(chunk => chunk > 1), [12, 13, 70])
  const { accesses, waited, stalls } = await readTrace(trace)
  const order = accesses.map(({ chunk }) => chunk).filter(chunk => chunk > 1)
  t.equal(order[0], 70, 'in the order in which it was read')
  t.ok(waited.reads >= 2 && waited.ms > 0 && waited.longestMs <= waited.ms, 'and what waited is counted')
  t.ok(stalls <= waited.reads)
  const profile = Profile.fromTrace(stream.manifest, accesses)
  t.same(Profile.parse(profile.toString()).entries, profile.entries)
  t.same(profile.entries.map(({ chunk }) => chunk).filter(chunk => chunk > 1), order)
})

t.test('reads are counted: those that waited for nothing, and those that waited for long', { skip }, async t => {
  const { folder } = await packed(t, noise(60 * CHUNK, 'counted'))
  const server = await WebServer.start(t, folder)
  const cache = scratch(t)
  const first = await open(t, server.url, { cache, fill: false, gate: 'none' })
  await first.read(0, 10 * CHUNK)
  t.match(first.progress().reads, { count: 1, hits: 0, failed: 0 })
  await first.read(0, 10 * CHUNK)
  t.match(first.progress().reads, { count: 2, hits: 1 })
  await first.close()
  t.match(first.progress().reads, { count: 2, hits: 1 }, 'as it was at the end')
  const stream = await open(t, server.url, { cache, fill: false, gate: 'none' })
  t.same(stream.progress().reads, { count: 0, hits: 0, stalls: 0, failed: 0 })
  const servers = [await served(t, cache), await served(t, cache)]
  const disks = await Promise.all(servers.map(({ uri }) => diskAt(uri)))
  const read = async (chunk: number): Promise<void> => void (await Promise.all(disks.map(disk => disk.read(chunk * CHUNK, 512))))
  for (let chunk = 0; chunk < 10; chunk++) await read(chunk)
  await until(() => stream.progress().reads.count === 20)
  t.same(stream.progress().reads, { count: 20, hits: 20, stalls: 0, failed: 0 })
  let goOn: (() => void) | undefined
  server.trouble = async () => {
    await new Promise<void>(resolve => (goOn = resolve))
    return false
  }
  const late = read(40)
  await until(() => goOn !== undefined)
  await new Promise(resolve => setTimeout(resolve, 150))
  goOn?.()
  await late
  await until(() => stream.progress().reads.count === 22)
  t.same(stream.progress().reads, { count: 22, hits: 20, stalls: 2, failed: 0 })
  await Promise.all(disks.map(disk => disk.close()))
})

t.test('writes go to an overlay', { skip }, async t => {
  const { folder, bytes } = await packed(t, noise(16 * CHUNK, 'write'))
  const stream = await open(t, folder)
  const readonly = await served(t, stream.cache)
  await t.rejects(qemuIo(readonly.uri, 'write -P 7 0 4096'))
  const nbd = await served(t, stream.cache, { writable: true })
  await qemuIo(nbd.uri, 'write -P 7 100000 4096', 'read -P 7 100000 4096')
  await stream.complete
  t.equal(await checkCache(stream.cache, bytes), 16, 'and not to the copy')
})

t.test('over TCP, and at a socket of somebody’s choice', { skip }, async t => {
  const { folder, bytes } = await packed(t, imageBytes(8))
  const stream = await open(t, folder)
  const socket = path.join(scratch(t), 's')
  const dead = createServer().listen(`${socket}.dead`)
  await once(dead, 'listening')
  renameSync(`${socket}.dead`, socket)
  dead.close()
  const nbd = await served(t, stream.cache, { socket })
  t.equal(nbd.socket, socket)
  t.ok((await copied(t, nbd.uri)).subarray(0, bytes.length).equals(bytes))
  const other = await open(t, folder)
  await t.rejects(NbdServer.start(other.cache, { socket }), { code: 'EADDRINUSE', message: new RegExp(`process ${nbd.pid}: end that one, or choose`) })
  renameSync(socket, `${socket}.away`)
  await t.rejects(NbdServer.start(stream.cache, { socket }), code('EADDRINUSE'), 'though it is not found there, it is its')
  renameSync(`${socket}.away`, socket)
  const again = await NbdServer.start(stream.cache, { socket })
  t.same([again.pid, again.takenOver, nbd.takenOver], [nbd.pid, true, false], 'one of the same cache is taken over')
  await stream.complete
  await stream.close()
  for (const name of ['image', 'chunks']) rmSync(path.join(stream.cache, name))
  const anew = await open(t, folder, { cache: stream.cache })
  await t.rejects(NbdServer.start(anew.cache, { socket }), { code: 'EADDRINUSE', message: /serves files of .* no longer there: end that one, or choose/ })
  await nbd.close()
  await nbd.close()
  t.notOk(existsSync(socket))
  const tcp = await served(t, stream.cache, { listen: `127.0.0.1:${await freePort()}` })
  t.ok((await copied(t, tcp.uri)).subarray(0, bytes.length).equals(bytes))
})

t.test('what cannot be served', { skip }, async t => {
  const empty = scratch(t)
  await t.rejects(NbdServer.start(empty), { code: 'TOOL_FAILED', message: /image/ })
  for (const listen of ['here', '127.0.0.1:0', '127.0.0.1:65536']) await t.rejects(NbdServer.start(empty, { listen }), code('EINVAL'))
  await t.rejects(NbdServer.start(empty, { listen: '127.0.0.1:1', socket: 'x' }), code('EINVAL'))
  await t.rejects(NbdServer.start(empty, { waitSeconds: -1 }), code('EINVAL'))
  await t.rejects(NbdServer.start(empty, { socket: `/${'x'.repeat(120)}` }), code('EINVAL'))
  await t.rejects(NbdServer.start(undefined as unknown as string), code('EINVAL'))
  for (const name of ['s', 's.pid']) {
    const socket = path.join(scratch(t), 's')
    const file = path.join(path.dirname(socket), name)
    writeFileSync(file, "somebody's")
    await t.rejects(NbdServer.start(empty, { socket }), { code: 'EADDRINUSE', message: /no server has left/ })
    t.equal(readFileSync(file, 'utf8'), "somebody's")
  }
  const { folder } = await packed(t, imageBytes(8))
  const stream = await open(t, folder)
  await stream.complete
  await stream.close()
  truncateSync(path.join(stream.cache, 'image'), 5)
  await t.rejects(NbdServer.start(stream.cache), { code: 'TOOL_FAILED', message: /sizes do not fit/ })
  writeFileSync(path.join(stream.cache, 'chunks'), 'rubbish')
  await t.rejects(NbdServer.start(stream.cache), { code: 'TOOL_FAILED', message: /too short/ })
})

t.test('a read that nobody answers ends after its time, and others go on', { skip }, async t => {
  const { folder, bytes } = await packed(t, noise(20 * CHUNK, 'wait'))
  const stream = await open(t, folder, { fill: false, gate: 'none' })
  await stream.read(0, 4 * CHUNK)
  const nbd = await served(t, stream.cache, { waitSeconds: 1 })
  await stream.close()
  // Not as from a server that ends, which a client would look for anew.
  const said = await qemuIo(nbd.uri, `read ${10 * CHUNK} 4096`).catch((error: { stdout?: string }) => error.stdout)
  t.match(said, /Input\/output error/)
  t.match(await qemuIo(nbd.uri, `read 4096 4096`), /read 4096\/4096/)
  const again = await open(t, folder, { cache: stream.cache, fill: false, gate: 'none' })
  await qemuIo(nbd.uri, `read ${10 * CHUNK} 4096`)
  t.ok((await again.read(10 * CHUNK, 10)).equals(bytes.subarray(10 * CHUNK, 10 * CHUNK + 10)))
})

t.test('as many reads as a disk of ours makes wait, and what is here is served', { skip }, async t => {
  const { folder, bytes } = await packed(t, noise(100 * CHUNK, 'many wait'))
  const server = await WebServer.start(t, folder)
  const stream = await open(t, server.url, { fill: false, gate: 'none' })
  await stream.read(90 * CHUNK, CHUNK)
  await server.stop()
  const exported = await served(t, stream.cache)
  const disk = await diskAt(exported.uri)
  const waiting = Promise.all(Array.from({ length: 63 }, (_, i) => disk.read(i * CHUNK, 512)))
  t.ok((await disk.read(90 * CHUNK, 512)).equals(bytes.subarray(90 * CHUNK, 90 * CHUNK + 512)))
  await server.listen()
  await waiting
  await disk.close()
})

t.test('the copy’s disk is full: a client reads on, and the rest comes when there is room', { skip: skip || noMount }, async t => {
  const { folder, bytes } = await packed(t, noise(60 * CHUNK, 'full'))
  const server = await WebServer.start(t, folder)
  const disk = smallDisk(t, '2m')
  const cache = path.join(disk, 'cache')
  const stream = await open(t, server.url, { cache })
  const nbd = await served(t, cache)
  await until(() => stream.progress().trouble?.code === 'CACHE_FULL')
  for (let turn = 0; turn < 2; turn++) t.ok((await copied(t, nbd.uri)).equals(bytes), 'all of it')
  const { trouble, reads } = stream.progress()
  t.equal(trouble?.code, 'CACHE_FULL')
  t.equal(reads.failed, 0)
  t.ok((await checkCache(cache, bytes)) < 32)
  execFileSync('mount', ['-o', 'remount,size=16m', disk])
  await stream.complete
  t.equal(stream.progress().trouble, undefined)
  t.equal(await checkCache(cache, bytes), 60)
  t.ok((await copied(t, nbd.uri)).equals(bytes))
})

/** A process that streams, to be killed. */
function streamer(source: string, cache: string): ChildProcess {
  const script = new URL(import.meta.url.endsWith('.ts') ? './streamer.ts' : './streamer.js', import.meta.url)
  return spawn(process.execPath, [...process.execArgv, script.pathname, source, cache], { stdio: ['ignore', 'pipe', 'inherit'] })
}

t.test('the process that streams is killed again and again under a client', { skip }, async t => {
  const { folder, bytes } = await packed(t, noise(300 * CHUNK, 'kill'))
  const server = await WebServer.start(t, folder)
  // A slow source, so that there is time to be killed.
  server.trouble = async ({ name }) => {
    if (name.endsWith('.chunks')) await new Promise(resolve => setTimeout(resolve, 20))
    return false
  }
  const cache = scratch(t)
  let child = streamer(server.url, cache)
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout as NodeJS.ReadableStream, 'data')
  const nbd = await served(t, cache)
  let done = false
  const copy = copied(t, nbd.uri).finally(() => (done = true))
  let kills = 0
  let here = 0
  while (!done && kills < 4) {
    // Once something more has come.
    const before = here
    await until(async () => done || (here = await checkCache(cache, bytes)) > before + 10)
    if (done) break
    child.kill('SIGKILL')
    await once(child, 'exit')
    kills++
    t.ok((await checkCache(cache, bytes)) >= before, 'no chunk counts as here that is not')
    child = streamer(server.url, cache)
    await once(child.stdout as NodeJS.ReadableStream, 'data')
  }
  t.ok(kills >= 2, `killed ${kills} times`)
  t.ok((await copy).equals(bytes), 'the client has noticed nothing but time')
  await until(async () => (await checkCache(cache, bytes)) === 300)
})

t.test('a hundred clients wait at once, each for a chunk of its own and for one that all want', { skip }, async t => {
  const clients = 100
  const { folder, bytes } = await packed(t, noise((clients + 1) * CHUNK, 'hundred'))
  const server = await WebServer.start(t, folder)
  let goOn = (): void => undefined
  const held = new Promise<void>(resolve => (goOn = resolve))
  server.trouble = ({ name }) => name.endsWith('.chunks') && held.then(() => false)
  const stream = await open(t, server.url, { fill: false, gate: 'none', silenceMs: limit(60_000) })
  const { uri } = await served(t, stream.cache)
  const disks = await Promise.all(Array.from({ length: clients }, () => diskAt(uri)))
  let ended = 0
  const reads = disks.flatMap((disk, i) =>
    [clients * CHUNK + i, i * CHUNK].map(async at => {
      const read = await disk.read(at, 16).finally(() => ended++)
      return read.equals(bytes.subarray(at, at + 16))
    })
  )
  await until(() => stream.progress().waiting === clients + 1 || ended > 0)
  t.equal(ended, 0, 'all of them wait')
  goOn()
  t.equal((await Promise.all(reads)).filter(Boolean).length, 2 * clients)
  t.equal(await checkCache(stream.cache, bytes), clients + 1)
  const ranges = server.ranges().sort((a, b) => a.from - b.from)
  t.same(ranges.filter(({ from }, i) => from < (ranges[i - 1]?.to ?? 0)), [], 'no chunk was asked for twice')
  t.equal(Object.values(stream.progress().fetched).reduce((a, b) => a + b), stream.manifest.dataSize, 'each chunk came once')
  await Promise.all(disks.map(disk => disk.close()))
})

t.test('one that does not answer streams nothing', async t => {
  const cache = scratch(t)
  const sockets = new Set<Socket>()
  let welcome = (_socket: Socket): void => undefined
  const stopped = createServer(socket => {
    sockets.add(socket.on('error', () => undefined))
    welcome(socket)
  }).listen(path.join(cache, DOOR_FILE))
  await once(stopped, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    stopped.close()
  })
  await t.rejects(ImageStream.status(cache), { code: 'NOT_RUNNING', message: /does not answer: no answer for 5 s/ })
  // With what was asked unread, the connection is reset.
  welcome = socket => void socket.pause().destroy()
  await t.rejects(ImageStream.status(cache), { code: 'NOT_RUNNING', message: /does not answer/ })
})

t.test('a client that takes its time is waited for by one listener', async t => {
  const { folder, bytes } = await packed(t, noise(100 * CHUNK, 'drain'))
  const stream = await open(t, folder, { fill: false, gate: 'none' })
  const warnings: Error[] = []
  const warned = (warning: Error): void => void warnings.push(warning)
  process.on('warning', warned)
  t.teardown(() => process.off('warning', warned))
  // Answers are small: so many that the socket is full again and again.
  const client = connect(path.join(stream.cache, DOOR_FILE))
  await once(client, 'connect')
  await stream.read(0, bytes.length)
  for (let i = 0; i < 300; i++) client.write(request(1, 0, 100))
  let came = 0
  for await (const piece of client) if ((came += (piece as Buffer).length) === 300 * 100 * 8) break
  t.same(warnings, [])
})

t.test('what is no request ends its connection and nothing else', { skip }, async t => {
  const { folder, bytes } = await packed(t, noise(8 * CHUNK, 'hostile'))
  const stream = await open(t, folder, { fill: false, gate: 'none' })
  const at = path.join(stream.cache, DOOR_FILE)
  const tries = [
    Buffer.alloc(16),
    Buffer.alloc(100_000, 0xff),
    request(9, 0, 1),
    request(1, 0, 0),
    request(1, 8, 1),
    request(1, 7, 2),
    request(1, 0, 1025),
    request(1, 0xffffffff, 0xffffffff)
  ]
  for (const bad of tries) {
    const socket = connect(at)
    socket.on('error', () => undefined)
    socket.write(bad)
    await new Promise<void>(resolve => socket.once('close', () => resolve()))
  }
  // One byte at a time is a request all the same.
  const socket = connect(at)
  for (const byte of request(1, 3, 1)) socket.write(Buffer.of(byte))
  const [answer] = (await once(socket, 'data')) as [Buffer]
  t.same([...answer], Array(8).fill(0))
  socket.destroy()
  t.equal(await checkCache(stream.cache, bytes), 1)
  t.ok((await ImageStream.status(stream.cache)).imageBytes)
})

t.test('no trace', async t => {
  const file = path.join(scratch(t), 'trace')
  await t.rejects(readTrace(file), code('ENOENT'))
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(5000), Buffer.concat([Buffer.from('htaccess'), Buffer.alloc(4088)])]) {
    writeFileSync(file, bytes)
    await t.rejects(readTrace(file), code('BAD_TRACE'))
  }
})
