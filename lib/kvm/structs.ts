// The kernel's structures (<asm/kvm.h>, <linux/kvm.h>) that cross the binding. 64-bit fields are bigints.
import { array, bytes, struct, u8, u16, u32, u64, i64, type Decoded } from './layout.js'

/** @internal */
// prettier-ignore
export const regsLayout = struct({
  rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64,
  r8: u64, r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64,
  rip: u64, rflags: u64
})
/**
 * General registers: `struct kvm_regs`.
 *
 * @since 0.1.0
 */
export type Regs = Decoded<typeof regsLayout>

// prettier-ignore
const segmentLayout = struct({
  base: u64, limit: u32, selector: u16, type: u8, present: u8, dpl: u8, db: u8, s: u8, l: u8, g: u8, avl: u8,
  unusable: u8, _padding: u8
})
/**
 * A segment register with its hidden part: `struct kvm_segment`.
 *
 * @since 0.1.0
 */
export type Segment = Decoded<typeof segmentLayout>

const tableLayout = struct({ base: u64, limit: u16, _padding: array(u16, 3) })
/**
 * GDT or IDT register: `struct kvm_dtable`.
 *
 * @since 0.1.0
 */
export type DescriptorTable = Decoded<typeof tableLayout>

// prettier-ignore
const sregsHead = {
  cs: segmentLayout, ds: segmentLayout, es: segmentLayout, fs: segmentLayout, gs: segmentLayout,
  ss: segmentLayout, tr: segmentLayout, ldt: segmentLayout, gdt: tableLayout, idt: tableLayout,
  cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64, efer: u64, apicBase: u64
}
/** @internal */
export const sregsLayout = struct({ ...sregsHead, interruptBitmap: array(u64, 4) })
/**
 * Special registers: `struct kvm_sregs`.
 *
 * @since 0.1.0
 */
export type Sregs = Decoded<typeof sregsLayout>

/** @internal */
export const sregs2Layout = struct({ ...sregsHead, flags: u64, pdptrs: array(u64, 4) })
/**
 * Special registers with the PAE page directory pointers: `struct kvm_sregs2`.
 *
 * @since 0.1.0
 */
export type Sregs2 = Decoded<typeof sregs2Layout>

/** @internal */
// prettier-ignore
export const fpuLayout = struct({
  fpr: array(bytes(16), 8), fcw: u16, fsw: u16, ftwx: u8, _pad1: u8, lastOpcode: u16, lastIp: u64, lastDp: u64,
  xmm: array(bytes(16), 16), mxcsr: u32, _pad2: u32
})
/**
 * x87 and SSE state: `struct kvm_fpu`.
 *
 * @since 0.1.0
 */
export type Fpu = Decoded<typeof fpuLayout>

const xcrLayout = struct({ xcr: u32, _reserved: u32, value: u64 })
/** @internal */
export const xcrsLayout = struct({ count: u32, flags: u32, xcrs: array(xcrLayout, 16), _padding: array(u64, 16) })
/**
 * Extended control registers: `struct kvm_xcrs`, the first `count` of `xcrs`.
 *
 * @since 0.1.0
 */
export type Xcrs = Decoded<typeof xcrsLayout>

/** @internal */
export const msrLayout = struct({ index: u32, _reserved: u32, data: u64 })
/**
 * A model specific register: `struct kvm_msr_entry`.
 *
 * @since 0.1.0
 */
export type Msr = Decoded<typeof msrLayout>

/** @internal */
// prettier-ignore
export const cpuidLayout = struct({
  function: u32, index: u32, flags: u32, eax: u32, ebx: u32, ecx: u32, edx: u32, _padding: array(u32, 3)
})
/**
 * A CPUID leaf: `struct kvm_cpuid_entry2`. `flags` 1 says that `index` (ECX) counts.
 *
 * @since 0.1.0
 */
export type CpuidEntry = Decoded<typeof cpuidLayout>

/** @internal */
export const vcpuEventsLayout = struct({
  exception: struct({ injected: u8, nr: u8, hasErrorCode: u8, pending: u8, errorCode: u32 }),
  interrupt: struct({ injected: u8, nr: u8, soft: u8, shadow: u8 }),
  nmi: struct({ injected: u8, pending: u8, masked: u8, _pad: u8 }),
  sipiVector: u32,
  flags: u32,
  smi: struct({ smm: u8, pending: u8, smmInsideNmi: u8, latchedInit: u8 }),
  tripleFault: struct({ pending: u8 }),
  _reserved: bytes(26),
  exceptionHasPayload: u8,
  exceptionPayload: u64
})
/**
 * Pending and injected events: `struct kvm_vcpu_events`.
 *
 * @since 0.1.0
 */
export type VcpuEvents = Decoded<typeof vcpuEventsLayout>

/** @internal */
export const debugregsLayout = struct({ db: array(u64, 4), dr6: u64, dr7: u64, flags: u64, _reserved: array(u64, 9) })
/**
 * Debug registers: `struct kvm_debugregs`.
 *
 * @since 0.1.0
 */
export type DebugRegs = Decoded<typeof debugregsLayout>

/** @internal */
export const guestDebugLayout = struct({ control: u32, _pad: u32, debugreg: array(u64, 8) })

/** @internal */
export const mpStateLayout = struct({ mpState: u32 })

/** @internal */
export const clockLayout = struct({ clock: u64, flags: u32, _pad0: u32, realtime: u64, hostTsc: u64, _pad: array(u32, 4) })
/**
 * The VM's clock: `struct kvm_clock_data`, nanoseconds.
 *
 * @since 0.1.0
 */
export type ClockData = Decoded<typeof clockLayout>

// prettier-ignore
const pitChannelLayout = struct({
  count: u32, latchedCount: u16, countLatched: u8, statusLatched: u8, status: u8, readState: u8, writeState: u8,
  writeLatch: u8, rwMode: u8, mode: u8, bcd: u8, gate: u8, countLoadTime: i64
})
/** @internal */
export const pitLayout = struct({ channels: array(pitChannelLayout, 3), flags: u32, _reserved: array(u32, 9) })
/**
 * The in-kernel PIT: `struct kvm_pit_state2`.
 *
 * @since 0.1.0
 */
export type PitState = Decoded<typeof pitLayout>

/** @internal */
export const irqchipLayout = struct({ chip: u32, _pad: u32, state: bytes(512) })
/**
 * An in-kernel interrupt controller: `struct kvm_irqchip`. `chip` 0 and 1 are the PICs (`state` holds a `kvm_pic_state`), 2 is
 * the IOAPIC (`kvm_ioapic_state`).
 *
 * @since 0.1.0
 */
export type IrqchipState = Decoded<typeof irqchipLayout>

/** @internal */
// prettier-ignore
export const msiLayout = struct({
  addressLo: u32, addressHi: u32, data: u32, flags: u32, devid: u32, _pad: bytes(12)
})

/** @internal */
export const routeLayout = struct({ gsi: u32, type: u32, flags: u32, _pad: u32, union: array(u32, 8) })

/** @internal */
export const mceLayout = struct({ status: u64, addr: u64, misc: u64, mcgStatus: u64, bank: u8, _pad1: bytes(7), _pad2: array(u64, 3) })
/**
 * A machine check: `struct kvm_x86_mce`.
 *
 * @since 0.1.0
 */
export type MachineCheck = Decoded<typeof mceLayout>

/** @internal */
// prettier-ignore
export const translationLayout = struct({
  linearAddress: u64, physicalAddress: u64, valid: u8, writeable: u8, usermode: u8, _pad: bytes(5)
})
/**
 * A translated guest-virtual address: `struct kvm_translation`.
 *
 * @since 0.1.0
 */
export type Translation = Decoded<typeof translationLayout>

/** @internal */
export const tprAccessLayout = struct({ enabled: u32, flags: u32, _reserved: array(u32, 8) })

/** @internal */
export const dirtyGfnLayout = struct({ _flags: u32, slot: u32, offset: u64 })
/**
 * A page out of a dirty ring: `struct kvm_dirty_gfn`. `offset` counts pages within `slot`.
 *
 * @since 0.1.0
 */
export type DirtyPage = Decoded<typeof dirtyGfnLayout>

/** @internal */
export const coalescedLayout = struct({ address: u64, length: u32, pio: u32, data: bytes(8) })
/**
 * A write that KVM gathered: `struct kvm_coalesced_mmio`; the first `length` bytes of `data` count.
 *
 * @since 0.1.0
 */
export type CoalescedWrite = Decoded<typeof coalescedLayout>

/** @internal */
// prettier-ignore
export const xenConfigLayout = struct({
  flags: u32, msr: u32, blobAddr32: u64, blobAddr64: u64, blobSize32: u8, blobSize64: u8, _pad: bytes(30)
})
