// What doctor tries, one function a question: each does the thing on a tiny guest and says what came of it.
import { nativeKvm } from './addon.js'
import { Capability, GuestDebug, ManualProtect, MemoryFlag, MsrExitReason, SyncRegs } from './constants.js'
import { dataAddress, imm32, probeGuest, type ProbeGuest } from './doctor-guest.js'
import { KvmError } from './errors.js'
import { EventFd } from './event.js'
import type { Exit } from './exit.js'
import type { Kvm } from './kvm.js'

/** What a probe found. @internal */
export interface Finding {
  works: boolean
  detail: string
}

/** @internal */
export interface Probe {
  id: string
  title: string
  /** Can leave KVM_RUN stuck for ever. */
  risky?: boolean
  run(kvm: Kvm): Promise<Finding>
}

const works = (detail = ''): Finding => ({ works: true, detail })
const fails = (detail: string): Finding => ({ works: false, detail })

function describe(exit: Exit): string {
  if (exit.reason === 'io') return `port ${exit.direction} 0x${exit.port.toString(16)}`
  if (exit.reason === 'mmio') return `MMIO ${exit.direction} 0x${exit.address.toString(16)}`
  if (exit.reason === 'internal-error') return `internal error ${exit.suberror}`
  return exit.reason
}

const outAl = (port: number): number[] => [0xe6, port]
const hlt = 0xf4
/** mov [address], al at 64 bits. */
const store = (address: number): number[] => [0x88, 0x04, 0x25, ...imm32(address)]

async function expectPort(g: ProbeGuest, port: number): Promise<Finding> {
  const exit = await g.vcpu.run()
  return exit.reason === 'io' && exit.port === port ? works() : fails(`the guest came out by ${describe(exit)}`)
}

function bits(bitmap: BigUint64Array): number[] {
  const set: number[] = []
  bitmap.forEach((word, i) => {
    for (let bit = 0; bit < 64; ++bit) if ((word >> BigInt(bit)) & 1n) set.push(64 * i + bit)
  })
  return set
}

const page = (address: number): number => address / 4096
/** Pages that the data-writing guests write, and what they should leave in a log. */
const written = [dataAddress + 0x1000, dataAddress + 0x3000, dataAddress + 0x8000]
const writtenPages = written.map(page)
const writer = [...written.flatMap(store), ...outAl(0x10)]

function exactly(found: readonly number[]): Finding {
  // Page tables and TSS may be marked: the processor writes accessed bits there.
  const data = found.filter(number => number >= page(dataAddress))
  if (data.join() !== writtenPages.join()) return fails(`wrote pages ${writtenPages.join()}, the log says ${data.join() || 'none'}`)
  return works(found.length > data.length ? `exact, and ${found.length - data.length} pages of page tables` : 'exact')
}

async function singleStep(kvm: Kvm, mode: 'cpl0' | 'cpl3'): Promise<Finding> {
  await using g = await probeGuest(kvm, [0x90, 0x90, ...outAl(0x10)], { mode })
  await g.vcpu.setGuestDebug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
  for (const pc of [0x1001n, 0x1002n]) {
    const exit = await g.vcpu.run()
    if (exit.reason !== 'debug' || exit.pc !== pc) return fails(`the guest came out by ${describe(exit)}`)
  }
  return works()
}

/** @internal */
export const probes: readonly Probe[] = [
  {
    id: 'real-mode',
    title: 'Guest in real mode',
    async run(kvm) {
      await using g = await probeGuest(kvm, [...outAl(0x10), hlt], { mode: 'real' })
      const found = await expectPort(g, 0x10)
      if (!found.works) return found
      const exit = await g.vcpu.run()
      return exit.reason === 'hlt' ? works() : fails(`HLT came out as ${describe(exit)}`)
    }
  },
  {
    id: 'cpl0',
    title: 'Guest in 64-bit mode, CPL 0',
    async run(kvm) {
      await using g = await probeGuest(kvm, [0x90, ...outAl(0x10)], { mode: 'cpl0' })
      return await expectPort(g, 0x10)
    }
  },
  {
    id: 'cpl3-port',
    title: 'Port I/O at CPL 3',
    async run(kvm) {
      await using g = await probeGuest(kvm, [0x90, ...outAl(0x10)], { mode: 'cpl3' })
      return await expectPort(g, 0x10)
    }
  },
  {
    id: 'port-rip',
    title: 'RIP at a port I/O exit',
    async run(kvm) {
      await using g = await probeGuest(kvm, [...outAl(0x10), hlt], { mode: 'cpl0' })
      const found = await expectPort(g, 0x10)
      if (!found.works) return found
      const before = (await g.vcpu.getRegs()).rip
      await g.vcpu.completeIo()
      const after = (await g.vcpu.getRegs()).rip
      if (after !== 0x1002n) return fails(`RIP is 0x${after.toString(16)} after the access was completed`)
      return works(before === 0x1002n ? 'past the instruction' : 'on the instruction until it is completed')
    }
  },
  {
    id: 'irq-window',
    title: 'Interrupt window, exact',
    async run(kvm) {
      // Open for one instruction only; and not before it either, when KVM has to map a page for it first.
      for (const shadowed of [[0x90], store(dataAddress + 0x1000)]) {
        await using g = await probeGuest(kvm, [0xfb, ...shadowed, 0xfa, hlt], { mode: 'cpl0' })
        await g.vcpu.requestInterruptWindow(true)
        const exit = await g.vcpu.run()
        if (exit.reason !== 'irq-window-open') return fails('noticed late or not at all: KVM emulates instructions in batches')
        const { rip } = await g.vcpu.getRegs()
        if (rip === 0x1001n) return fails('opened right behind STI: the interrupt shadow is lost when KVM interrupts the guest there')
        if (rip !== 0x1001n + BigInt(shadowed.length))
          return fails(`opened at 0x${rip.toString(16)}, not where the guest could first be interrupted`)
      }
      return works()
    }
  },
  {
    id: 'mmio',
    title: 'MMIO',
    async run(kvm) {
      // mov al, [0x30000000]; out 0x10, al
      await using g = await probeGuest(kvm, [0x8a, 0x04, 0x25, ...imm32(0x30000000), ...outAl(0x10)], { mode: 'cpl0' })
      const exit = await g.vcpu.run()
      if (exit.reason !== 'mmio' || exit.address !== 0x30000000n) return fails(`the guest came out by ${describe(exit)}`)
      await exit.respond(0x5a)
      const after = await g.vcpu.run()
      return after.reason === 'io' && after.data[0] === 0x5a ? works() : fails('the answer did not reach the guest')
    }
  },
  {
    id: 'sync-regs',
    title: 'Registers in the run page',
    async run(kvm) {
      await using g = await probeGuest(kvm, [...outAl(0x10), hlt], { mode: 'cpl0' })
      if (!((await g.vm.checkExtension(Capability.SYNC_REGS)) & SyncRegs.REGS)) return fails('not offered')
      await g.vcpu.setSyncRegs(SyncRegs.REGS)
      const found = await expectPort(g, 0x10)
      if (!found.works) return found
      const [synced, asked] = [await g.vcpu.syncedRegs(), await g.vcpu.getRegs()]
      return synced.rip === asked.rip && synced.rsp === asked.rsp ? works() : fails('they differ from KVM_GET_REGS')
    }
  },
  {
    id: 'dirty-bitmap',
    title: 'Dirty log, bitmap',
    async run(kvm) {
      await using g = await probeGuest(kvm, writer, { mode: 'cpl0', flags: MemoryFlag.LOG_DIRTY_PAGES })
      await g.vm.getDirtyLog(0)
      const found = await expectPort(g, 0x10)
      return found.works ? exactly(bits(await g.vm.getDirtyLog(0))) : found
    }
  },
  {
    id: 'dirty-manual',
    title: 'Dirty log, manual clear',
    async run(kvm) {
      await using g = await probeGuest(kvm, [...writer, ...writer], {
        mode: 'cpl0',
        flags: MemoryFlag.LOG_DIRTY_PAGES,
        prepareVm: vm =>
          vm.enableCap(
            Capability.MANUAL_DIRTY_LOG_PROTECT2,
            BigInt(ManualProtect.ENABLE | ManualProtect.INITIALLY_SET)
          )
      })
      const first = await g.vm.getDirtyLog(0)
      if (bits(first).length !== 64) return fails('the log is not all set at the start')
      await g.vm.clearDirtyLog(0, 0n, 64, first)
      const ran = await expectPort(g, 0x10)
      if (!ran.works) return ran
      const log = await g.vm.getDirtyLog(0)
      const found = exactly(bits(log))
      if (!found.works) return found
      // One page only is cleared: the others must stay.
      await g.vm.clearDirtyLog(0, 0n, 64, BigUint64Array.of(1n << BigInt(writtenPages[1] ?? 0)))
      const rest = bits(await g.vm.getDirtyLog(0)).filter(number => number >= page(dataAddress))
      if (rest.join() !== [writtenPages[0], writtenPages[2]].join()) return fails('clearing one page changed others')
      return works('partial clear, initially all set')
    }
  },
  {
    id: 'dirty-ring',
    title: 'Dirty ring, CPL 3',
    risky: true,
    async run(kvm) {
      return ring(kvm, 'cpl3')
    }
  },
  {
    id: 'dirty-ring-cpl0',
    title: 'Dirty ring, CPL 0, full',
    risky: true,
    async run(kvm) {
      return ring(kvm, 'cpl0')
    }
  },
  { id: 'step-cpl0', title: 'Single-step, CPL 0', run: kvm => singleStep(kvm, 'cpl0') },
  { id: 'step-cpl3', title: 'Single-step, CPL 3', run: kvm => singleStep(kvm, 'cpl3') },
  {
    id: 'hw-breakpoint',
    title: 'Hardware breakpoint',
    async run(kvm) {
      for (const mode of ['cpl0', 'cpl3'] as const) {
        await using g = await probeGuest(kvm, [0x90, 0x90, ...outAl(0x10)], { mode })
        const debugreg = [0x1001n, 0n, 0n, 0n, 0n, 0n, 0n, 0x402n]
        await g.vcpu.setGuestDebug(GuestDebug.ENABLE | GuestDebug.USE_HW_BP, debugreg)
        const exit = await g.vcpu.run()
        if (exit.reason !== 'debug' || exit.pc !== 0x1001n)
          return fails(mode === 'cpl0' ? 'never hit' : 'hit at CPL 0 only')
      }
      return works()
    }
  },
  {
    id: 'irqchip',
    title: 'Interrupt controllers, PIT, 4 vCPUs',
    async run(kvm) {
      await using vm = await kvm.createVm()
      await vm.createIrqchip()
      await vm.createPit2()
      for (let id = 0; id < 4; ++id) await vm.createVcpu(id)
      await vm.setPit2(await vm.getPit2())
      await vm.irqLine(4, true)
      await vm.irqLine(4, false)
      return works()
    }
  },
  {
    id: 'eventfd',
    title: 'irqfd and ioeventfd',
    async run(kvm) {
      await using event = new EventFd()
      await using g = await probeGuest(kvm, [...outAl(0xe0), ...outAl(0xe1)], {
        mode: 'cpl0',
        prepareVm: vm => vm.createIrqchip()
      })
      await g.vm.assignIrqfd(event, 5)
      event.signal()
      await g.vm.deassignIrqfd(event, 5)
      event.take()
      await g.vm.assignIoeventfd({ event, address: 0xe0n, length: 1, space: 'port' })
      const found = await expectPort(g, 0xe1)
      if (!found.works) return found
      return event.take() === 1n ? works() : fails('the write did not signal the event')
    }
  },
  {
    id: 'msr-filter',
    title: 'MSR accesses to user space',
    async run(kvm) {
      // mov ecx, 0x4b564d00; rdmsr; out 0x10, al
      await using g = await probeGuest(kvm, [0xb9, ...imm32(0x4b564d00), 0x0f, 0x32, ...outAl(0x10)], { mode: 'cpl0' })
      await g.vm.enableCap(Capability.X86_USER_SPACE_MSR, BigInt(MsrExitReason.FILTER))
      await g.vm.setMsrFilter('allow', [{ flags: 3, base: 0x4b564d00, count: 1, bitmap: Uint8Array.of(0) }])
      const exit = await g.vcpu.run()
      if (exit.reason !== 'x86-rdmsr') return fails(`the guest came out by ${describe(exit)}`)
      await exit.respond(0x42n)
      const after = await g.vcpu.run()
      return after.reason === 'io' && after.data[0] === 0x42 ? works() : fails('the answer did not reach the guest')
    }
  },
  {
    id: 'rdtsc-trap',
    title: 'RDTSC at CPL 3 refused by CR4.TSD',
    async run(kvm) {
      await using g = await probeGuest(kvm, [0x0f, 0x31, ...outAl(0x10)], { mode: 'cpl3', cr4: 4n })
      const exit = await g.vcpu.run()
      // No IDT: the guest's #GP becomes a triple fault.
      if (exit.reason === 'shutdown') return works()
      return fails(exit.reason === 'io' ? 'RDTSC executes all the same' : `the guest came out by ${describe(exit)}`)
    }
  },
  {
    id: 'cpuid-mask',
    title: 'CPUID masks',
    async run(kvm) {
      const table = await kvm.supportedCpuid()
      // Leaf 1 without RDRAND, ECX bit 30, and TSC, EDX bit 4.
      const masked = table.map(leaf =>
        leaf.function === 1 ? { ...leaf, ecx: (leaf.ecx & ~(1 << 30)) >>> 0, edx: (leaf.edx & ~(1 << 4)) >>> 0 } : leaf
      )
      // mov eax, 1; cpuid; mov eax, ecx; out 0x10, eax; mov eax, edx; out 0x10, eax
      const code = [0xb8, ...imm32(1), 0x0f, 0xa2, 0x89, 0xc8, 0xe7, 0x10, 0x89, 0xd0, 0xe7, 0x10]
      await using g = await probeGuest(kvm, code, { mode: 'cpl3', prepareVcpu: vcpu => vcpu.setCpuid2(masked) })
      const values: number[] = []
      for (let i = 0; i < 2; ++i) {
        const exit = await g.vcpu.run()
        if (exit.reason !== 'io') return fails(`the guest came out by ${describe(exit)}`)
        values.push(new DataView(exit.data.buffer, exit.data.byteOffset).getUint32(0, true))
      }
      const back = [((values[0] ?? 0) >>> 30) & 1 && 'RDRAND', ((values[1] ?? 0) >>> 4) & 1 && 'TSC'].filter(Boolean)
      return back.length === 0 ? works() : fails(`masked, the guest sees it all the same: ${back.join(', ')}`)
    }
  },
  {
    id: 'userfaultfd',
    title: 'userfaultfd',
    run() {
      try {
        const features = nativeKvm.userfaultfdFeatures()
        const named = [
          (features & 1n) !== 0n && 'write-protect',
          (features & (1n << 5n)) !== 0n && 'shared memory',
          (features & (1n << 12n)) !== 0n && 'write-protect on shared memory'
        ].filter(Boolean)
        return Promise.resolve(works(`missing${named.map(name => `, ${name as string}`).join('')}`))
      } catch (error) {
        return Promise.resolve(fails((error as Error).message))
      }
    }
  }
]

/** Writes more pages than the ring holds, harvesting at each full exit, and compares. */
async function ring(kvm: Kvm, mode: 'cpl0' | 'cpl3'): Promise<Finding> {
  const entries = 1024
  const first = 0x200000
  const pages = 3000
  const code =
    mode === 'cpl3'
      ? // mov ebx, first; mov ecx, pages; again: mov [rbx], al; add ebx, 4096; dec ecx; jnz again
        [0xbb, ...imm32(first), 0xb9, ...imm32(pages), 0x88, 0x03, 0x81, 0xc3, ...imm32(4096), 0xff, 0xc9, 0x75, 0xf4]
      : // mov edi, first; mov ecx, pages * 512; rep stosq: one instruction that emulating hosts do not interrupt
        [0xbf, ...imm32(first), 0xb9, ...imm32(pages * 512), 0xf3, 0x48, 0xab]
  code.push(...outAl(0x10))
  await using g = await probeGuest(kvm, code, {
    mode,
    size: '16MiB',
    flags: MemoryFlag.LOG_DIRTY_PAGES,
    async prepareVm(vm) {
      const capability = (await vm.checkExtension(Capability.DIRTY_LOG_RING_ACQ_REL))
        ? Capability.DIRTY_LOG_RING_ACQ_REL
        : Capability.DIRTY_LOG_RING
      await vm.enableCap(capability, BigInt(entries * 16))
    }
  })
  const seen = new Set<bigint>()
  let full = 0
  const harvest = async (): Promise<void> => {
    for (const dirty of await g.vcpu.harvestDirtyRing()) if (dirty.slot === 0) seen.add(dirty.offset)
    await g.vm.resetDirtyRings()
  }
  for (;;) {
    const exit = await g.vcpu.run()
    await harvest()
    if (exit.reason === 'dirty-ring-full') ++full
    else if (exit.reason === 'io') break
    else return fails(`the guest came out by ${describe(exit)}`)
  }
  const missed = Array.from({ length: pages }, (_, i) => BigInt(first / 4096 + i)).filter(at => !seen.has(at))
  if (missed.length > 0) return fails(`${missed.length} of ${pages} pages are missing`)
  return full > 0 ? works(`exact over ${full} full exits`) : fails('it never reported to be full')
}

/** Runs one probe; what it throws is its finding. @internal */
export async function runProbe(kvm: Kvm, probe: Probe): Promise<Finding> {
  try {
    return await probe.run(kvm)
  } catch (error) {
    if (error instanceof KvmError) return fails(error.message)
    throw error
  }
}
