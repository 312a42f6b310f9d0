// Wrong use is a KvmError with a code and a sentence, never a crash.
import t from 'tap'
import { EventFd, GuestMemory, Kvm, type MemoryRegion } from '../../lib/kvm/index.js'
import { failure, guest, noKvm } from './guest.js'

const opts = { skip: noKvm }

t.test('opening what is not KVM', async t => {
  t.match(await failure(() => Kvm.open('/nonexistent')), { code: 'ENOENT', call: 'open', message: /kvm_intel/ })
  t.match(await failure(() => Kvm.open('/dev/null')), { code: 'ENOTTY', ioctl: 'KVM_GET_API_VERSION', errno: 25 })
})

t.test('memory regions', opts, async t => {
  await using g = await guest([0xf4])
  await using memory = await GuestMemory.allocate('16KiB')
  const refused = async (region: Partial<MemoryRegion>, code: string, message: RegExp) => {
    const wanted = { slot: 1, guestAddress: 0x100000n, memory, ...region }
    t.match(await failure(() => g.vm.setUserMemoryRegion(wanted)), { code, message })
  }
  await refused({ guestAddress: 0x8000n }, 'EOVERLAP', /overlaps slot 0/)
  await refused({ guestAddress: 0x100010n }, 'EALIGN', /multiples of 4096/)
  await refused({ size: 100 }, 'EALIGN', /multiples of 4096/)
  await refused({ size: '20KiB' }, 'ERANGE', /beyond the guest memory/)
  await refused({ offset: '16KiB' }, 'ERANGE', /0 bytes/)
  await refused({ guestAddress: 0xffff_ffff_ffff_f000n }, 'ERANGE', /wrap/)
  await refused({ slot: 0xffff }, 'EBADSLOT', /out of range/)
  await refused({ slot: 0 }, 'EBADSLOT', /delete it first/)
  await refused({ slot: 1.5 }, 'EINVAL', /integer/)
  await refused({ size: 'a lot' }, 'EINVAL', /no size/)
  await refused({ memory: {} as GuestMemory }, 'EINVAL', /GuestMemory/)
  t.equal((await failure(() => g.vm.deleteUserMemoryRegion(3))).code, 'EBADSLOT')
  await memory.close()
  await refused({}, 'CLOSED', /closed/)
})

t.test('guest memory', async t => {
  t.equal((await failure(() => GuestMemory.allocate(100))).code, 'EALIGN')
  t.equal((await failure(() => GuestMemory.allocate(0))).code, 'ERANGE')
  t.equal((await failure(() => GuestMemory.allocate(-1))).code, 'EINVAL')
  t.equal((await failure(() => GuestMemory.allocate(1n << 62n))).code, 'ENOMEM')
  t.equal((await failure(() => GuestMemory.fromFd(99999, '4KiB'))).code, 'EBADF')
  await using memory = await GuestMemory.allocate('8KiB', { backing: 'memfd', name: 'test' })
  t.equal((await failure(() => memory.read(8190, 3))).code, 'ERANGE')
  t.equal((await failure(() => memory.read(0, 1e15))).code, 'ERANGE')
  t.equal((await failure(() => memory.write(1n << 63n, new Uint8Array(1)))).code, 'ERANGE')
  t.equal((await failure(() => memory.window(0, 8193))).code, 'ERANGE')
  t.equal((await failure(() => memory.write(-1, new Uint8Array(1)))).code, 'EINVAL')
  await using same = await GuestMemory.fromFd(memory.fd, '4KiB', { offset: 4096 })
  same.write(0, Uint8Array.of(1, 2, 3))
  t.strictSame(memory.read(4096n, 3), Uint8Array.of(1, 2, 3))
  const window = memory.window(4096, 3)
  window[1] = 9
  t.strictSame(same.read(0, 3), Uint8Array.of(1, 9, 3))
  await memory.close()
  t.equal(window[1], 9, 'a window outlives close()')
  t.equal((await failure(() => memory.read(0, 1))).code, 'CLOSED')
})

t.test('vCPUs and VMs', opts, async t => {
  const g = await guest([0xf4])
  t.match(await failure(() => g.vm.createVcpu(0)), { code: 'EEXIST', ioctl: 'KVM_CREATE_VCPU' })
  t.equal((await failure(() => g.vm.createVcpu(0xffffffff))).code, 'EINVAL')
  t.equal((await failure(() => g.vm.createVcpu(-1))).code, 'EINVAL')
  t.equal((await failure(() => g.vm.getIrqchip(0))).code, 'ENXIO')
  t.equal((await failure(() => g.vm.getDirtyLog(0))).code, 'ENOENT')
  t.equal((await failure(() => g.vm.getDirtyLog(4))).code, 'EBADSLOT')
  t.equal((await failure(() => g.vm.clearDirtyLog(0, 3n, 64, new BigUint64Array(1)))).code, 'EALIGN')
  t.equal((await failure(() => g.vm.createDevice(4711))).code, 'ENODEV')
  t.equal((await failure(() => g.vm.enableCap(99999))).code, 'EINVAL')
  t.equal((await failure(() => g.vcpu.harvestDirtyRing())).code, 'ENORING')
  t.equal((await failure(() => g.vcpu.setXsave(new Uint8Array(7)))).code, 'ERANGE')
  t.equal((await failure(() => g.vcpu.setLapic(new Uint8Array(7)))).code, 'EINVAL')
  t.equal((await failure(() => g.vcpu.readRunPage(1e6, 4))).code, 'ERANGE')
  t.equal((await failure(() => g.vcpu.interrupt(256))).code, 'EINVAL')
  t.equal((await failure(() => g.vcpu.refuseMsr())).code, 'ENOINPUT')

  await g.vcpu.close()
  await g.vcpu.close()
  t.equal((await failure(() => g.vcpu.run())).code, 'CLOSED')
  t.equal((await failure(() => g.vcpu.getRegs())).code, 'CLOSED')
  t.equal((await failure(() => g.vcpu.kick())).code, 'CLOSED')
  await g.vm.close()
  await g.vm.close()
  t.equal((await failure(() => g.vm.createVcpu(1))).code, 'CLOSED')
  t.equal((await failure(() => g.vm.addExitHandler({ space: 'port', address: 1, action: 'sink' }))).code, 'CLOSED')
  const event = new EventFd()
  await event.close()
  t.equal((await failure(() => event.signal())).code, 'CLOSED')
  await g.memory.close()
})

t.test('an eventfd’s wait ends when it is closed or aborted', async t => {
  const event = new EventFd()
  const controller = new AbortController()
  const aborted = event.wait({ signal: controller.signal })
  controller.abort()
  await t.rejects(aborted, { name: 'AbortError' })
  event.signal(3n)
  t.equal(await event.wait(), 3n)
  const [first, other] = [event.wait(), new AbortController()]
  const second = event.wait({ signal: other.signal })
  const third = event.wait()
  other.abort()
  await t.rejects(second, { name: 'AbortError' }, 'the one that was aborted, and no other')
  event.signal(1n)
  t.equal(await first, 1n)
  event.signal(2n)
  t.equal(await third, 2n, 'in their order')
  t.equal(event.take(), 0n)
  const waits = [event.wait(), event.wait()].map(wait => failure(() => wait))
  await event.close()
  for (const wait of waits) t.equal((await wait).code, 'CLOSED')
})
