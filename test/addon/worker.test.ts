// The addon in worker threads: loaded, used and torn down at any moment, with calls in flight.
import { Worker } from 'node:worker_threads'
import { createRequire } from 'node:module'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import t from 'tap'
import { limit } from '../patience.js'

const root = path.resolve(import.meta.dirname, '../..')
const finder = createRequire(import.meta.url)('node-gyp-build') as { path(dir: string): string }
const addon = finder.path(root)

// Says 'loaded' after loading, then keeps calls going until its end.
const source = `
  const { parentPort, workerData } = require('node:worker_threads')
  parentPort.postMessage('start')
  const addon = require(workerData.addon)
  parentPort.postMessage('loaded')
  let done = 0
  function again() {
    addon.selfTest(done, done % 2, 0).then(() => {
      if (++done === workerData.reports) parentPort.postMessage('done')
      again()
    })
  }
  for (let i = 0; i < 8; i++) again()
`

function start(reports: number): Worker {
  return new Worker(source, { eval: true, execArgv: [], workerData: { addon, reports } })
}

async function said(worker: Worker, word: string): Promise<void> {
  for (;;) {
    const [message] = (await once(worker, 'message')) as [string]
    if (message === word) return
  }
}

for (const moment of ['start', 'loaded', 'done'])
  t.test(`20 workers, each ended when it says '${moment}'`, async t => {
    const workers = Array.from({ length: 20 }, (_, i) => start(1 + 7 * i))
    await Promise.all(
      workers.map(async worker => {
        await said(worker, moment)
        await worker.terminate()
      })
    )
    t.pass('all ended')
  })

t.test('a worker that ends by itself leaves no call behind', async t => {
  const worker = new Worker(
    `const addon = require(require('node:worker_threads').workerData.addon)
     addon.selfTest(1, 1, 0).then(value => { process.exitCode = value === 1 ? 0 : 9 })`,
    { eval: true, execArgv: [], workerData: { addon } }
  )
  const [code] = (await once(worker, 'exit')) as [number]
  t.equal(code, 0)
})

t.test('a pending call keeps the process alive, and an idle addon does not', async t => {
  const script = `const addon = require(${JSON.stringify(addon)})
    addon.selfTest(1, 20, 0).then(() => console.log('settled'))`
  const result = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', timeout: limit(20_000) })
  t.equal(result.status, 0)
  t.equal(result.stdout, 'settled\n')
})

t.test('process.exit with calls in flight is clean', async t => {
  const script = `const addon = require(${JSON.stringify(addon)})
    for (let i = 0; i < 50; i++) addon.selfTest(i, 1, i % 2)
    .catch(() => {})
    setImmediate(() => process.exit(3))`
  const result = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', timeout: limit(20_000) })
  t.equal(result.status, 3, result.stderr)
})
