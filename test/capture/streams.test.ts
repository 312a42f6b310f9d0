// The bytes of streams, captured on a host and replayed: a volume is filled and read back, sparse too, and a console
// is waited on.
import path from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import t from 'tap'
import { startHosts, whyNoHosts } from '../../scripts/hosts/index.mjs'
import { captureConnection, replayConnection } from '../../lib/capture/index.js'
import { Connect, StorageVolDownloadFlags, StreamEventType, StreamFlags, type Stream } from '../../lib/libvirt/index.js'
import { noLibvirt } from '../libvirt/support.js'

const skip = noLibvirt || (await whyNoHosts())

t.test('streams', { skip }, async t => {
  const hosts = await startHosts({ count: 1 })
  t.teardown(() => hosts.close())
  const folder = path.join(hosts.storage, 'pool')
  const pool = `<pool type='dir'><name>pool</name><target><path>${folder}</path></target></pool>`
  const volume = (name: string) => `<volume><name>${name}</name><capacity>1048576</capacity></volume>`
  const bytes = Buffer.alloc(700_000, 'some bytes ')

  const program = async (connect: Connect, sent = bytes): Promise<unknown[]> => {
    const made = await connect.storagePoolDefineXML(pool)
    await made.build(0)
    await made.create()
    const one = await made.storageVolCreateXML(volume('one'))
    const stream = (): Promise<Stream> => connect.streamNew(StreamFlags.NONBLOCK)
    const up = await stream()
    await one.upload(up, 0n, BigInt(sent.length))
    await pipeline(Readable.from([sent.subarray(0, 1000), sent.subarray(1000)]), up.duplex({ direction: 'write' }))
    const down = await stream()
    await one.download(down, 0n, 0n)
    const read = await buffer(down.duplex({ direction: 'read' }))
    const sparse = await stream()
    await one.download(sparse, 0n, 0n, StorageVolDownloadFlags.SPARSE_STREAM)
    const parts: (bigint | number)[] = []
    await sparse.sparseRecvAll(
      data => void parts.push(data.length),
      hole => void parts.push(hole)
    )
    await sparse.finish()
    const listened = await stream()
    await one.download(listened, 0n, 5n)
    const heard: unknown[] = []
    // Waiting for a callback does not keep a process.
    const alive = setInterval(() => undefined, 1000)
    await new Promise<void>((resolve, reject) => {
      listened
        .eventAddCallback(StreamEventType.READABLE, async events => {
          const data = await listened.read()
          heard.push(events, data)
          if (data === null || heard.length > 20) {
            await listened.eventRemoveCallback()
            resolve()
          }
        })
        .catch(reject)
    })
    clearInterval(alive)
    await listened.abort()
    await connect.close()
    return [read.subarray(0, bytes.length).equals(sent), read.length, parts, heard]
  }
  const connect = await Connect.open(hosts.hosts[0]?.uri)
  const log = path.join(t.testdir(), 'log')
  const capture = await captureConnection(connect, log)
  const seen = await program(connect)
  await capture.close()
  t.match(seen, [true, 1 << 20, Array, Array])
  {
    await using replay = await replayConnection(log)
    t.strictSame(await program(replay.connect), seen)
    replay.finish()
  }
  await using replay = await replayConnection(log)
  const other = Buffer.from(bytes)
  other[5] = 0
  await t.rejects(program(replay.connect, other), {
    code: 'LIBVIRT_REPLAY_STRAYED',
    message: /is send\(Stream \d+, <1000 bytes>\), but the program calls send\(Stream \d+, <1000 bytes>\)/
  })
})
