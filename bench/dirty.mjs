// What the way through a promise adds to a harvest: against another call that goes to a native thread and back.
import { DirtyTracker } from '../dist/dirty/index.js'
import { GuestMemory, Kvm } from '../dist/kvm/index.js'
import { Pairs } from './figures.mjs'

const kvm = await Kvm.open()
const vm = await kvm.createVm()
const memory = await GuestMemory.allocate('64MiB')
await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory })
const tracker = await DirtyTracker.attach(vm, { mode: 'bitmap' })
const pairs = new Pairs()
for (let i = 0; i < 400; i++) {
  const start = performance.now()
  await tracker.harvest()
  const between = performance.now()
  await vm.getDirtyLog(0)
  pairs.add((between - start) * 1000, (performance.now() - between) * 1000)
}
pairs.print('dirty/js/harvest-vs-getDirtyLog/64MiB', 'us')
await tracker.close()
await vm.close()
await kvm.close()
