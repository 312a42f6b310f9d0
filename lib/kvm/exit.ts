// What KVM_RUN came back with: struct kvm_run's union as a discriminated union (api.rst, "5. The kvm_run structure").
import { ExitReason } from './constants.js'

/**
 * Port I/O (`KVM_EXIT_IO`). `data` holds what the guest wrote, `size * count` bytes; answer an `'in'` with `respond`.
 *
 * @since 0.1.0
 */
export interface IoExit {
  /** Discriminator. */
  reason: 'io'
  /** `'out'`: the guest writes. */
  direction: 'in' | 'out'
  /** 0 to 65535. */
  port: number
  /** 1, 2 or 4 bytes. */
  size: number
  /** Repetitions of a string instruction. */
  count: number
  /** The bytes written; empty for an `'in'`. */
  data: Uint8Array
  /** Answers an `'in'`; see {@link Vcpu.respond}. */
  respond(data: Uint8Array | number | bigint): Promise<void>
}

/**
 * An access to an address without memory (`KVM_EXIT_MMIO`). Answer a read with `respond`.
 *
 * @since 0.1.0
 */
export interface MmioExit {
  /** Discriminator. */
  reason: 'mmio'
  /** `'write'`: the guest writes. */
  direction: 'read' | 'write'
  /** Guest-physical. */
  address: bigint
  /** 1 to 8 bytes. */
  size: number
  /** The bytes written; empty for a read. */
  data: Uint8Array
  /** Answers a read; see {@link Vcpu.respond}. */
  respond(data: Uint8Array | number | bigint): Promise<void>
}

/**
 * An MSR access that user space is to decide (`KVM_EXIT_X86_RDMSR`, `KVM_EXIT_X86_WRMSR`).
 *
 * @since 0.1.0
 */
export interface MsrExit {
  /** Discriminator. */
  reason: 'x86-rdmsr' | 'x86-wrmsr'
  /** The MSR's number. */
  index: number
  /** What the guest writes; 0n for a read. */
  data: bigint
  /** Bits of {@link MsrExitReason}. */
  why: number
  /** Answers a read with the MSR's value; see {@link Vcpu.respond}. */
  respond(value: bigint): Promise<void>
  /** The guest gets #GP; see {@link Vcpu.refuseMsr}. */
  refuse(): Promise<void>
}

/**
 * A debug event (`KVM_EXIT_DEBUG`): single step, breakpoint, watchpoint.
 *
 * @since 0.1.0
 */
export interface DebugExit {
  /** Discriminator. */
  reason: 'debug'
  /** 1 #DB, 3 #BP. */
  exception: number
  /** Where. */
  pc: bigint
  /** Debug status. */
  dr6: bigint
  /** Debug control. */
  dr7: bigint
}

/**
 * KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
 *
 * @since 0.1.0
 */
export interface InternalErrorExit {
  /** Discriminator. */
  reason: 'internal-error'
  /** `KVM_INTERNAL_ERROR_*`: 1 emulation, 2 simultaneous exceptions, 3 delivery, 4 unexpected exit. */
  suberror: number
  /** The data words that KVM gave. */
  data: bigint[]
  /** The instruction that could not be emulated, where KVM says it. */
  instruction: Uint8Array | undefined
}

/**
 * The guest could not be entered (`KVM_EXIT_FAIL_ENTRY`).
 *
 * @since 0.1.0
 */
export interface FailEntryExit {
  /** Discriminator. */
  reason: 'fail-entry'
  /** The hardware's reason. */
  hardwareReason: bigint
  /** The host CPU. */
  cpu: number
}

/**
 * The guest shuts down, resets or crashes (`KVM_EXIT_SYSTEM_EVENT`).
 *
 * @since 0.1.0
 */
export interface SystemEventExit {
  /** Discriminator. */
  reason: 'system-event'
  /** `KVM_SYSTEM_EVENT_*`: 1 shutdown, 2 reset, 3 crash, 4 wake-up, 5 suspend, 6 SEV termination. */
  type: number
  /** What comes with it. */
  data: bigint[]
}

/**
 * A hypercall for user space (`KVM_EXIT_HYPERCALL`); answer it with `respond`.
 *
 * @since 0.1.0
 */
export interface HypercallExit {
  /** Discriminator. */
  reason: 'hypercall'
  /** The call's number. */
  nr: bigint
  /** Its arguments. */
  args: bigint[]
  /** Whether the guest was in 64-bit mode. */
  longMode: boolean
  /** The call's result; see {@link Vcpu.respond}. */
  respond(result: bigint): Promise<void>
}

/**
 * Exits that carry one value each.
 *
 * @since 0.1.0
 */
export type ValueExit =
  | { /** KVM_EXIT_UNKNOWN. */ reason: 'hardware-unknown'; /** The hardware's exit reason. */ hardwareReason: bigint }
  | { /** KVM_EXIT_EXCEPTION. */ reason: 'exception'; /** Vector. */ exception: number; /** Error code. */ errorCode: number }
  | { /** KVM_EXIT_TPR_ACCESS. */ reason: 'tpr-access'; /** Where. */ rip: bigint; /** A write? */ write: boolean }
  | { /** KVM_EXIT_IOAPIC_EOI. */ reason: 'ioapic-eoi'; /** The vector that ended. */ vector: number }
  | { /** KVM_EXIT_NOTIFY. */ reason: 'notify'; /** KVM_NOTIFY_*. */ flags: number }
  | {
      /** KVM_EXIT_MEMORY_FAULT. */ reason: 'memory-fault'
      /** KVM_MEMORY_EXIT_FLAG_*. */ flags: bigint
      /** Guest-physical address. */ address: bigint
      /** Bytes. */ size: bigint
    }

/**
 * Exits that carry nothing.
 *
 * @since 0.1.0
 */
export interface PlainExit {
  /** Discriminator: the constant's name. */
  reason:
    | 'hlt'
    | 'shutdown'
    | 'irq-window-open'
    | 'intr'
    | 'set-tpr'
    | 'nmi'
    | 'watchdog'
    | 'dirty-ring-full'
    | 'ap-reset-hold'
    | 'x86-bus-lock'
}

/**
 * Exits whose payload is handed over as it stands in struct kvm_run: Hyper-V, Xen and other architectures' ones.
 *
 * @since 0.1.0
 */
export interface RawExit {
  /** Discriminator: the constant's name. */
  reason:
    | 'hyperv'
    | 'xen'
    | 's390-sieic'
    | 's390-reset'
    | 'dcr'
    | 'osi'
    | 'papr-hcall'
    | 's390-ucontrol'
    | 's390-tsch'
    | 'epr'
    | 's390-stsi'
    | 'arm-nisv'
    | 'riscv-sbi'
    | 'riscv-csr'
    | 'loongarch-iocsr'
  /** The union of struct kvm_run, 256 bytes. */
  payload: Uint8Array
}

/**
 * An exit that this version of hypertwin does not know.
 *
 * @since 0.1.0
 */
export interface UnknownExit {
  /** Discriminator. */
  reason: 'unknown'
  /** The kernel's number. */
  code: number
  /** The union of struct kvm_run, 256 bytes. */
  payload: Uint8Array
}

/**
 * No exit of the guest: the run was ended from outside (`'interrupted'`: a kick or a signal, EINTR), or the vCPU waits to
 * be started by another one (`'not-runnable'`, EAGAIN).
 *
 * @since 0.1.0
 */
export interface NoExit {
  /** Discriminator. */
  reason: 'interrupted' | 'not-runnable'
}

/**
 * Why a run ended.
 *
 * @since 0.1.0
 */
export type Exit =
  | IoExit
  | MmioExit
  | MsrExit
  | DebugExit
  | InternalErrorExit
  | FailEntryExit
  | SystemEventExit
  | HypercallExit
  | ValueExit
  | PlainExit
  | RawExit
  | UnknownExit
  | NoExit

/** What exits that take an answer call. @internal */
export interface Responder {
  respond(data: Uint8Array | number | bigint, size: number): Promise<void>
  refuse(): Promise<void>
}

/** struct kvm_run: exit_reason lies at 8, the union at 32. @internal */
const unionOffset = 32

const names = new Map<number, string>(
  Object.entries(ExitReason).map(([name, code]) => [code, name.toLowerCase().replaceAll('_', '-')])
)
const plain = new Set<string>([
  'hlt',
  'shutdown',
  'irq-window-open',
  'intr',
  'set-tpr',
  'nmi',
  'watchdog',
  'dirty-ring-full',
  'ap-reset-hold',
  'x86-bus-lock'
] satisfies PlainExit['reason'][])

/** @internal */
export function decodeExit(page: Uint8Array, data: Uint8Array, responder: Responder): Exit {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength)
  const code = view.getUint32(8, true)
  const u8 = (at: number): number => view.getUint8(unionOffset + at)
  const u16 = (at: number): number => view.getUint16(unionOffset + at, true)
  const u32 = (at: number): number => view.getUint32(unionOffset + at, true)
  const u64 = (at: number): bigint => view.getBigUint64(unionOffset + at, true)
  const words = (at: number, count: number): bigint[] =>
    Array.from({ length: Math.min(count, 16) }, (_, i) => u64(at + 8 * i))
  const answers = (size: number) => ({
    respond: (value: Uint8Array | number | bigint): Promise<void> => responder.respond(value, size)
  })
  const payload = (): Uint8Array => page.slice(unionOffset, unionOffset + 256)

  switch (code) {
    case ExitReason.UNKNOWN:
      return { reason: 'hardware-unknown', hardwareReason: u64(0) }
    case ExitReason.EXCEPTION:
      return { reason: 'exception', exception: u32(0), errorCode: u32(4) }
    case ExitReason.IO: {
      const [size, count] = [u8(1), u32(4)]
      const direction = u8(0) === 1 ? 'out' : 'in'
      return {
        reason: 'io',
        direction,
        port: u16(2),
        size,
        count,
        data: direction === 'out' ? data : new Uint8Array(),
        ...answers(size * count)
      }
    }
    case ExitReason.HYPERCALL:
      return { reason: 'hypercall', nr: u64(0), args: words(8, 6), longMode: u32(64) !== 0, ...answers(8) }
    case ExitReason.DEBUG:
      return { reason: 'debug', exception: u32(0), pc: u64(8), dr6: u64(16), dr7: u64(24) }
    case ExitReason.MMIO: {
      const size = Math.min(u32(16), 8)
      const direction = u8(20) === 1 ? 'write' : 'read'
      return {
        reason: 'mmio',
        direction,
        address: u64(0),
        size,
        data: direction === 'write' ? page.slice(unionOffset + 8, unionOffset + 8 + size) : new Uint8Array(),
        ...answers(size)
      }
    }
    case ExitReason.FAIL_ENTRY:
      return { reason: 'fail-entry', hardwareReason: u64(0), cpu: u32(8) }
    case ExitReason.TPR_ACCESS:
      return { reason: 'tpr-access', rip: u64(0), write: u32(8) !== 0 }
    case ExitReason.INTERNAL_ERROR: {
      const [suberror, count] = [u32(0), u32(4)]
      // Emulation failures say in their first word whether the instruction's bytes follow.
      const hasInstruction = suberror === 1 && count >= 3 && (u64(8) & 1n) === 1n
      return {
        reason: 'internal-error',
        suberror,
        data: words(8, count),
        instruction: hasInstruction
          ? page.slice(unionOffset + 17, unionOffset + 17 + Math.min(u8(16), 15))
          : undefined
      }
    }
    case ExitReason.SYSTEM_EVENT:
      return { reason: 'system-event', type: u32(0), data: words(8, u32(4)) }
    case ExitReason.IOAPIC_EOI:
      return { reason: 'ioapic-eoi', vector: u8(0) }
    case ExitReason.X86_RDMSR:
    case ExitReason.X86_WRMSR: {
      const write = code === ExitReason.X86_WRMSR
      return {
        reason: write ? 'x86-wrmsr' : 'x86-rdmsr',
        why: u32(8),
        index: u32(12),
        data: write ? u64(16) : 0n,
        ...answers(8),
        refuse: () => responder.refuse()
      }
    }
    case ExitReason.NOTIFY:
      return { reason: 'notify', flags: u32(0) }
    case ExitReason.MEMORY_FAULT:
      return { reason: 'memory-fault', flags: u64(0), address: u64(8), size: u64(16) }
    default: {
      const name = names.get(code)
      if (name === undefined) return { reason: 'unknown', code, payload: payload() }
      if (plain.has(name)) return { reason: name as PlainExit['reason'] }
      return { reason: name as RawExit['reason'], payload: payload() }
    }
  }
}
