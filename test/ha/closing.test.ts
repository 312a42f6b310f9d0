// Protections and standbys are given back exactly once, by whatever ends them; a worker's end is a primary's death.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import path from 'node:path'
import process from 'node:process'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { descriptors, threads } from '../kvm/guest.js'
import { limit } from '../patience.js'
import { names } from './closing-worker.js'
import { command, endless, guest, noKvm as skip, noOpenssl, patient, protection, scratch, standby, TestArbiter, tlsIn, Told } from './support.js'

const file = new URL('./closing-worker.ts', import.meta.url)

for (const step of names)
  t.test(`a worker that ends: ${step}`, { skip }, async t => {
    const before = { descriptors: descriptors(), threads: threads() }
    const worker = new Worker(file, { workerData: { step, folder: scratch(t) } })
    const [message] = (await once(worker, 'message')) as [string]
    t.equal(message, 'there')
    await worker.terminate()
    while (descriptors() > before.descriptors + 8 || threads() > before.threads + 4)
      await new Promise(resolve => setImmediate(resolve))
  })

t.test("a worker's end is its primary's death: the backup goes live", { skip }, async t => {
  const folder = scratch(t)
  const there = await standby(t, { arbiter: new FileArbiter(folder) })
  const worker = new Worker(file, { workerData: { step: 'primary of another', folder, address: there.listen } })
  await once(worker, 'message')
  await there.waitFor('protected')
  await worker.terminate()
  t.match(await there.live, { state: 'running' })
  t.match(there.timeline(), { cause: 'PEER_LOST' })
})

t.test('closing at any time, twice, at the same time, with everything', { skip }, async t => {
  const arbiter = new TestArbiter()
  const before = { descriptors: descriptors(), threads: threads() }
  for (let i = 0; i < 12; i++) {
    const there = await standby(t, { arbiter })
    const machine = await guest(t, 'hello', endless)
    await machine.start()
    const here = await protection(t, machine, { backup: there.listen, arbiter })
    if (i % 3 === 1) await here.ready
    if (i % 3 === 2) await there.waitFor('protected')
    const ends = [() => here.close(), () => there.close(), () => machine.close(), () => here.close(), () => there.close()]
    if (i % 2) ends.reverse()
    if (i % 4 > 1) for (const end of ends) await end()
    else await Promise.all(ends.map(end => end()))
    t.equal(here.state, 'ended')
    t.equal(there.machine, undefined)
    here.stats()
    here.status()
    there.status()
  }
  t.strictSame({ descriptors: descriptors(), threads: threads() }, before)
})

t.test("closing a protected machine lets its backup go; a guest's end does too", { skip }, async t => {
  const arbiter = new TestArbiter()
  const there = await standby(t, { arbiter })
  const machine = await guest(t, 'hello', endless)
  await machine.start()
  const here = await protection(t, machine, { backup: there.listen, arbiter })
  const told = new Told(here)
  await here.ready
  await machine.close()
  await here.waitFor('ended')
  await told.over
  await there.waitFor('listening')
  t.equal(there.machine, undefined)
})

t.test('a machine and its protection, at the same time', { skip }, async t => {
  const arbiter = new TestArbiter()
  const silent = createServer(socket => socket.resume()).listen(0, '127.0.0.1')
  t.teardown(() => silent.close())
  await once(silent, 'listening')
  const nobody = `tcp://127.0.0.1:${(silent.address() as AddressInfo).port}`
  if (noOpenssl) t.comment(`a TLS handshake is not tried: ${noOpenssl}`)
  const tls = noOpenssl ? undefined : tlsIn(scratch(t), '127.0.0.1')
  const patience = limit(60_000)
  const before = { descriptors: descriptors(), threads: threads() }
  const order = [0, 1, 2, 4, 'the machine first'] as const
  for (const at of [...(tls ? (['handshake'] as const) : []), 'no answer', 'retry', 'syncing', 'protected'] as const)
    for (const turns of order) {
      const there = await standby(t, { arbiter })
      const machine = await guest(t, 'hello', endless)
      await machine.start()
      const connected = at === 'handshake' ? once(silent, 'connection') : undefined
      const here = await protection(t, machine, {
        backup: at === 'handshake' || at === 'no answer' ? nobody : at === 'retry' ? 'tcp://127.0.0.1:9' : there.listen,
        arbiter,
        wait: true,
        connectTimeoutMs: patience,
        retry: { firstMs: patience, mostMs: patience },
        ...(at === 'handshake' && tls && { tls })
      })
      const told = new Told(here)
      const ready = here.ready.catch(() => undefined)
      if (at === 'handshake') await connected
      else if (at === 'retry') await told.find('retry')
      else if (at === 'protected') await Promise.all([ready, there.waitFor('protected')])
      else await here.waitFor('syncing')
      const closed = turns === 'the machine first' ? [machine.close(), here.close()] : [here.close()]
      if (turns !== 'the machine first') for (let n = 0; n < turns; n++) await turn()
      await Promise.all([...closed, machine.close(), told.over, ready])
      t.strictSame([machine.state, here.state], ['stopped', 'ended'], `${at}, ${turns}`)
      await there.waitFor('listening')
      t.equal(there.machine, undefined)
      await there.close()
    }
  t.strictSame(arbiter.asked, [], 'nobody takes it for a failure')
  while (descriptors() > before.descriptors + 8 || threads() > before.threads + 4) await turn()
})

t.test('a process that just ends', { skip }, async t => {
  const script = `
    const [{ Machine }, { protect, backup }, { FileArbiter }, { guestPath }] = await Promise.all(
      ['machine/index.js', 'ha/index.js', 'arbiter/index.js', 'index.js'].map(name => import('file://' + process.argv[1] + '/' + name)))
    const arbiter = new FileArbiter(process.argv[2])
    const heartbeat = ${JSON.stringify(patient)}
    const there = await backup({ listen: 'tcp://127.0.0.1:0', arbiter, heartbeat })
    const machine = await Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine: 'ticks=1000000' })
    await machine.start()
    const here = await protect(machine, { backup: there.listen, arbiter, heartbeat })
    await here.ready
    process.exit(7)`
  const { status, signal, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', script, path.dirname(path.dirname(command)), scratch(t)],
    { encoding: 'utf8', timeout: limit(60_000) }
  )
  t.match({ status, signal, stderr }, { status: 7, signal: null, stderr: '' })
})
