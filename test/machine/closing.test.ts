// Machines, recordings, logs and replays are given back exactly once: by close(), garbage collection, a worker's
// end at any step, the process's end.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { guestPath } from '../../lib/index.js'
import { EventLog, Recording, Replay } from '../../lib/eventlog/index.js'
import { Machine } from '../../lib/machine/index.js'
import { descriptors, threads } from '../kvm/guest.js'
import { recordHello } from '../eventlog/support.js'
import { limit } from '../patience.js'
import { names } from './closing-worker.js'
import { noKvm as skip, scratch } from './support.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

const create = (): Promise<Machine> =>
  Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine: 'ticks=1000000' })

/** Until what was dropped is closed, on native threads after the collector's turn, or the test's timeout. */
async function settled(before: { descriptors: number; threads: number }): Promise<void> {
  while (descriptors() > before.descriptors || threads() > before.threads) {
    gc()
    await new Promise(resolve => setImmediate(resolve))
  }
}
const now = (): { descriptors: number; threads: number } => ({ descriptors: descriptors(), threads: threads() })

t.test('100 machines, closed wherever they are', { skip }, async t => {
  await (await create()).close()
  const before = now()
  for (let i = 0; i < 100; i++) {
    await using machine = await create()
    if (i % 4 > 0) await machine.start()
    if (i % 4 > 1) await machine.pause()
    if (i % 4 > 2) void machine.resume().catch(() => undefined)
  }
  t.strictSame(now(), before)
})

t.test('the garbage collector closes what was dropped', { skip }, async t => {
  const folder = scratch(t)
  const directory = path.join(folder, 'log')
  await recordHello(t, directory)
  await (await create()).close()
  let logs = 0
  const dropped: Record<string, () => Promise<unknown>> = {
    'a created machine': create,
    'a paused machine': async () => {
      const machine = await create()
      await machine.start()
      await machine.pause()
    },
    'a stopped machine': async () => {
      const machine = await create()
      await machine.start()
      await machine.stop()
    },
    'events that nobody takes': async () => (await create()).events(),
    'a recording': async () => Recording.start(await create(), path.join(folder, `log${logs++}`)),
    'a log': () => EventLog.open(directory),
    'an iteration': async () => (await EventLog.open(directory)).records().next(),
    'a replay': async () => (await Replay.open(directory)).run()
  }
  for (const [what, drop] of Object.entries(dropped)) {
    const before = now()
    for (let i = 0; i < 3; i++) await drop()
    t.ok(threads() > before.threads, `${what} is there`)
    await settled(before)
    t.strictSame(now(), before, `${what} is closed`)
  }
})

t.test('a recording lasts as long as its machine, whoever refers to it', { skip }, async t => {
  const folder = scratch(t)
  const start = async () => {
    const machine = await create()
    const recording = new WeakRef(await Recording.start(machine, path.join(folder, 'log')))
    await machine.start()
    return { machine, recording, dropped: new WeakRef({}) }
  }
  const collected = async (what: WeakRef<object>): Promise<void> => {
    do {
      await new Promise(resolve => setImmediate(resolve))
      gc()
    } while (what.deref())
  }
  const { machine, recording, dropped } = await start()
  await collected(dropped)
  t.ok(recording.deref(), 'the machine goes on, and so does its recording')
  await t.rejects(Recording.start(machine, path.join(folder, 'other')), { code: 'BAD_STATE' })
  t.ok((await recording.deref()?.stop())?.state)
  await collected(recording)
  t.pass('but not once it is stopped')
  await machine.close()
})

t.test('a worker that ends at any step gives everything back', { skip }, async t => {
  const folder = scratch(t)
  const source = import.meta.url.endsWith('.ts') ? './closing-worker.ts' : './closing-worker.js'
  const terminate = async (step: string): Promise<void> => {
    const worker = new Worker(new URL(source, import.meta.url), { workerData: { step, folder } })
    const [message] = (await once(worker, 'message')) as [string]
    t.equal(message, 'there', step)
    await worker.terminate()
  }
  await terminate('loaded')
  const before = now()
  for (const step of names.slice(1)) await terminate(step)
  await settled(before)
  t.strictSame(now(), before)
})

t.test('a running machine keeps the process alive, others do not', { skip }, async t => {
  const run = (body: string): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(
      process.execPath,
      [
        ...process.execArgv,
        '--input-type=module',
        '-e',
        `import { Machine } from ${JSON.stringify(new URL('../../lib/machine/index.ts', import.meta.url).href)}
         const create = line => Machine.create({ kernel: ${JSON.stringify(guestPath('hello'))}, memory: '8MiB', commandLine: line })
         ${body}`
      ],
      { encoding: 'utf8', timeout: limit(60_000) }
    )
  const told = "process.on('exit', () => console.log(machine.state, machine.reason))"
  t.match(
    run(`const machine = await create('ticks=20'); ${told}; await machine.start()`),
    { status: 0, stdout: 'stopped power-off\n' },
    'until the guest powers off'
  )
  t.match(
    run(`const machine = (await create('ticks=1000000')).unref(); ${told}; await machine.start()`),
    { status: 0, stdout: /running requested/ },
    'unless unref()'
  )
  t.match(run(`const machine = await create(''); ${told}`), { status: 0, stdout: /created/ })
  t.match(
    run(`const machine = await create('ticks=1000000'); ${told}; await machine.start(); await machine.pause()`),
    { status: 0, stdout: /paused/ }
  )
  t.match(
    run(`const machine = await create('ticks=1000000'); await machine.start(); process.exit(3)`),
    { status: 3, stderr: '' },
    'process.exit() while it runs'
  )
})
