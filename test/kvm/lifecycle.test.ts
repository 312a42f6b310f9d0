// Descriptors and threads are given back exactly once, however a handle ends: close(), garbage collection, a worker's
// end at any step.
import { readlinkSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { EventFd, Kvm } from '../../lib/kvm/index.js'
import { descriptors, failure, guest, noKvm, spin, threads } from './guest.js'
import { names } from './lifecycle-worker.js'

const opts = { skip: noKvm }
setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

t.test('1000 open and close cycles leave nothing behind', opts, async t => {
  await (await guest([0xf4]))[Symbol.asyncDispose]()
  const [before, threadsBefore] = [descriptors(), threads()]
  for (let i = 0; i < 1000; ++i) {
    await using g = await guest([0xf4])
    if (i % 10 === 0) t.match(await g.vcpu.run(), { reason: 'hlt' })
    if (i % 10 === 1) await g.vcpu.close()
    if (i % 10 === 2) void g.vm.close()
  }
  t.equal(descriptors(), before)
  t.equal(threads(), threadsBefore)
})

t.test('closing a VM kicks and joins a vCPU that runs', opts, async t => {
  const before = descriptors()
  const g = await guest(spin)
  const run = failure(() => g.vcpu.run())
  await g.vm.close()
  t.equal((await run).code, 'CLOSED')
  await g.memory.close()
  t.equal(descriptors(), before)
})

t.test('descriptors are what they say, and nobody’s after the end', opts, async t => {
  const kvm = await Kvm.open()
  const vm = await kvm.createVm()
  const vcpu = await vm.createVcpu(0)
  const name = (handle: { fd: number }): string => readlinkSync(`/proc/self/fd/${handle.fd}`)
  t.match([kvm, vm, vcpu].map(name), ['/dev/kvm', 'anon_inode:kvm-vm', /^anon_inode:kvm-vcpu:0/])
  await vm.close()
  await kvm.close()
  for (const handle of [kvm, vm, vcpu]) t.throws(() => handle.fd, { code: 'CLOSED' })
})

t.test('operations in flight settle when their handle is closed', opts, async t => {
  const g = await guest([0xf4])
  const calls = Array.from({ length: 50 }, () => g.vcpu.getRegs().then(() => 'done', (e: { code: string }) => e.code))
  await g.vcpu.close()
  for (const result of await Promise.all(calls)) t.ok(result === 'done' || result === 'CLOSED')
  await g[Symbol.asyncDispose]()
})

t.test('the garbage collector closes what was dropped', opts, async t => {
  const [before, threadsBefore] = [descriptors(), threads()]
  for (let i = 0; i < 20; ++i) {
    await guest([0xf4])
    new EventFd()
  }
  t.ok(descriptors() > before)
  // Finalizers run in later turns, descriptors are closed on a native thread: until both are back, or the test's timeout.
  while (descriptors() > before || threads() > threadsBefore) {
    gc()
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(descriptors(), before)
})

t.test('a worker that ends at any step gives everything back', opts, async t => {
  const file = new URL(import.meta.url.endsWith('.ts') ? './lifecycle-worker.ts' : './lifecycle-worker.js', import.meta.url)
  const terminate = async (step: string): Promise<void> => {
    const worker = new Worker(file, { workerData: { step } })
    const [message] = (await once(worker, 'message')) as [string]
    t.equal(message, 'there', step)
    await worker.terminate()
  }
  await terminate('loaded')
  const [before, threadsBefore] = [descriptors(), threads()]
  for (const step of names) await terminate(step)
  t.equal(descriptors(), before)
  t.equal(threads(), threadsBefore)
})
