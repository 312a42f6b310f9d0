// Migrations, listeners and what arrived are given back exactly once: at their end, by close(), garbage collection, a
// worker's end at any step, the process's end.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import process from 'node:process'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { Machine } from '../../lib/machine/index.js'
import { listen, migrate } from '../../lib/migrate/index.js'
import { guestPath } from '../../lib/index.js'
import { descriptors, threads } from '../kvm/guest.js'
import { limit } from '../patience.js'
import { names } from './closing-worker.js'
import { endless, failure, noKvm as skip, scratch } from './support.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

const started = async (): Promise<Machine> => {
  const machine = await Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine: endless })
  await machine.start()
  return machine
}
const now = (): { descriptors: number; threads: number } => ({ descriptors: descriptors(), threads: threads() })
/** Until what was left is closed, on native threads, or the test's timeout. */
async function settled(before: { descriptors: number; threads: number }, collect = false): Promise<void> {
  while (descriptors() > before.descriptors || threads() > before.threads) {
    if (collect) gc()
    await new Promise(resolve => setImmediate(resolve))
  }
}

t.test('20 migrations leave nothing but the machine', { skip }, async t => {
  const listener = await listen('tcp://127.0.0.1:0')
  let machine = await started()
  const hop = async (): Promise<void> => {
    const accepted = listener.accept()
    const migration = migrate(machine, listener.address)
    const { machine: next } = await (await accepted).done
    await migration.done
    await machine.close()
    machine = next
  }
  await hop()
  const before = now()
  for (let i = 0; i < 20; i++) await hop()
  await settled(before)
  t.equal(machine.state, 'running', 'what it took was given back')
  await machine.close()
  await listener.close()
})

t.test('the garbage collector closes what was dropped', { skip }, async t => {
  await (await started()).close()
  const before = now()
  const drop = async (): Promise<void> => {
    await listen('tcp://127.0.0.1:0')
    const machine = await started()
    await failure(migrate(machine, 'tcp://127.0.0.1:1').done)
    await machine.stop()
  }
  for (let i = 0; i < 3; i++) await drop()
  t.ok(threads() > before.threads)
  await settled(before, true)
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
  for (const step of names.slice(1)) {
    await terminate(step)
    await settled(before)
  }
})

t.test('the process lives while it waits for machines, and ends at once when told', { skip }, async t => {
  const run = (body: string): { status: number | null; signal: string | null; stdout: string; stderr: string } =>
    spawnSync(
      process.execPath,
      [
        ...process.execArgv,
        '--input-type=module',
        '-e',
        `import { listen, migrate } from ${JSON.stringify(new URL('../../lib/migrate/index.ts', import.meta.url).href)}
         import { Machine } from ${JSON.stringify(new URL('../../lib/machine/index.ts', import.meta.url).href)}
         const machine = await Machine.create({ kernel: ${JSON.stringify(guestPath('hello'))}, memory: '8MiB', commandLine: '${endless}' })
         await machine.start()
         ${body}`
      ],
      { encoding: 'utf8', timeout: limit(60_000) }
    )
  t.match(
    run(`await machine.close(); const it = await listen('tcp://127.0.0.1:0'); console.log('listens')`),
    { status: 0, stdout: 'listens\n' },
    'a listener whose migrations nobody accepts holds up nothing'
  )
  t.match(
    run(`const it = await listen('tcp://127.0.0.1:0')
      const accepted = it.accept()
      const migration = migrate(machine, it.address)
      const { machine: there } = await (await accepted).done
      await migration.done
      process.on('exit', () => console.log(machine.reason, there.state))
      there.unref()`),
    { status: 0, stdout: 'migrated running\n' },
    'what arrived is a machine like any other'
  )
  t.match(
    run(`const it = await listen('tcp://127.0.0.1:0')
      const accepted = it.accept()
      migrate(machine, it.address, { onStep: step => { if (step === 'stopped') process.exit(3) } })
      await accepted`),
    { status: 3, stderr: '' },
    'process.exit() in the middle'
  )
})
