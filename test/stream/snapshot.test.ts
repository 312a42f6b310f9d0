// Machines that run from a snapshot while it comes: they have the right memory, whatever goes wrong on the way, and what
// they do not get they do not run without.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { Machine } from '../../lib/machine/index.js'
import { FolderLock } from '../../lib/stream/lock.js'
import { ImageStream, memoryTrace, pack, Profile, restoreStreamed, SnapshotStream, type PackResult, type StreamedRestoreOptions } from '../../lib/stream/index.js'
import { guest } from '../machine/support.js'
import { noKvm as skip, unusable } from '../no_kvm.js'
import { limit } from '../patience.js'
import { code, imageBytes, noise, noMount, packed, scratch, smallDisk, until, WebServer } from './support.js'

const noTap = unusable('/dev/net/tun') || (process.getuid?.() !== 0 && 'may not make a tap (needs root)')

const PAGES = 1024

interface Published extends PackResult {
  folder: string
  snapshot: string
  /** Of the machine at the snapshot. */
  digest: string
  web: WebServer
}

/** A guest that has written to each of its pages, and waits for more to do. */
async function published(t: Test): Promise<Published> {
  const folder = scratch(t)
  const machine = await guest(t, 'dirtier', `base=4M pages=${PAGES} count=${PAGES} rounds=1 stay=1`, { memory: '32MiB' })
  await machine.start()
  await machine.console.waitFor('dirtier done 1\n')
  await machine.pause()
  // What does not compress, and differs.
  for (let page = 0; page < PAGES; page++) machine.memory.write(BigInt((4 << 20) + 4096 * page + 8), noise(4088, `page ${page}`))
  const snapshot = path.join(folder, 'snapshot')
  await machine.snapshot(snapshot)
  const packed = await pack(snapshot, path.join(folder, 'pack'), { quality: 0 })
  const digest = (await machine.stateDigest()).combined
  return { ...packed, folder, snapshot, digest, web: await WebServer.start(t, path.join(folder, 'pack')) }
}

/** The guest writes to pages of its choice, the same each time. */
async function work(machine: Machine, rounds = 1): Promise<void> {
  machine.console.write(Buffer.from(`pattern=hotset count=64 seed=7 hot=2 bias=100 rounds=${rounds}\n`))
  await machine.console.waitFor(/dirtier done \d+\n/)
}

/** Which page of the region has been written in the second round. */
const written = (machine: Machine): number[] =>
  Array.from({ length: PAGES }, (_, i) => i).filter(i => machine.memory.read(BigInt((4 << 20) + 4096 * i), 8).readUInt32LE() === 2)

/** What has done its work has what a machine from the file has that has done the same. */
async function sameAsFromTheFile(t: Test, machine: Machine, snapshot: string): Promise<void> {
  await using twin = await Machine.restore(snapshot)
  await twin.resume()
  await work(twin)
  await machine.pause()
  await machine.bring(0n, machine.memory.size)
  await twin.pause()
  t.strictSame(written(machine), written(twin))
  t.ok(machine.memory.read(BigInt(4 << 20), PAGES * 4096).equals(twin.memory.read(BigInt(4 << 20), PAGES * 4096)), 'the same memory as of a machine from the file')
}

const isOver = (machine: Machine): Promise<void> => until(() => machine.state === 'failed' || machine.state === 'stopped')

t.test('a guest runs long before its snapshot is here, and again sooner by what it touched', { skip }, async t => {
  const { folder, web, digest, manifest, snapshot } = await published(t)
  let profile: Profile
  {
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'one'), gate: 'none', fill: false, digest: manifest.digest })
    await stream.ready
    await using machine = await stream.restore({ prefetch: false })
    t.equal(machine.state, 'paused')
    await machine.resume()
    await work(machine)
    const paging = machine.paging()
    if (!paging) throw new Error('it is paged')
    t.equal(paging.complete, false)
    t.ok(paging.waits > 2 && paging.hereBytes < paging.bytes / 2, `${paging.hereBytes} of ${paging.bytes} bytes, ${paging.waits} waits`)
    t.ok(paging.bytes < 8 << 20, 'zeros are none of it')
    t.ok(paging.longestMs > 0 && paging.longestMs <= paging.waitedMs)
    const { storedBytes, missingBytes } = stream.progress()
    t.ok(missingBytes > storedBytes / 2, `${missingBytes} of ${storedBytes} bytes have not come`)
    const trace = memoryTrace(machine, manifest)
    t.ok(trace.length > paging.waits)
    profile = Profile.fromTrace(manifest, trace)
    await machine.pause()
    t.throws(() => machine.memory.read(BigInt(7 << 20), 4096), code('NOT_HERE'))
    t.throws(() => machine.memory.write(BigInt(7 << 20), Buffer.alloc(1)), code('NOT_HERE'))
    await machine.bring(BigInt(4 << 20), PAGES * 4096)
    t.equal(machine.memory.read(BigInt(7 << 20), 4096).readUInt32LE(), 1)
    t.equal(written(machine).length, new Set(written(machine)).size)
    t.ok(written(machine).length > 10)
  }
  {
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'two'), profile, gate: 'profile' })
    await stream.ready
    await using machine = await stream.restore()
    await machine.resume()
    await work(machine)
    await stream.complete
    await sameAsFromTheFile(t, machine, snapshot)
    t.ok(readFileSync(path.join(stream.cache, 'image')).equals(readFileSync(snapshot)), 'the copy is the snapshot')
    await using mapped = await stream.restore()
    t.equal(mapped.paging(), undefined, 'the copy is whole: it is mapped')
    t.equal((await mapped.stateDigest()).combined, digest)
  }
})

t.test('many machines from one stream run side by side, each with memory of its own', { skip, timeout: limit(120_000) }, async t => {
  const { folder, web, digest, snapshot } = await published(t)
  await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'copy'), gate: 'none', fill: false, silenceMs: limit(60_000) })
  const machines: Machine[] = []
  const restored = async (count: number, options: StreamedRestoreOptions): Promise<Machine[]> => {
    const some = await Promise.all(Array.from({ length: count }, () => stream.restore(options)))
    for (const machine of some) t.teardown(() => machine.close())
    machines.push(...some)
    return some
  }
  // All of them write to the first ones, each another number, and each to some that are its alone.
  const its = (machine: Machine): number[] => [0, 1, 500, 1023, ...[20, 320, 620].map(page => page + machines.indexOf(machine))]
  const number = (machine: Machine): number => machines.indexOf(machine) + 2
  const run = async (machine: Machine): Promise<void> => {
    await machine.resume()
    machine.console.write(Buffer.from(`pattern=list list=${its(machine).join(',')} rounds=${number(machine) - 1}\n`))
    await machine.console.waitFor(`dirtier done ${number(machine)}\n`)
  }

  const early = await restored(8, { prefetch: false })
  let goOn = (): void => undefined
  const held = new Promise<void>(resolve => (goOn = resolve))
  web.trouble = () => held.then(() => false)
  const idle = await restored(4, { prefetch: true })
  const worked = Promise.all(early.map(run))
  await until(() => early.every(machine => (machine.paging()?.waits ?? 0) > 0))
  t.ok(early.every(({ state }) => state === 'running'), 'they wait side by side')
  goOn()
  await worked
  for (const machine of idle) t.equal((await machine.stateDigest()).combined, digest, 'it waits for all of its memory')
  await stream.complete
  const late = await restored(6, {})
  t.ok(late.every(machine => machine.paging() === undefined), 'the copy is whole: it is mapped')
  await Promise.all([...idle, ...late].map(run))
  t.ok(machines.every(({ state }) => state === 'running'))

  const contents = Array.from({ length: PAGES }, (_, page) => noise(4088, `page ${page}`))
  for (const machine of machines) {
    await machine.pause()
    await machine.bring(BigInt(4 << 20), PAGES * 4096)
    const memory = machine.memory.read(BigInt(4 << 20), PAGES * 4096)
    const right = (rest: Buffer, page: number): boolean =>
      memory.readUInt32LE(4096 * page) === (its(machine).includes(page) ? number(machine) : 1) && rest.equals(memory.subarray(4096 * page + 8, 4096 * (page + 1)))
    t.ok(contents.every(right), `machine ${machines.indexOf(machine)} has what was in the snapshot, and what it has written itself`)
  }
  t.ok(readFileSync(path.join(stream.cache, 'image')).equals(readFileSync(snapshot)), 'the copy is the snapshot still')
})

t.test('chunks that come damaged reach no guest', { skip }, async t => {
  const { folder, web, digest } = await published(t)
  const spoilt = new Set<number>()
  web.spoil = (bytes, { name, from }) => {
    if (!name.endsWith('.chunks') || spoilt.has(from)) return bytes
    spoilt.add(from)
    const bad = Buffer.from(bytes)
    bad[bad.length >> 1] = (bad[bad.length >> 1] as number) ^ 1
    return bad
  }
  await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'copy'), gate: 'none' })
  await using machine = await stream.restore()
  t.equal((await machine.stateDigest()).combined, digest)
  t.ok(spoilt.size > 1)
})

function streamer(source: string, cache: string, how: 'all' | 'demand' = 'all'): ChildProcess {
  const script = new URL(import.meta.url.endsWith('.ts') ? './streamer.ts' : './streamer.js', import.meta.url)
  return spawn(process.execPath, [...process.execArgv, script.pathname, source, cache, how], { stdio: ['ignore', 'pipe', 'inherit'] })
}

t.test('who streams is killed: the guest waits, and goes on', { skip, timeout: limit(120_000) }, async t => {
  const { folder, web, digest } = await published(t)
  const cache = path.join(folder, 'copy')
  // What follows the memory comes; of the memory nothing more than that.
  let held = true
  const release: (() => void)[] = []
  web.trouble = async ({ name, from }) => {
    if (held && name.endsWith('.chunks') && from > 0) await new Promise<void>(resolve => release.push(resolve))
    return false
  }
  const one = streamer(web.url, cache)
  t.teardown(() => one.kill('SIGKILL'))
  await once(one.stdout as NodeJS.ReadableStream, 'data')
  held = false
  for (const go of release) go()
  await using machine = await restoreStreamed(cache)
  held = true
  one.kill('SIGKILL')
  await once(one, 'exit')
  const all = machine.bring(0n, machine.memory.size)
  const digested = machine.stateDigest()
  await new Promise(resolve => setTimeout(resolve, 200))
  held = false
  const two = streamer(web.url, cache)
  t.teardown(() => two.kill('SIGKILL'))
  await all
  t.equal((await digested).combined, digest)
  two.kill('SIGKILL')
})

t.test('what goes wrong under a running guest: it waits, goes on, and its memory is right', { skip, timeout: limit(300_000) }, async t => {
  const { folder, web, snapshot } = await published(t)
  /** The guest has been given work, and waits for memory. */
  const waits = async (machine: Machine): Promise<{ worked: Promise<void> }> => {
    const before = machine.paging()?.waits ?? 0
    const worked = work(machine)
    await until(() => (machine.paging()?.waits ?? 0) > before)
    return { worked }
  }

  await t.test('who streams is killed', async t => {
    const cache = path.join(folder, 'killed')
    const one = streamer(web.url, cache, 'demand')
    t.teardown(() => one.kill('SIGKILL'))
    await once(one.stdout as NodeJS.ReadableStream, 'data')
    await using machine = await restoreStreamed(cache, { prefetch: false })
    await machine.resume()
    one.kill('SIGKILL')
    await once(one, 'exit')
    const { worked } = await waits(machine)
    const two = streamer(web.url, cache, 'demand')
    t.teardown(() => two.kill('SIGKILL'))
    await worked
    await sameAsFromTheFile(t, machine, snapshot)
  })

  await t.test('the link is cut', async t => {
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'cut'), gate: 'none', fill: false })
    await using machine = await stream.restore({ prefetch: false })
    await machine.resume()
    await web.stop()
    const { worked } = await waits(machine)
    await Promise.all([until(() => stream.progress().trouble?.code === 'SOURCE_UNREACHABLE'), new Promise(resolve => setTimeout(resolve, 150))])
    await web.listen()
    await worked
    t.ok((machine.paging()?.stalls ?? 0) > 0, 'it waited for more than 100 ms')
    await sameAsFromTheFile(t, machine, snapshot)
  })

  await t.test("the copy's disk is full", { skip: noMount }, async t => {
    const disk = smallDisk(t, '1m')
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(disk, 'cache'), gate: 'none', fill: false })
    await using machine = await stream.restore({ prefetch: false })
    await machine.resume()
    await work(machine)
    await machine.bring(BigInt(4 << 20), PAGES * 4096)
    await until(() => stream.progress().trouble?.code === 'CACHE_FULL')
    await sameAsFromTheFile(t, machine, snapshot)
  })
})

t.test('the thread that streams ends, and another one takes its place', { skip }, async t => {
  const { folder, web, digest } = await published(t)
  await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'copy'), gate: 'none', fill: false })
  await using machine = await stream.restore()
  for (let turn = 0; turn < 3; turn++) {
    await stream.endThread()
    const address = BigInt((4 << 20) + turn * (1 << 20))
    await machine.bring(address, 4096)
    t.equal(machine.memory.read(address, 8).readUInt32LE(), 1)
  }
  t.equal((await machine.stateDigest()).combined, digest)
})

t.test('where no other thread can take its place, it is told why', { timeout: limit(120_000) }, async t => {
  const pack = await packed(t, imageBytes(20))
  const other = await packed(t, imageBytes(20, 'other'))
  const web = await WebServer.start(t, pack.folder)
  web.trouble = ({ name }) => (name.endsWith('.chunks') ? new Promise(() => undefined) : false)
  const open = (): Promise<SnapshotStream> => SnapshotStream.open(web.url, { cache: path.join(scratch(t), 'copy'), gate: 'all' })
  {
    await using stream = await open()
    await stream.endThread()
    let lock: FolderLock | undefined
    await until(async () => (lock = await FolderLock.take(stream.cache)) !== undefined)
    await until(() => stream.progress().trouble?.code === 'IN_USE')
    t.equal(stream.progress().state, 'gate')
    await lock?.release()
    await until(() => stream.progress().trouble === undefined)
    t.ok(await stream.blocks(), 'that passes')
  }
  for (const [name, spoil] of [
    ['BAD_MANIFEST', cache => writeFileSync(path.join(cache, 'manifest'), 'rubbish')],
    ['BAD_CACHE', cache => rmSync(cache, { recursive: true })],
    ['BAD_DIGEST', cache => copyFileSync(path.join(other.folder, 'manifest'), path.join(cache, 'manifest'))]
  ] as [string, (cache: string) => void][]) {
    await using stream = await open()
    spoil(stream.cache)
    await stream.endThread()
    await t.rejects(stream.complete, code(name), name)
    await t.rejects(stream.ready, code(name))
    t.match(stream.progress(), { state: 'failed', trouble: { code: name } })
  }
})

t.test('a stream that is closed leaves its machines to the next one', { skip }, async t => {
  const { folder, web, digest } = await published(t)
  const cache = path.join(folder, 'copy')
  const first = await SnapshotStream.open(web.url, { cache, gate: 'none', fill: false })
  await using machine = await first.restore({ prefetch: false })
  let asked = 0
  web.trouble = () => new Promise(() => void asked++)
  const digested = machine.stateDigest()
  await until(() => asked > 0)
  // Its thread has just ended, too.
  await first.endThread()
  await first.close()
  await first.close()
  t.equal(machine.state, 'paused')
  web.trouble = () => false
  await using second = await SnapshotStream.open(web.url, { cache, gate: 'none', fill: false })
  await until(() => second.progress().demands.count > 0)
  const between = second.close()
  await between
  await using third = await SnapshotStream.open(web.url, { cache })
  t.equal((await digested).combined, digest)
  await third.complete
})

t.test('memory that does not come', { skip, timeout: limit(120_000) }, async t => {
  const { folder, web } = await published(t)
  const machines = async (waitSeconds: number): Promise<[SnapshotStream, Machine]> => {
    const stream = await SnapshotStream.open(web.url, { cache: path.join(folder, `${Math.random()}`), gate: 'none', fill: false })
    const machine = await stream.restore({ waitSeconds, prefetch: false })
    web.trouble = () => new Promise(() => undefined)
    return [stream, machine]
  }
  for (const how of ['stop', 'close', 'wait', 'pause'] as const) {
    const [stream, machine] = await machines(how === 'wait' ? 1 : 0)
    await machine.resume()
    machine.console.write(Buffer.from(`pattern=random count=64 seed=7 rounds=1\n`))
    await until(() => (machine.paging()?.waits ?? 0) > 0)
    if (how === 'wait') {
      await isOver(machine)
      t.equal(machine.reason, 'error')
      t.match(machine.message, /nobody has brought the machine's memory for 1 s/)
      await t.rejects(machine.stateDigest(), { code: 'ETIMEDOUT' }, 'its memory is not taken for zeros')
      await t.rejects(machine.snapshot(path.join(folder, 'no')), { code: 'ETIMEDOUT' })
      await t.rejects(machine.bring(BigInt(7 << 20), 1), code('FINAL_STATE'))
    } else if (how === 'stop') {
      await machine.stop()
      t.equal(machine.state, 'stopped')
      await t.rejects(machine.stateDigest(), code('CLOSED'))
    } else if (how === 'pause') {
      const paused = machine.pause().catch((error: unknown) => error)
      await new Promise(resolve => setTimeout(resolve, 100))
      await machine.stop()
      t.equal(machine.state, 'stopped', 'a pause that waits is in nobody\'s way')
      await paused
    }
    await machine.close()
    await stream.close()
    web.trouble = () => false
  }
})

t.test('a console whose memory has not come keeps nobody waiting', { skip, timeout: limit(120_000) }, async t => {
  const folder = scratch(t)
  const snapshot = path.join(folder, 'snapshot')
  const told = await guest(t, 'echo', 'base=8M', { memory: '32MiB', board: 'standard', console: 'virtio' })
  await told.start()
  await told.console.waitFor('echo ready\n')
  told.console.write('one\n')
  await told.console.waitFor('echo one\n')
  await told.pause()
  await told.snapshot(snapshot)
  await told.close()
  await pack(snapshot, path.join(folder, 'pack'), { quality: 0 })
  const web = await WebServer.start(t, path.join(folder, 'pack'))
  for (const how of ['comes', 'stop', 'close'] as const) {
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, how), gate: 'none', fill: false })
    await using machine = await stream.restore({ prefetch: false })
    // All but what it shares with the console.
    await machine.bring(0n, 2 << 20)
    let release!: () => void
    const held = new Promise<void>(resolve => (release = resolve))
    web.trouble = () => held.then(() => false)
    const before = machine.paging()?.waits ?? 0
    await machine.resume()
    t.equal(machine.console.write('two\n'), true)
    await until(() => (machine.paging()?.waits ?? 0) > before)
    t.equal(machine.console.write('three\n'), true, how)
    t.throws(() => machine.console.resize(132, 50), code('NOT_HERE'))
    t.equal(machine.console.text, '')
    if (how === 'comes') {
      release()
      await machine.console.waitFor('three\n')
      t.match(machine.console.text, /^echo two\n(echo )?three\n$/)
    } else {
      await machine[how]()
      t.equal(machine.state, 'stopped')
      t.equal(machine.console.text, '')
      release()
    }
    web.trouble = () => false
  }
})

t.test('a worker that ends waits for no memory', { skip, timeout: limit(120_000) }, async t => {
  const { folder, web } = await published(t)
  const cache = path.join(folder, 'copy')
  const stream = await SnapshotStream.open(web.url, { cache, gate: 'none', fill: false, profile: false })
  await (await stream.restore({ prefetch: false })).close()
  await stream.close()
  const file = import.meta.url.endsWith('.ts') ? './waiting-worker.ts' : './waiting-worker.js'
  const worker = new Worker(new URL(file, import.meta.url), { workerData: cache })
  t.match(await once(worker, 'message'), [['running']])
  t.equal(await worker.terminate(), 1)
})

t.test('memory that cannot be had any more fails the machine, and says why', { skip, timeout: limit(120_000) }, async t => {
  for (const how of ['damaged', 'replaced'] as const) {
    const { folder, web, manifest } = await published(t)
    await using stream = await SnapshotStream.open(web.url, { cache: path.join(folder, 'copy'), gate: 'none', fill: false, profile: false })
    const machine = await stream.restore({ prefetch: false })
    t.teardown(() => machine.close())
    if (how === 'damaged') web.spoil = bytes => Buffer.alloc(bytes.length, 1)
    else {
      copyFileSync(process.execPath, path.join(folder, 'other'))
      await pack(path.join(folder, 'other'), path.join(folder, 'pack'), { chunkSize: '1MiB', quality: 0 })
      rmSync(path.join(folder, 'pack', manifest.dataName))
    }
    await machine.resume()
    machine.console.write(Buffer.from('pattern=random count=64 seed=7 rounds=1\n'))
    await isOver(machine)
    t.equal(machine.reason, 'error')
    t.match(machine.message, how === 'damaged' ? /came damaged 4 times/ : /publishes another image now/)
    await t.rejects(machine.stateDigest(), Error, 'its memory is not taken for zeros')
  }
})

t.test('a snapshot from elsewhere chooses no file of this host', { skip }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  for (const name of ['disk', 'other', 'mine', 'mine too']) writeFileSync(at(name), Buffer.alloc(1 << 20))
  const machine = await guest(t, 'dirtier', 'base=4M pages=16 count=16 rounds=1 stay=1', {
    memory: '32MiB',
    disks: [{ path: at('disk') }, { path: at('other') }]
  })
  await machine.start()
  await machine.console.waitFor('dirtier done 1\n')
  await machine.pause()
  await machine.snapshot(at('full'), { track: true })
  await machine.snapshot(at('added'), { incremental: true })
  await machine.close()
  for (const name of ['full', 'added']) await pack(at(name), at(`${name}.pack`), { quality: 0 })
  await using stream = await SnapshotStream.open(at('full.pack'), { cache: at('copy'), gate: 'none', fill: false })
  await using added = await SnapshotStream.open(at('added.pack'), { cache: at('copy of added') })
  const all = { disks: [at('mine'), at('mine too')] }
  for (const whole of [false, true]) {
    if (whole) {
      await stream.close()
      await using rest = await ImageStream.open(at('full.pack'), { cache: at('copy'), gate: 'none' })
      await rest.complete
      await added.complete
    }
    const refused = { code: 'BAD_CONFIG', message: /disk 1 is .*other in the snapshot, which may not choose/ }
    await t.rejects(restoreStreamed(at('copy'), { disks: [at('mine')] }), refused)
    await t.rejects(restoreStreamed(at('copy'), { disks: [at('mine'), undefined] }), refused)
    await (await restoreStreamed(at('copy'), all)).close()
    await t.rejects(restoreStreamed(at('copy of added'), all), code('SNAPSHOT_PARENT'))
  }
})

t.test('nor a tap or a socket', { skip: skip || noTap }, async t => {
  const folder = scratch(t)
  const at = (name: string): string => path.join(folder, name)
  const tap = `ht${process.pid}`
  const machine = await guest(t, 'hello', 'ticks=1000000', { board: 'standard', nets: [{ backend: { tap } }], vsock: { path: at('theirs') } })
  await machine.start()
  await machine.console.waitFor('hello')
  await machine.pause()
  await machine.snapshot(at('snapshot'))
  await machine.close()
  await pack(at('snapshot'), at('pack'), { quality: 0 })
  await using stream = await SnapshotStream.open(at('pack'), { cache: at('copy'), gate: 'none' })
  const [nets, vsock] = [[{ backend: 'queue' as const }], { path: at('ours') }]
  await t.rejects(restoreStreamed(at('copy'), { vsock }), { code: 'BAD_CONFIG', message: new RegExp(`network device 0 is the tap ${tap} in the snapshot`) })
  await t.rejects(restoreStreamed(at('copy'), { nets }), { code: 'BAD_CONFIG', message: /vsock device's socket is .*theirs in the snapshot/ })
  await using restored = await restoreStreamed(at('copy'), { nets, vsock })
  t.equal(restored.state, 'paused')
  t.same([existsSync(at('theirs')), existsSync(`/sys/class/net/${tap}`)], [false, false])
  await stream.close()
})

t.test('what is none', { skip }, async t => {
  const folder = scratch(t)
  const bad = (options: object, name = 'EINVAL'): Promise<void> =>
    t.rejects(restoreStreamed(folder, options), code(name)) as unknown as Promise<void>
  await bad({ waitSeconds: -1 })
  await bad({ prefetch: 1 })
  await bad({ profile: {} })
  await bad({}, 'BAD_CACHE')
  await t.rejects(restoreStreamed(''), code('EINVAL'))
  await t.rejects(SnapshotStream.open(folder, { cache: '' }), code('EINVAL'))
  await t.rejects(SnapshotStream.open(folder, { cache: path.join(folder, 'copy') }), code('SOURCE_REFUSED'))
  // An image that is no snapshot.
  const image = path.join(folder, 'image')
  copyFileSync(process.execPath, image)
  await pack(image, path.join(folder, 'pack'), { chunkSize: '1MiB', quality: 0 })
  await using stream = await ImageStream.open(path.join(folder, 'pack'), { cache: path.join(folder, 'copy'), gate: 'none' })
  await stream.complete
  await t.rejects(restoreStreamed(stream.cache), code('CORRUPT'))
  await t.rejects(restoreStreamed(stream.cache, { prefetch: false }), code('CORRUPT'))
})
