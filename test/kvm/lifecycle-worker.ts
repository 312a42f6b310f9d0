// A worker that goes as far as it is told and then says so; the test terminates it there.
import { parentPort, workerData } from 'node:worker_threads'
import { EventFd, GuestMemory, Kvm } from '../../lib/kvm/index.js'
import { guest, spin } from './guest.js'

const kept: unknown[] = []
const steps: Record<string, () => Promise<unknown>> = {
  loaded: async () => undefined,
  opening: async () => void Kvm.open(),
  opened: () => Kvm.open(),
  allocated: () => GuestMemory.allocate('64KiB', { backing: 'memfd' }),
  window: async () => (await GuestMemory.allocate('64KiB')).window(0, 4096),
  vm: async () => (await Kvm.open()).createVm(),
  'creating a vCPU': async () => void (await (await Kvm.open()).createVm()).createVcpu(0),
  guest: () => guest(spin),
  running: async () => {
    const g = await guest(spin)
    void g.vcpu.run()
    // A run is in progress when the statistics of the VM answer behind it on other threads.
    await g.vm.checkExtension(0)
    return g
  },
  closing: async () => {
    const g = await guest(spin)
    void g.vcpu.run().catch(() => undefined)
    void g.vm.close()
    return g
  },
  'waiting for an event': async () => {
    const event = new EventFd()
    void event.wait()
    return event
  }
}

export const names = Object.keys(steps)

if (parentPort) {
  kept.push(await steps[(workerData as { step: string }).step]?.())
  parentPort.postMessage('there')
  setInterval(() => kept.length, 1e6)
}
