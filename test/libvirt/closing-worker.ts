// A worker that goes as far as it is told and then says so; the test terminates it there.
import { parentPort, workerData } from 'node:worker_threads'
import { Connect, StreamFlags, watchEvents, type Domain } from '../../lib/libvirt/index.js'

// `silent`: the URI of a daemon that accepts and never answers; `asking`: one that wants credentials.
const { step, silent, asking } = (workerData ?? {}) as { step: string; silent: string; asking: string }
const kept: unknown[] = []

const open = (): Promise<Connect> => Connect.open('test:///default')
const domain = async (): Promise<Domain> => (await open()).domainLookupByName('test')
const ignore = (promise: Promise<unknown>): Promise<unknown> => promise.catch(() => undefined)

const steps: Record<string, () => Promise<unknown>> = {
  loaded: async () => undefined,
  open,
  'opening for ever': async () => {
    for (let i = 0; i < 3; i++) void ignore(Connect.open(silent))
  },
  'calls in flight': async () => {
    const it = await domain()
    for (let i = 0; i < 500; i++) void ignore(it.getXMLDesc())
    return it
  },
  'objects dropped': async () => {
    for (let i = 0; i < 100; i++) await domain()
  },
  'closed, and closing': async () => {
    const it = await open()
    await it.close()
    const other = await open()
    void ignore(other.listAllDomains())
    void other.close()
    return other
  },
  'a subscription begins': async () => {
    const it = await open()
    return [it, it.events('domain.lifecycle')]
  },
  'events come': async () => {
    const it = await domain()
    const events = (await open()).events(['domain.lifecycle', 'domain.reboot'])
    await events.ready
    const connect = await open()
    const own = connect.events('domain.lifecycle')
    await own.ready
    void (async () => {
      const test = await connect.domainLookupByName('test')
      for (;;) {
        await test.suspend()
        await test.resume()
      }
    })().catch(() => undefined)
    await own.next()
    return [it, events, own, own.next()]
  },
  watching: async () => {
    const watch = watchEvents(open, 'domain.lifecycle')
    await watch.next()
    return [watch, watch.next()]
  },
  'credentials are asked for': async () => {
    let asked: () => void = () => undefined
    const there = new Promise<void>(resolve => (asked = resolve))
    const auth = (): Promise<null> => {
      asked()
      return new Promise(() => undefined)
    }
    void ignore(Connect.open(asking, { auth }))
    await there
  },
  'a stream is read': async () => {
    const it = await domain()
    const connect = await open()
    const stream = await connect.streamNew(StreamFlags.NONBLOCK)
    await (await connect.domainLookupByName('test')).screenshot(stream, 0)
    const duplex = stream.duplex({ direction: 'read', chunkSize: 100 })
    await new Promise(resolve => duplex.once('data', resolve))
    return [it, duplex]
  },
  'a stream is listened to': async () => {
    const connect = await open()
    const stream = await connect.streamNew(StreamFlags.NONBLOCK)
    await (await connect.domainLookupByName('test')).screenshot(stream, 0)
    await new Promise(resolve => void stream.eventAddCallback(1, resolve))
    return [stream, stream.read()]
  }
}

export const names = Object.keys(steps)

if (parentPort) {
  kept.push(await steps[step]?.())
  parentPort.postMessage('there')
  setInterval(() => kept.length, 1e6)
}
