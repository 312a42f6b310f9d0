// The guests that doctor's probes run: real mode, or 64-bit at CPL 0 or 3, from bytes.
import { GuestMemory } from './memory.js'
import type { Kvm } from './kvm.js'
import type { Segment } from './structs.js'
import type { Vcpu } from './vcpu.js'
import type { Vm } from './vm.js'

/** @internal */
export interface ProbeGuest extends AsyncDisposable {
  vm: Vm
  vcpu: Vcpu
  memory: GuestMemory
}

/** @internal */
export interface ProbeGuestOptions {
  mode: 'real' | 'cpl0' | 'cpl3'
  size?: string
  flags?: number
  prepareVm?: (vm: Vm) => Promise<void>
  prepareVcpu?: (vcpu: Vcpu) => Promise<void>
  /** More bits of CR4. */
  cr4?: bigint
}

// Guest-physical addresses. Up to dataAddress the guest is ours; what lies above the guest may write.
const codeAddress = 0x1000
const [pml4, pdpt, pd, tss] = [0x10000, 0x11000, 0x12000, 0x14000]
/** @internal */
export const dataAddress = 0x20000

function segment(selector: number, type: number, dpl: number, code: boolean): Segment {
  return {
    base: 0n,
    limit: 0xffffffff,
    selector,
    type,
    present: 1,
    dpl,
    db: code ? 0 : 1,
    s: 1,
    l: code ? 1 : 0,
    g: 1,
    avl: 0,
    unusable: 0
  }
}

/** @internal */
export async function probeGuest(kvm: Kvm, code: readonly number[], options: ProbeGuestOptions): Promise<ProbeGuest> {
  const vm = await kvm.createVm()
  let memory: GuestMemory | undefined
  try {
    await options.prepareVm?.(vm)
    memory = await GuestMemory.allocate(options.size ?? '256KiB')
    memory.write(codeAddress, Uint8Array.from(code))
    await vm.setUserMemoryRegion({ slot: 0, guestAddress: 0n, memory, flags: options.flags ?? 0 })
    const vcpu = await vm.createVcpu(0)
    await options.prepareVcpu?.(vcpu)
    const sregs = await vcpu.getSregs()
    let rflags = 2n
    if (options.mode === 'real') {
      sregs.cs.base = 0n
      sregs.cs.selector = 0
    } else {
      const entry = (at: number, value: bigint): void => {
        const bytes = new Uint8Array(8)
        new DataView(bytes.buffer).setBigUint64(0, value, true)
        memory?.write(at, bytes)
      }
      // The first GiB, identity, in pages of 2 MiB, for all rings.
      entry(pml4, BigInt(pdpt) | 7n)
      entry(pdpt, BigInt(pd) | 7n)
      for (let i = 0; i < 512; ++i) entry(pd + 8 * i, (BigInt(i) << 21n) | 0x87n)
      // A TSS whose I/O bitmap, at 104, allows every port; a last byte of ones ends it.
      memory.write(tss + 102, Uint8Array.of(104, 0))
      memory.write(tss + 104 + 8192, Uint8Array.of(0xff))
      const dpl = options.mode === 'cpl3' ? 3 : 0
      sregs.cs = segment(0x08 | dpl, 11, dpl, true)
      const data = segment(0x10 | dpl, 3, dpl, false)
      sregs.ss = data
      sregs.ds = data
      sregs.es = data
      sregs.tr = { ...segment(0x28, 11, 0, false), base: BigInt(tss), limit: 104 + 8192, s: 0, db: 0, g: 0 }
      sregs.cr0 = 0x80000033n
      sregs.cr3 = BigInt(pml4)
      sregs.cr4 = 0x620n | (options.cr4 ?? 0n)
      sregs.efer = 0x500n
      if (dpl === 3) rflags |= 0x3000n
    }
    await vcpu.setSregs(sregs)
    await vcpu.setRegs({ ...(await vcpu.getRegs()), rip: BigInt(codeAddress), rsp: 0x8000n, rflags })
    const held = memory
    return {
      vm,
      vcpu,
      memory,
      async [Symbol.asyncDispose]() {
        await vm.close()
        await held.close()
      }
    }
  } catch (error) {
    await vm.close()
    await memory?.close()
    throw error
  }
}

/** A little-endian immediate. @internal */
export function imm32(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >>> 24) & 0xff]
}
