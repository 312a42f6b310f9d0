// A machine whose guest waits for memory that nobody brings, and a tracker of what it writes.
import { parentPort, workerData } from 'node:worker_threads'
import { DirtyTracker } from '../../lib/dirty/index.js'
import { restoreStreamed } from '../../lib/stream/index.js'
import { until } from './support.js'

const machine = await restoreStreamed(workerData as string, { prefetch: false })
const tracker = await DirtyTracker.attach(machine)
await machine.resume()
machine.console.write(Buffer.from('pattern=random count=64 seed=7 rounds=1\n'))
await until(() => (machine.paging()?.waits ?? 0) > 0)
// Both are used still.
parentPort?.postMessage([machine.state, tracker.mode])
