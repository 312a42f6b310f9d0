// Streams: a screenshot of the test driver in this process and behind a daemon, volumes of a storage pool up and
// down with their holes, and everything that can go wrong on the way.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import {
  Connect,
  StorageVolDownloadFlags,
  StorageVolUploadFlags,
  StreamEventType,
  StreamFlags,
  type StoragePool,
  type Stream,
  type StreamHole
} from '../../lib/libvirt/index.js'
import { Daemon, noDaemon } from './daemon.js'
import { failure, noLibvirt as skip, testHost } from './support.js'

async function screenshot(connect: Connect, flags: StreamFlags = StreamFlags.NONBLOCK): Promise<Stream> {
  const stream = await connect.streamNew(flags)
  t.equal(await (await connect.domainLookupByName('test')).screenshot(stream, 0), 'image/png')
  return stream
}
async function all(stream: Stream): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  await stream.recvAll(chunk => void chunks.push(chunk))
  await stream.finish()
  return Buffer.concat(chunks)
}
const isPng = (bytes: Buffer): boolean => bytes.length > 10_000 && bytes.subarray(1, 4).toString() === 'PNG'

t.test('a screenshot, by every way of reading', { skip }, async t => {
  await using connect = await testHost()
  const expected = await all(await screenshot(connect))
  t.ok(isPng(expected))
  t.ok(expected.equals(await all(await screenshot(connect, 0))), 'blocking')
  const chunks: Buffer[] = []
  const duplex = (await screenshot(connect)).duplex({ direction: 'read', chunkSize: 1000 })
  for await (const chunk of duplex) chunks.push(chunk as Buffer)
  t.ok(chunks.every(chunk => chunk.length <= 1000))
  t.ok(expected.equals(Buffer.concat(chunks)), "as Node's stream")
  const sparse: Uint8Array[] = []
  const stream = await screenshot(connect)
  await stream.sparseRecvAll(chunk => void sparse.push(chunk), () => void t.fail('it has no holes'))
  t.ok(expected.equals(Buffer.concat(sparse)), 'without holes where the driver has none')
})

t.test('destroy aborts and closes; so does an error of who reads', { skip }, async t => {
  await using connect = await testHost()
  const stream = await screenshot(connect)
  const duplex = stream.duplex({ direction: 'read', chunkSize: 100 })
  for await (const chunk of duplex) {
    t.ok(chunk)
    break
  }
  await new Promise(resolve => (duplex.closed ? resolve(undefined) : duplex.once('close', resolve)))
  t.equal(stream.closed, true)
  const other = await screenshot(connect)
  await t.rejects(
    other.recvAll(() => {
      throw new Error('full')
    }),
    { message: 'full' }
  )
  t.equal((await failure(t, () => other.read())).code, 'CLOSED', 'it was aborted')
  await other.abort()
  const controller = new AbortController()
  const third = (await screenshot(connect)).duplex({ direction: 'read', signal: controller.signal })
  controller.abort()
  await t.rejects(third.toArray(), { name: 'AbortError' })
})

t.test('aborted before it becomes one of Node’s', { skip }, async t => {
  await using connect = await testHost()
  const stream = await screenshot(connect)
  const duplex = stream.duplex({ signal: AbortSignal.abort() })
  const closed = new Promise(resolve => duplex.once('close', resolve))
  t.match(await once(duplex, 'error'), [{ name: 'AbortError' }])
  await closed
  t.equal(stream.closed, true)
  while (openFiles('self') > 0) await new Promise(resolve => setImmediate(resolve))
})

t.test('a console whose signal is aborted while it is opened is given back', { skip }, async t => {
  await using connect = await testHost()
  const domain = await connect.domainLookupByName('test')
  const control = new AbortController()
  // The test driver has no consoles.
  domain.openConsole = async (_device, stream) => {
    await domain.screenshot(stream, 0)
    control.abort()
  }
  await t.rejects(domain.console({ signal: control.signal }), { name: 'AbortError' })
  while (openFiles('self') > 0) await new Promise(resolve => setImmediate(resolve))
})

/** How many descriptors of the test driver's picture, or of another file, a process holds. */
function openFiles(process: number | string, file = 'test-screenshot'): number {
  const links = readdirSync(`/proc/${process}/fd`).map(fd => {
    try {
      return readlinkSync(`/proc/${process}/fd/${fd}`)
    } catch {
      return ''
    }
  })
  return links.filter(link => link.includes(file)).length
}

t.test('closed before its first read, it is aborted', { skip }, async t => {
  await using connect = await testHost()
  for (const end of ['close', 'destroy', 'while it is opened'] as const) {
    const stream = await connect.streamNew(StreamFlags.NONBLOCK)
    const domain = await connect.domainLookupByName('test')
    const opened = domain.screenshot(stream, 0)
    if (end !== 'while it is opened') {
      await opened
      t.equal(openFiles('self'), 1)
    }
    if (end === 'destroy') {
      const duplex = stream.duplex()
      const closed = once(duplex, 'close')
      duplex.destroy()
      await closed
    } else await stream.close()
    await opened
    while (openFiles('self') > 0) await new Promise(resolve => setImmediate(resolve))
    t.pass(end)
  }
})

t.test('a daemon, too, hears that it is closed before its first read', { skip: noDaemon }, async t => {
  const { connect, pool, daemon } = await storage(t)
  const vol = await volume(pool, 'unread', 4096)
  for (const flags of [StreamFlags.NONBLOCK, 0 as StreamFlags]) {
    const stream = await connect.streamNew(flags)
    await vol.upload(stream, 0, 4096)
    t.ok(openFiles(daemon.pid ?? 0, 'unread') > 0)
    await stream.close()
    // Its own thread closes the file.
    while (openFiles(daemon.pid ?? 0, 'unread') > 0) await new Promise(resolve => setImmediate(resolve))
    t.pass('the file is closed')
  }
})

t.test('streams of a daemon that hangs hold up nobody else', { skip: noDaemon }, async t => {
  const daemon = await Daemon.start(t)
  const connect = await Connect.open(daemon.uri())
  const domain = await connect.domainLookupByName('test')
  const streams: Stream[] = []
  // Their aborts and their closes alone are as many as any lane has threads.
  for (let i = 0; i < 512; i++) {
    const stream = await connect.streamNew()
    await domain.screenshot(stream, 0)
    streams.push(stream)
  }
  daemon.freeze()
  const ends = streams.map((stream, i) => (i % 2 ? stream.abort() : stream.close()))
  await using other = await testHost()
  const test = await other.domainLookupByName('test')
  await test.suspend()
  await test.resume()
  await daemon.kill()
  await Promise.all(ends)
  await connect.close()
})

t.test('what cannot be is refused', { skip }, async t => {
  await using connect = await testHost()
  const stream = await connect.streamNew(StreamFlags.NONBLOCK)
  t.match((await failure(t, () => stream.read())).code, /^VIR_ERR_/, 'nothing was opened on it')
  t.equal((await failure(t, () => stream.read(0))).code, 'EINVAL')
  t.equal((await failure(t, () => stream.write('text' as unknown as Uint8Array))).code, 'EINVAL')
  t.equal((await failure(t, () => stream.writeHole(-1))).code, 'EINVAL')
  t.equal((await failure(t, () => stream.eventAddCallback(-1, () => undefined))).code, 'EINVAL')
  // An argument that closes the stream while it is looked at.
  const closes = await screenshot(connect)
  const number = { valueOf: () => (void closes.close(), 1) } as unknown as number
  t.equal((await failure(t, () => closes.eventAddCallback(number, () => undefined))).code, 'EINVAL')
  const data = {
    get length() {
      void closes.close()
      return 1
    }
  } as unknown as Uint8Array
  t.equal((await failure(t, () => closes.write(data))).code, 'CLOSED')
  await stream.close()
  t.equal((await failure(t, () => stream.read())).code, 'CLOSED')
})

t.test('its own callback tells when it can be read', { skip }, async t => {
  await using connect = await testHost()
  const stream = await screenshot(connect)
  let size = 0
  await new Promise<void>((resolve, reject) => {
    const callback = async (events: number): Promise<void> => {
      t.ok(events & StreamEventType.READABLE)
      const data = await stream.recv(65536)
      if (typeof data !== 'number') size += data.length
      if (typeof data !== 'number' && data.length === 0) resolve()
    }
    stream.eventAddCallback(StreamEventType.READABLE, callback).catch(reject)
  })
  t.ok(size > 10_000)
  await stream.eventRemoveCallback()
  await stream.finish()
})

async function storage(t: Test): Promise<{ connect: Connect; pool: StoragePool; folder: string; daemon: Daemon }> {
  const daemon = await Daemon.start(t)
  const folder = path.join(daemon.folder, 'pool')
  mkdirSync(folder)
  const connect = await Connect.open(daemon.uri('storage', 'system'))
  t.teardown(() => connect.close())
  const pool = await connect.storagePoolCreateXML(
    `<pool type='dir'><name>hypertwin-${process.pid}</name><target><path>${folder}</path></target></pool>`
  )
  // The daemon remembers a pool that is not destroyed.
  t.teardown(() => pool.destroy().catch(() => undefined))
  return { connect, pool, folder, daemon }
}
const volume = (pool: StoragePool, name: string, bytes: number) =>
  pool.storageVolCreateXML(`<volume><name>${name}</name><capacity>${bytes}</capacity><allocation>0</allocation></volume>`)

t.test('a volume up and down, over a daemon', { skip: noDaemon }, async t => {
  const { connect, pool, folder } = await storage(t)
  const bytes = randomBytes(5 * 1024 * 1024 + 12_345)
  for (const flags of [StreamFlags.NONBLOCK, 0 as StreamFlags]) {
    const name = `up-${flags}`
    const vol = await volume(pool, name, bytes.length)
    const up = await connect.streamNew(flags)
    await vol.upload(up, 0, bytes.length)
    await pipeline(Readable.from([bytes.subarray(0, 1_000_000), bytes.subarray(1_000_000)]), up.duplex({ direction: 'write' }))
    t.ok(readFileSync(path.join(folder, name)).equals(bytes), `sent, ${flags ? 'non-blocking' : 'blocking'}`)
    const down = await connect.streamNew(flags)
    await vol.download(down, 0, 0)
    t.ok(Buffer.concat((await down.duplex({ direction: 'read' }).toArray()) as Buffer[]).equals(bytes), 'and got back')
  }
  const screen = await Connect.open((await connect.getURI()).replace(/^storage(.*)system/, 'test$1default'))
  t.teardown(() => screen.close())
  t.ok(isPng(await all(await screenshot(screen))), 'a screenshot over the same daemon')
})

t.test('holes are holes', { skip: noDaemon }, async t => {
  const { connect, pool, folder } = await storage(t)
  const size = 64 * 1024 * 1024
  const vol = await volume(pool, 'sparse', size)
  const data = randomBytes(1024 * 1024)
  const up = await connect.streamNew(StreamFlags.NONBLOCK)
  await vol.upload(up, 0, size, StorageVolUploadFlags.SPARSE_STREAM)
  await up.sparseSendAll([data, { hole: 62n * 1024n * 1024n }, data])
  await up.finish()
  const stat = statSync(path.join(folder, 'sparse'))
  t.equal(stat.size, size)
  t.ok(stat.blocks * 512 < 4 * 1024 * 1024, 'the hole takes no room')
  const down = await connect.streamNew(StreamFlags.NONBLOCK)
  await vol.download(down, 0, 0, StorageVolDownloadFlags.SPARSE_STREAM)
  const chunks = (await down.duplex({ direction: 'read', sparse: true }).toArray()) as (Buffer | StreamHole)[]
  let holes = 0n
  const bytes: Buffer[] = []
  for (const chunk of chunks)
    if (Buffer.isBuffer(chunk)) bytes.push(chunk)
    else holes += chunk.hole
  t.equal(holes, 62n * 1024n * 1024n)
  t.ok(Buffer.concat(bytes).equals(Buffer.concat([data, data])))
})

t.test('a slow reader holds the sender up, and a daemon that dies ends the stream', { skip: noDaemon }, async t => {
  const { connect, pool, daemon } = await storage(t)
  const size = 32 * 1024 * 1024
  const vol = await volume(pool, 'large', size)
  const up = await connect.streamNew(StreamFlags.NONBLOCK)
  await vol.upload(up, 0, size)
  await up.sendAll(Array.from({ length: 32 }, () => randomBytes(1024 * 1024)))
  await up.finish()
  const down = await connect.streamNew(StreamFlags.NONBLOCK)
  await vol.download(down, 0, 0)
  const duplex = down.duplex({ direction: 'read' })
  const first = await new Promise(resolve => duplex.once('data', chunk => { duplex.pause(); resolve(chunk) }))
  t.ok(first)
  t.ok(duplex.readableLength <= 2 * 262_120, `no more is read than Node asks for: ${duplex.readableLength}`)
  const error = new Promise(resolve => duplex.once('error', resolve))
  await daemon.kill()
  duplex.resume()
  t.match(await error, { name: 'LibvirtError' })
})

t.test('abort and destroy end a read that waits', { skip: noDaemon }, async t => {
  const { connect, pool } = await storage(t)
  const vol = await volume(pool, 'waits', 4096)
  for (const flags of [StreamFlags.NONBLOCK, 0 as StreamFlags]) {
    const open = async (): Promise<Stream> => {
      const stream = await connect.streamNew(flags)
      await vol.upload(stream, 0, 4096)
      return stream
    }
    // Nothing comes on a stream that is written to.
    const stream = await open()
    const read = failure(t, () => stream.read())
    t.equal((await failure(t, () => stream.read())).code, 'BUSY')
    await stream.abort()
    t.equal((await read).code, 'CLOSED')
    const controller = new AbortController()
    const all = (await open()).duplex({ direction: 'read', signal: controller.signal }).toArray()
    controller.abort()
    await t.rejects(all, { name: 'AbortError' })
  }
})

t.test('who listens hears of the end of the connection', { skip: noDaemon }, async t => {
  const { connect, pool, daemon } = await storage(t)
  const vol = await volume(pool, 'lost', 4096)
  const stream = await connect.streamNew(StreamFlags.NONBLOCK)
  await vol.upload(stream, 0, 4096)
  const heard: number[] = []
  let told: () => void = () => undefined
  const first = new Promise<void>(resolve => (told = resolve))
  await stream.eventAddCallback(StreamEventType.READABLE, events => {
    heard.push(events)
    told()
  })
  await daemon.kill()
  await first
  await stream.abort()
  t.strictSame(heard, [StreamEventType.ERROR | StreamEventType.HANGUP])
})
