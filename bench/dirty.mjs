// Dirty tracking: the native harvests and scans (build/bench/dirty_bench, or the path given as argument), and what
// the way through a promise adds. Prints one JSON object a line: {name, value, unit, baseline, ratio}.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { DirtyTracker } from 'hypertwin/dirty'
import { GuestMemory, Kvm } from 'hypertwin/kvm'

const [binary = path.join(import.meta.dirname, '..', 'build', 'bench', 'dirty_bench'), ...rest] = process.argv.slice(2)
if (existsSync(binary)) {
  const { status } = spawnSync(binary, rest, { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
} else console.error(`skipped: there is no ${binary}: configure with -DBUILD_BENCH=ON`)

const median = values => values.sort((a, b) => a - b)[values.length >> 1]

const kvm = await Kvm.open()
const vm = await kvm.createVm()
const memory = await GuestMemory.allocate('64MiB')
await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory })
const tracker = await DirtyTracker.attach(vm, { mode: 'bitmap' })
const harvests = []
const promises = []
for (let i = 0; i < 400; i++) {
  const start = performance.now()
  await tracker.harvest()
  const between = performance.now()
  // Another call that goes to a native thread and back.
  await vm.getDirtyLog(0)
  harvests.push((between - start) * 1000)
  promises.push((performance.now() - between) * 1000)
}
const value = median(harvests)
const baseline = median(promises)
console.log(
  JSON.stringify({ name: 'dirty/js/harvest-vs-getDirtyLog/64MiB', value, unit: 'us', baseline, ratio: value / baseline })
)
await tracker.close()
await vm.close()
await kvm.close()
