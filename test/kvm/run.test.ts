// Guests that run: exits, answers, native handlers, kicks, state, dirty pages, interrupts.
import t from 'tap'
import { Capability, EventFd, ExitReason, GuestDebug, MemoryFlag, MsrExitReason } from '../../lib/kvm/index.js'
import { failure, guest, noKvm, spin } from './guest.js'

const opts = { skip: noKvm }

t.test('port I/O out and in, then HLT', opts, async t => {
  // mov al, 42; out 0x10, al; in al, 0x11; hlt
  await using g = await guest([0xb0, 0x2a, 0xe6, 0x10, 0xe4, 0x11, 0xf4])
  t.match(await g.vcpu.run(), { reason: 'io', direction: 'out', port: 0x10, size: 1, count: 1, data: Uint8Array.of(42) })
  const input = await g.vcpu.run()
  t.match(input, { reason: 'io', direction: 'in', port: 0x11 })
  if (input.reason !== 'io') return
  t.equal((await failure(() => input.respond(Uint8Array.of(1, 2)))).code, 'ERANGE')
  for (const wrong of [256, -1, 0.5, NaN]) t.equal((await failure(() => input.respond(wrong))).code, 'ERANGE')
  await input.respond(7)
  t.equal(await g.vcpu.completeIo(), true)
  const regs = await g.vcpu.getRegs()
  t.equal(regs.rax & 0xffn, 7n)
  t.equal(regs.rip, 0x1006n)
  t.match(await g.vcpu.run(), { reason: 'hlt' })
  t.equal((await failure(() => g.vcpu.respond(Uint8Array.of(1)))).code, 'ENOINPUT')
})

t.test('MMIO read and write', opts, async t => {
  // mov ax, 0xe000; mov ds, ax; mov al, [0x10]; mov [0x20], al; hlt
  await using g = await guest([0xb8, 0x00, 0xe0, 0x8e, 0xd8, 0xa0, 0x10, 0x00, 0xa2, 0x20, 0x00, 0xf4])
  const read = await g.vcpu.run()
  t.match(read, { reason: 'mmio', direction: 'read', address: 0xe0010n, size: 1 })
  if (read.reason !== 'mmio') return
  await read.respond(0x5a)
  t.match(await g.vcpu.run(), { reason: 'mmio', direction: 'write', address: 0xe0020n, data: Uint8Array.of(0x5a) })
  t.match(await g.vcpu.run(), { reason: 'hlt' })
})

t.test('native handlers answer, and only what they cannot comes to JavaScript', opts, async t => {
  // in al, 0x20 (constant); out 0x21, al (ram); in al, 0x21; out 0x22, al (counter); hlt; out 0x30, al
  await using g = await guest([0xe4, 0x20, 0xe6, 0x21, 0xe4, 0x21, 0xe6, 0x22, 0xf4, 0xe6, 0x30])
  g.vm.addExitHandler({ space: 'port', address: 0x20, action: 'constant', value: 0x77n })
  const ram = g.vm.addExitHandler({ space: 'port', address: 0x21, action: 'ram' })
  const counter = g.vm.addExitHandler({ space: 'port', address: 0x22, action: 'counter' })
  t.equal(
    (await failure(() => g.vm.addExitHandler({ space: 'port', address: 0x20, length: 2, action: 'sink' }))).code,
    'EOVERLAP'
  )
  t.equal((await failure(() => g.vm.addExitHandler({ space: 'port', address: 0xffff, length: 2, action: 'sink' }))).code, 'ERANGE')
  await g.vcpu.setHltPolicy('resume')
  t.match(await g.vcpu.run(), { reason: 'io', direction: 'out', port: 0x30, data: Uint8Array.of(0x77) })
  t.strictSame(ram.read(0, 1), Uint8Array.of(0x77))
  for (const length of [-1, NaN, 0.5]) t.equal((await failure(() => ram.read(0, length))).code, 'EINVAL')
  for (const length of [2, 1e15]) t.equal((await failure(() => ram.read(0, length))).code, 'ERANGE')
  t.equal(counter.hits, 1n)
  t.equal(g.vcpu.handledExits, 5n)
  g.vm.removeExitHandler(ram)
  await g.vcpu.setRegs({ ...(await g.vcpu.getRegs()), rip: 0x1002n })
  t.match(await g.vcpu.run(), { reason: 'io', port: 0x21 })
})

t.test('handlers stay as they are while a vCPU that is being closed still runs', opts, async t => {
  await using g = await guest([0xe6, 0x10, 0xeb, 0xfc]) // out 0x10, al; jmp back
  const sink = g.vm.addExitHandler({ space: 'port', address: 0x10, action: 'sink' })
  const run = failure(() => g.vcpu.run())
  const closed = g.vcpu.close()
  const running = { name: 'KvmError', code: 'VCPU_RUNNING' }
  t.throws(() => g.vm.addExitHandler({ space: 'port', address: 0, action: 'sink' }), running)
  t.throws(() => g.vm.removeExitHandler(sink), running)
  t.equal((await run).code, 'CLOSED')
  await closed
  g.vm.removeExitHandler(sink)
})

t.test('exits() ends when its vCPU or its VM is closed', opts, async t => {
  for (const what of ['vcpu', 'vm'] as const) {
    await using g = await guest(spin)
    const next = g.vcpu.exits().next()
    await g[what].close()
    t.strictSame(await next, { done: true, value: undefined }, what)
  }
})

t.test('exits() yields until the kick', opts, async t => {
  await using g = await guest([0xe6, 0x10, 0xeb, 0xfc]) // out 0x10, al; jmp back
  let seen = 0
  for await (const exit of g.vcpu.exits()) {
    t.equal(exit.reason, 'io')
    if (++seen === 5) g.vcpu.kick()
  }
  t.equal(seen, 5)
})

t.test('a kick ends a run, also one that comes first; the state is out of reach meanwhile', opts, async t => {
  await using g = await guest(spin)
  g.vcpu.kick()
  t.strictSame(await g.vcpu.run(), { reason: 'interrupted' })
  const run = g.vcpu.run()
  t.equal(g.vcpu.running, true)
  t.equal((await failure(() => g.vcpu.getRegs())).code, 'VCPU_RUNNING')
  t.match((await failure(() => g.vcpu.run())).message, /kick\(\)/)
  t.equal((await failure(() => g.vm.addExitHandler({ space: 'port', address: 1, action: 'sink' }))).code, 'VCPU_RUNNING')
  g.vcpu.kick()
  t.strictSame(await run, { reason: 'interrupted' })
  t.equal((await g.vcpu.getRegs()).rip, 0x1000n)
})

t.test('an AbortSignal kicks', opts, async t => {
  await using g = await guest(spin)
  const controller = new AbortController()
  const run = g.vcpu.run({ signal: controller.signal })
  controller.abort(new Error('enough'))
  await t.rejects(run, { message: 'enough' })
  await t.rejects(g.vcpu.run({ signal: controller.signal }), { message: 'enough' })
  const again = g.vcpu.run()
  g.vcpu.kick()
  t.strictSame(await again, { reason: 'interrupted' })
})

t.test('state goes out and in', opts, async t => {
  await using g = await guest([0xf4])
  const { vcpu } = g
  const regs = { ...(await vcpu.getRegs()), r15: 0xfedcba9876543210n }
  await vcpu.setRegs(regs)
  t.strictSame(await vcpu.getRegs(), regs)
  const sregs = await vcpu.getSregs()
  await vcpu.setSregs(sregs)
  t.strictSame(await vcpu.getSregs(), sregs)
  const fpu = { ...(await vcpu.getFpu()), fcw: 0x27f }
  await vcpu.setFpu(fpu)
  t.equal((await vcpu.getFpu()).fcw, 0x27f)
  const xsave = await vcpu.getXsave()
  t.ok(xsave.length >= 4096)
  await vcpu.setXsave(xsave)
  await vcpu.setXcrs(await vcpu.getXcrs())
  await vcpu.setVcpuEvents(await vcpu.getVcpuEvents())
  await vcpu.setDebugregs(await vcpu.getDebugregs())
  await vcpu.setMpState(await vcpu.getMpState())
  const [efer] = await vcpu.getMsrs([0xc0000080])
  t.equal(efer?.index, 0xc0000080)
  await vcpu.setMsrs([{ index: 0xc0000080, data: efer?.data ?? 0n }])
  t.match(await vcpu.translate(0x1234n), { physicalAddress: 0x1234n, valid: 1 })
  t.equal((await failure(() => vcpu.setRegs({ ...regs, rax: -1n }))).code, 'EINVAL')
  t.match((await failure(() => vcpu.getMsrs([0xc0000080, 0x12345678]))).message, /0x12345678/)
})

t.test('dirty log: exact, and cleared by reading', opts, async t => {
  // mov [0x3000], al; mov [0x5000], al; hlt
  await using g = await guest([0xa2, 0x00, 0x30, 0xa2, 0x00, 0x50, 0xf4], undefined, MemoryFlag.LOG_DIRTY_PAGES)
  await g.vm.getDirtyLog(0)
  t.match(await g.vcpu.run(), { reason: 'hlt' })
  const [written = 0n] = await g.vm.getDirtyLog(0)
  // A page that KVM maps for the first time may count as written: the code's.
  t.equal(written & ~(1n << 1n), (1n << 3n) | (1n << 5n))
  t.strictSame([...(await g.vm.getDirtyLog(0))], [0n])
})

t.test('irqchip, PIT, routing, irqfd, ioeventfd', opts, async t => {
  // out 0xe0, al (ioeventfd); out 0xe1, al
  await using g = await guest([0xb0, 0x03, 0xe6, 0xe0, 0xe6, 0xe1], async vm => {
    await vm.createIrqchip()
    await vm.createPit2()
  })
  const { vm, vcpu } = g
  await vm.setPit2(await vm.getPit2())
  await vm.setIrqchip(await vm.getIrqchip(2))
  await vcpu.setLapic(await vcpu.getLapic())
  await vm.setGsiRouting([
    { type: 'irqchip', gsi: 5, irqchip: 2, pin: 5 },
    { type: 'msi', gsi: 30, address: 0xfee00000n, data: 0x41 }
  ])
  await vm.setClock({ ...(await vm.getClock()), flags: 0 })
  await using interrupt = new EventFd()
  await vm.assignIrqfd(interrupt, 5)
  t.equal((await failure(() => vm.assignIrqfd(interrupt, 5))).errno, 16)
  interrupt.signal()
  await vm.deassignIrqfd(interrupt, 5)
  t.equal((await failure(() => vm.createIrqchip())).code, 'EEXIST')
  t.ok((await vm.irqLineStatus(5, true)) <= 0, 'masked or not delivered')

  await using doorbell = new EventFd()
  const io = { event: doorbell, address: 0xe0n, space: 'port', length: 1, datamatch: 3n } as const
  await vm.assignIoeventfd(io)
  t.equal((await failure(() => vm.assignIoeventfd(io))).code, 'EEXIST')
  const rung = doorbell.wait()
  t.match(await vcpu.run(), { reason: 'io', port: 0xe1 })
  t.equal(await rung, 1n)
  await vm.deassignIoeventfd(io)
})

t.test('statistics', opts, async t => {
  await using g = await guest([0xf4])
  if (!(await g.vm.checkExtension(Capability.BINARY_STATS_FD))) {
    t.pass('offered by this host', { skip: 'this host has no BINARY_STATS_FD' })
    return
  }
  await g.vcpu.run()
  const stats = await g.vcpu.stats()
  t.match(stats.id, /^kvm-/)
  t.ok((stats.values.get('exits')?.values[0] ?? 0n) > 0n)
  t.ok((await g.vm.stats()).values.size > 0)
})

t.test('MSR filter: denied accesses come to user space', opts, async t => {
  // mov ecx, 0x4b564d00; rdmsr; out 0x10, al; wrmsr; hlt
  const code = [0x66, 0xb9, 0x00, 0x4d, 0x56, 0x4b, 0x0f, 0x32, 0xe6, 0x10, 0x0f, 0x30, 0xf4]
  await using g = await guest(code)
  if (!(await g.vm.checkExtension(Capability.X86_MSR_FILTER))) {
    t.pass('offered by this host', { skip: 'this host has no X86_MSR_FILTER' })
    return
  }
  await g.vm.enableCap(Capability.X86_USER_SPACE_MSR, BigInt(MsrExitReason.FILTER))
  await g.vm.setMsrFilter('allow', [{ flags: 3, base: 0x4b564d00, count: 1, bitmap: Uint8Array.of(0) }])
  const read = await g.vcpu.run()
  t.match(read, { reason: 'x86-rdmsr', index: 0x4b564d00, why: MsrExitReason.FILTER })
  if (read.reason !== 'x86-rdmsr') return
  await read.respond(0x1122334455667788n)
  t.match(await g.vcpu.run(), { reason: 'io', data: Uint8Array.of(0x88) })
  const write = await g.vcpu.run()
  t.match(write, { reason: 'x86-wrmsr', data: 0x1122334455667788n })
  t.match(await g.vcpu.run(), { reason: 'hlt' })
  t.equal((await failure(() => g.vm.setMsrFilter('allow', [{ flags: 3, base: 0, count: 9, bitmap: Uint8Array.of(0) }]))).code, 'ERANGE')
})

t.test('single-stepping at CPL 0', opts, async t => {
  await using g = await guest([0x90, 0x90, 0xf4])
  await g.vcpu.setGuestDebug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
  t.match(await g.vcpu.run(), { reason: 'debug', pc: 0x1001n })
  t.match(await g.vcpu.run(), { reason: 'debug', pc: 0x1002n })
})

t.test('coalesced port writes', opts, async t => {
  await using g = await guest([0xb0, 0x01, 0xe6, 0x50, 0xb0, 0x02, 0xe6, 0x50, 0xf4])
  if (!(await g.vm.checkExtension(Capability.COALESCED_PIO))) {
    t.pass('offered by this host', { skip: 'this host has no COALESCED_PIO' })
    return
  }
  await g.vm.registerCoalesced('port', 0x50n, 1)
  t.match(await g.vcpu.run(), { reason: 'hlt' })
  t.match(await g.vcpu.drainCoalesced(), [
    { address: 0x50n, length: 1, pio: 1, data: Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0) },
    { address: 0x50n, length: 1, pio: 1, data: Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0) }
  ])
  t.strictSame(await g.vcpu.drainCoalesced(), [])
})

t.test('the system answers', opts, async t => {
  const { Kvm } = await import('../../lib/kvm/index.js')
  await using kvm = await Kvm.open()
  t.equal(await kvm.apiVersion(), 12)
  t.ok((await kvm.supportedCpuid()).some(entry => entry.function === 1))
  t.ok((await kvm.msrIndexList()).includes(0x174))
  t.ok((await kvm.vcpuMmapSize()) >= 4096)
  const [feature] = await kvm.msrFeatureIndexList()
  if (feature !== undefined) t.equal((await kvm.getMsrs([feature])).length, 1)
  t.equal(ExitReason.HLT, 5)
})
