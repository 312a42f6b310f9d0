// What libvirt gives is given back exactly once: by close(), garbage collection, a worker's end at any step, the
// process's end; and nothing of it waits for a call that does not come back.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { addon } from '../../lib/libvirt/addon.js'
import { Connect, StreamEventType, StreamFlags } from '../../lib/libvirt/index.js'
import { limit } from '../patience.js'
import { names } from './closing-worker.js'
import { failure, noLibvirt as skip, testHost } from './support.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void
const handles = (): number => addon.libvirtUsage().handles

/** Until no more than `before` is left, or the test's timeout. */
async function settled(before: number, collect = false): Promise<void> {
  while (handles() > before) {
    if (collect) gc()
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** URIs of a daemon that accepts and never answers, and of a test driver that wants credentials. */
async function hosts(t: Test): Promise<{ silent: string; asking: string; hangUp: () => void }> {
  const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-silent-'))
  const sockets = new Set<Socket>()
  const server: Server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
  })
  server.listen(path.join(folder, 'socket'))
  await once(server, 'listening')
  const hangUp = (): void => {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  t.teardown(() => {
    hangUp()
    rmSync(folder, { recursive: true })
  })
  const file = path.join(folder, 'node.xml')
  writeFileSync(file, '<node><auth><user password="secret">alice</user></auth></node>')
  return { silent: `test+unix:///default?socket=${path.join(folder, 'socket')}`, asking: `test://${file}`, hangUp }
}

t.test('close() waits for calls in flight, refuses later ones and may be called twice', { skip }, async t => {
  const before = handles()
  const connect = await testHost()
  const domain = await connect.domainLookupByName('test')
  const calls = Array.from({ length: 100 }, () => domain.getName())
  const closed = domain.close()
  t.equal(domain.closed, true)
  t.equal((await failure(t, () => domain.getName())).code, 'CLOSED')
  t.ok((await Promise.all(calls)).every(name => name === 'test'))
  await Promise.all([closed, domain.close(), connect.close()])
  await connect.close()
  t.equal(handles(), before)
})

t.test('1000 connections, many at once, leave nothing', { skip }, async t => {
  const before = handles()
  for (let i = 0; i < 20; i++)
    await Promise.all(
      Array.from({ length: 50 }, async () => {
        await using connect = await testHost()
        const [domain] = await connect.listAllDomains()
        await domain?.getInfo()
        await domain?.close()
      })
    )
  t.equal(handles(), before)
})

t.test('the garbage collector gives back what was dropped', { skip }, async t => {
  const before = handles()
  const drop = async (): Promise<void> => {
    const connect = await testHost()
    for (let i = 0; i < 100; i++) await connect.listAllDomains()
  }
  await drop()
  t.ok(handles() > before)
  await settled(before, true)
})

t.test('and a stream whose listener has been told', { skip }, async t => {
  const before = handles()
  const drop = async (): Promise<void> => {
    await using connect = await testHost()
    const domain = await connect.domainLookupByName('test')
    const stream = await connect.streamNew(StreamFlags.NONBLOCK)
    await domain.screenshot(stream, 0)
    await new Promise<void>((resolve, reject) => {
      const callback = (): Promise<void> => {
        resolve()
        // It does not return, and knows the stream.
        return new Promise(() => stream.closed)
      }
      stream.eventAddCallback(StreamEventType.READABLE, callback).catch(reject)
    })
  }
  await drop()
  t.ok(handles() > before)
  await settled(before, true)
})

t.test('credentials come from an asynchronous function', { skip }, async t => {
  const { asking } = await hosts(t)
  const asked: number[] = []
  await using connect = await Connect.open(asking, {
    auth: async requests => {
      // It may use libvirt meanwhile.
      await using other = await testHost()
      t.equal((await other.listAllDomains()).length, 1)
      asked.push(...requests.map(request => request.type))
      return requests.map(() => (asked.length === 1 ? 'alice' : 'secret'))
    }
  })
  t.strictSame(asked, [2, 5])
  t.equal(await connect.getURI(), asking)
  const refused = [() => Promise.resolve(null), () => Promise.reject(new Error('no')), () => Promise.resolve(['mallory'])]
  for (const auth of refused) t.match((await failure(t, () => Connect.open(asking, { auth }))).code, /^VIR_ERR_AUTH/)
  const mistake = new Error('no')
  t.equal((await failure(t, () => Connect.open(asking, { auth: () => Promise.reject(mistake) }))).cause, mistake)
  t.match((await failure(t, () => Connect.open(asking))).code, /^VIR_ERR_/, 'nobody to ask')
})

t.test('a worker that ends at any step gives everything back', { skip }, async t => {
  const { silent, asking, hangUp } = await hosts(t)
  const source = import.meta.url.endsWith('.ts') ? './closing-worker.ts' : './closing-worker.js'
  const before = handles()
  for (const step of names) {
    const worker = new Worker(new URL(source, import.meta.url), { workerData: { step, silent, asking } })
    const [message] = (await once(worker, 'message')) as [string]
    t.equal(message, 'there', step)
    await worker.terminate()
    await settled(before)
  }
  t.ok(addon.libvirtUsage().running >= 3, 'what opens for ever still does, and held nobody up')
  hangUp()
  while (addon.libvirtUsage().running > 0) await new Promise(resolve => setImmediate(resolve))
  await settled(before)
})

t.test('several workers share the threads and the event loop', { skip }, async t => {
  const { silent, asking } = await hosts(t)
  const source = import.meta.url.endsWith('.ts') ? './closing-worker.ts' : './closing-worker.js'
  const before = handles()
  const workers = ['calls in flight', 'events come', 'watching', 'a stream is read'].map(
    step => new Worker(new URL(source, import.meta.url), { workerData: { step, silent, asking } })
  )
  await Promise.all(workers.map(worker => once(worker, 'message')))
  await Promise.all(workers.map(worker => worker.terminate()))
  await settled(before)
  t.equal(handles(), before)
})

t.test('the process', { skip }, async t => {
  const { silent } = await hosts(t)
  const index = new URL('../../lib/libvirt/index.ts', import.meta.url).href
  const program = (body: string): { status: number | null; signal: string | null; stdout: string; stderr: string } =>
    spawnSync(
      process.execPath,
      [...process.execArgv, '--input-type=module', '-e', `import { Connect } from ${JSON.stringify(index)}\n${body}`],
      { encoding: 'utf8', timeout: limit(60_000) }
    )
  const run = (body: string): ReturnType<typeof program> =>
    program(`const connect = await Connect.open('test:///default')
             const domain = await connect.domainLookupByName('test')
             ${body}`)
  for (const ms of [0, 1, 2, 4, 8, 16])
    t.match(
      program(`Connect.open('test:///default'); setTimeout(() => process.exit(5), ${ms})`),
      { status: 5, stderr: '' },
      'ends while libvirt is being initialised'
    )
  t.match(run(`console.log(await domain.getName())`), { status: 0, stdout: 'test\n', stderr: '' }, 'ends with open objects')
  t.match(
    run(`for (let i = 0; i < 1000; i++) domain.getXMLDesc(); process.exit(3)`),
    { status: 3, stderr: '' },
    'ends in the middle of calls'
  )
  t.match(
    run(`Connect.open(${JSON.stringify(silent)}); setTimeout(() => process.exit(4), 100)`),
    { status: 4, stderr: '' },
    'ends while a call never comes back'
  )
  t.match(
    run(`setTimeout(() => { domain.suspend() }, 50)
         for await (const event of connect.events('domain.lifecycle')) { console.log(event.args.event); break }`),
    { status: 0, stdout: '3\n', stderr: '' },
    'lives while events are waited for, and no longer'
  )
  const listen = `import { StreamFlags } from ${JSON.stringify(index)}
    const stream = await connect.streamNew(StreamFlags.NONBLOCK)
    await domain.screenshot(stream, 0)
    const later = what => setTimeout(() => { console.log(what); process.exit(0) }, 200).unref()`
  t.match(
    run(`${listen}
         await stream.eventAddCallback(8, () => undefined)
         later('waits')`),
    { status: 0, stdout: 'waits\n', stderr: '' },
    'lives while an event of a stream is waited for'
  )
  t.match(
    run(`${listen}
         await stream.eventAddCallback(1, () => { console.log('told'); return new Promise(() => undefined) })`),
    { status: 0, stdout: 'told\n', stderr: '' },
    'and no longer'
  )
  t.match(
    run(`const stream = await connect.streamNew()
         await stream.eventAddCallback(1, () => undefined).catch(() => console.log('refused'))`),
    { status: 0, stdout: 'refused\n', stderr: '' },
    'nor when there is nothing to wait for'
  )
  const worker = new URL('closing-worker.ts', import.meta.url).href
  t.match(
    spawnSync(
      process.execPath,
      [
        ...process.execArgv,
        '--input-type=module',
        '-e',
        `import { Worker } from 'node:worker_threads'
         for (const step of ['events come', 'calls in flight', 'events come']) {
           const worker = new Worker('import(' + ${JSON.stringify(JSON.stringify(worker))} + ')', { eval: true, workerData: { step } })
           await new Promise(resolve => worker.once('message', resolve))
           await worker.terminate()
           await new Promise(resolve => setTimeout(resolve, 100))
         }
         console.log('there')`
      ],
      { encoding: 'utf8', timeout: limit(60_000) }
    ),
    { status: 0, stdout: 'there\n', stderr: '' },
    'outlives workers that alone have loaded the addon'
  )
})
