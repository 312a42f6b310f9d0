// A virtual machine's descriptor. Its operations run, in their order, on a native thread `ht-vm`.
import type { NativeExitHandler, NativeVm } from './addon.js'
import { closedError, KvmError, kvmErrors } from './errors.js'
import type { EventFd } from './event.js'
import { GuestMemory } from './memory.js'
import { room, toBytes, type Size } from './size.js'
import { decodeStats, type Stats } from './stats.js'
import * as s from './structs.js'
import { Vcpu } from './vcpu.js'

/**
 * A memory slot: where guest memory appears in the guest-physical address space.
 *
 * @since 0.1.0
 */
export interface MemoryRegion {
  /** 0 to capability NR_MEMSLOTS - 1; the address space in the upper 16 bits. */
  slot: number
  /** Guest-physical, a multiple of the page size. */
  guestAddress: bigint
  /** What backs it. */
  memory: GuestMemory
  /** Where in `memory` it begins; 0 unless given. */
  offset?: Size
  /** Its length; the rest of `memory` unless given. */
  size?: Size
  /** Bits of {@link MemoryFlag}. */
  flags?: number
}

/**
 * A native answer to port I/O or MMIO: see {@link Vm.addExitHandler}.
 *
 * @since 0.1.0
 */
export interface ExitHandlerOptions {
  /** Ports, or guest-physical addresses without memory. */
  space: 'port' | 'mmio'
  /** The first. */
  address: bigint | number
  /** How many; 1 unless given. */
  length?: number
  /**
   * `'sink'` takes writes and reads as all ones, `'constant'` reads as `value`, `'counter'` reads as the number of
   * accesses so far, `'ram'` keeps what was written.
   */
  action: 'sink' | 'constant' | 'counter' | 'ram'
  /** For `'constant'`: little endian. */
  value?: bigint
}

/** What a `'ram'` handler keeps at most, in bytes. */
const maxRam = 1n << 20n

const actions = ['sink', 'constant', 'counter', 'ram'] as const

/**
 * A native exit handler that was added to a VM.
 *
 * @since 0.1.0
 */
export class ExitHandler {
  /** @internal */
  readonly native: NativeExitHandler

  /** @internal */
  constructor(native: NativeExitHandler) {
    this.native = native
  }

  /** How many accesses it answered. */
  get hits(): bigint {
    return this.native.hits()
  }

  /** Copies bytes of a `'ram'` handler out. @throws KvmError `ERANGE`, `EINVAL` */
  read(offset: number, length: number): Uint8Array {
    return kvmErrors(() => this.native.read(offset, room(length, maxRam)))
  }

  /** Copies bytes into a `'ram'` handler. @throws KvmError `ERANGE` */
  write(offset: number, data: Uint8Array): void {
    kvmErrors(() => {
      this.native.write(offset, data)
    })
  }
}

/**
 * Where a GSI leads (`struct kvm_irq_routing_entry`).
 *
 * @since 0.1.0
 */
export type IrqRoute =
  | {
      /** A pin of a controller. */ type: 'irqchip'
      /** The line's number. */ gsi: number
      /** 0 and 1 PIC, 2 IOAPIC. */ irqchip: number
      /** Its pin. */ pin: number
    }
  | {
      /** A message. */ type: 'msi'
      /** The line's number. */ gsi: number
      /** Message address. */ address: bigint
      /** Message data. */ data: number
    }
  | {
      /** Hyper-V's synthetic controller. */ type: 'hv-sint'
      /** The line's number. */ gsi: number
      /** vCPU index. */ vcpu: number
      /** Its source. */ sint: number
    }

/**
 * A write of the guest that signals an event (`struct kvm_ioeventfd`).
 *
 * @since 0.1.0
 */
export interface IoEvent {
  /** Signalled by the write. */
  event: EventFd
  /** Port or guest-physical address. */
  address: bigint
  /** `'mmio'` unless given. */
  space?: 'port' | 'mmio'
  /** 1, 2, 4 or 8 bytes; 0 any (MMIO). */
  length: number
  /** Only a write of this value. */
  datamatch?: bigint
}

/**
 * A range of an MSR filter (`struct kvm_msr_filter_range`).
 *
 * @since 0.1.0
 */
export interface MsrFilterRange {
  /** Bits of {@link MsrFilter}. */
  flags: number
  /** The first MSR. */
  base: number
  /** A bit for each MSR from `base` on: 1 allows, 0 denies. */
  bitmap: Uint8Array
  /** How many MSRs; all of the bitmap unless given. */
  count?: number
}

/**
 * A device of KVM's own (KVM_CREATE_DEVICE, api.rst 4.79), closed with its VM at the latest.
 *
 * @since 0.1.0
 */
export class Device implements AsyncDisposable {
  readonly #call: <T>(op: string, ...args: unknown[]) => Promise<T>
  readonly #id: number
  /** `KVM_DEV_TYPE_*`. */
  readonly type: number
  #closing: Promise<void> | undefined

  /** @internal */
  constructor(call: <T>(op: string, ...args: unknown[]) => Promise<T>, id: number, type: number) {
    this.#call = call
    this.#id = id
    this.type = type
  }

  /** KVM_HAS_DEVICE_ATTR (4.81). */
  hasAttr(group: number, attr: bigint): Promise<boolean> {
    return this.#call('deviceHasAttr', this.#id, group, attr)
  }

  /** KVM_GET_DEVICE_ATTR (4.80): the first `size` bytes of the value. @throws KvmError `ENXIO` */
  getAttr(group: number, attr: bigint, size = 8): Promise<Uint8Array> {
    return this.#call('deviceGetAttr', this.#id, group, attr, size)
  }

  /** KVM_SET_DEVICE_ATTR (4.80). @throws KvmError `ENXIO` */
  setAttr(group: number, attr: bigint, value: Uint8Array): Promise<void> {
    return this.#call('deviceSetAttr', this.#id, group, attr, value)
  }

  /** Closes the device; twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#call<void>('closeDevice', this.#id).catch((error: unknown) => {
      if (!(error instanceof KvmError && error.code === 'CLOSED')) throw error
    })
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * A virtual machine.
 *
 * Every method that returns a promise rejects with a {@link KvmError}: `CLOSED` after close(), or the failed ioctl's
 * errno, named below where it is telling.
 *
 * @since 0.1.0
 */
export class Vm implements AsyncDisposable {
  readonly #native: NativeVm
  readonly #vcpus = new Set<Vcpu>()
  #closing: Promise<void> | undefined

  /** @internal */
  constructor(native: NativeVm) {
    this.#native = native
  }

  /** Whether close() was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /**
   * The VM's descriptor; it belongs to this object. For ioctls that are not bound here.
   *
   * @throws KvmError `CLOSED`
   * @since 0.1.0
   */
  get fd(): number {
    return kvmErrors(() => this.native.fd())
  }

  /** The vCPUs that are open. */
  get vcpus(): readonly Vcpu[] {
    return [...this.#vcpus].filter(vcpu => !vcpu.closed)
  }

  /** @internal */
  get native(): NativeVm {
    if (this.#closing) throw closedError('The VM')
    return this.#native
  }

  async #call<T>(op: string, ...args: unknown[]): Promise<T> {
    return kvmErrors(async () => (await this.native.invoke(op, ...args)) as T)
  }

  /** What the VM's KVM claims of a capability (0: nothing): KVM_CHECK_EXTENSION (4.4). Probe by doing where it matters. */
  checkExtension(capability: number): Promise<number> {
    return this.#call('checkExtension', capability)
  }

  /** Enables a capability of the VM: KVM_ENABLE_CAP (4.37). @throws KvmError `EINVAL` when it is none of a VM's or comes too late */
  enableCap(capability: number, ...args: readonly bigint[]): Promise<void> {
    return this.#call('enableCap', capability, 0, ...args)
  }

  /**
   * Maps memory into the guest, or changes a slot's address or flags: KVM_SET_USER_MEMORY_REGION (4.35).
   *
   * @throws KvmError `EOVERLAP` naming the slot in the way, `EALIGN`, `ERANGE` beyond the memory's size, `EBADSLOT` for a
   * number out of range or a slot in use with another size
   */
  async setUserMemoryRegion(region: MemoryRegion): Promise<void> {
    return kvmErrors(async () => {
      if (!(region.memory instanceof GuestMemory))
        throw new KvmError('a memory slot needs a GuestMemory', { code: 'EINVAL' })
      const offset = toBytes(region.offset ?? 0)
      const rest = region.memory.size > offset ? region.memory.size - offset : 0n
      const size = region.size === undefined ? rest : toBytes(region.size)
      const flags = region.flags ?? 0
      await this.native.setRegion(region.slot, region.guestAddress, size, region.memory.native, offset, flags)
    })
  }

  /** Deletes a slot (KVM_SET_USER_MEMORY_REGION with size 0). @throws KvmError `EBADSLOT` when it is not set */
  deleteUserMemoryRegion(slot: number): Promise<void> {
    return this.#call('deleteSlot', slot)
  }

  /** Creates a vCPU: KVM_CREATE_VCPU (4.7). @throws KvmError `EEXIST` for a used id, `EINVAL` for one out of range */
  async createVcpu(id: number): Promise<Vcpu> {
    return kvmErrors(async () => {
      const vcpu = new Vcpu(await this.native.createVcpu(id), this, id)
      this.#vcpus.add(vcpu)
      return vcpu
    })
  }

  /**
   * Adds a native answer to exits of all vCPUs of this VM.
   *
   * @throws KvmError `EOVERLAP`, `ERANGE`, `VCPU_RUNNING` while a vCPU runs, `CLOSED`
   */
  addExitHandler(options: ExitHandlerOptions): ExitHandler {
    return kvmErrors(() => {
      const native = this.#still('addExitHandler').addHandler(
        options.space === 'mmio',
        options.address,
        options.length ?? 1,
        actions.indexOf(options.action) >>> 0,
        options.value ?? 0n
      )
      return new ExitHandler(native)
    })
  }

  /** Takes a handler away. @throws KvmError `VCPU_RUNNING`, `CLOSED` */
  removeExitHandler(handler: ExitHandler): void {
    kvmErrors(() => {
      this.#still('removeExitHandler').removeHandler(handler.native)
    })
  }

  /** While no vCPU runs, also none that is being closed: its thread looks into the table of handlers. */
  #still(what: string): NativeVm {
    const { native } = this
    for (const vcpu of this.#vcpus)
      if (vcpu.running)
        throw new KvmError(`vCPU ${vcpu.id} is running, so ${what} must wait: kick() it and await the run first`, {
          code: 'VCPU_RUNNING'
        })
    return native
  }

  /**
   * The pages of a slot that the guest dirtied, one bit a page: KVM_GET_DIRTY_LOG (4.8). Without manual protect it clears them.
   *
   * @throws KvmError `EBADSLOT`; `ENOENT` when the slot lacks LOG_DIRTY_PAGES; `ENXIO` when the VM uses the dirty ring
   */
  async getDirtyLog(slot: number): Promise<BigUint64Array> {
    const bytes = await this.#call<Uint8Array>('getDirtyLog', slot)
    return new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8)
  }

  /**
   * Clears pages of the log and protects them again: KVM_CLEAR_DIRTY_LOG (4.117), capability MANUAL_DIRTY_LOG_PROTECT2.
   *
   * @param firstPage - a multiple of 64; as is `count`, unless it reaches the slot's end
   */
  clearDirtyLog(slot: number, firstPage: bigint, count: number, bitmap: BigUint64Array): Promise<void> {
    return this.#call('clearDirtyLog', slot, firstPage, count, bitmap)
  }

  /** Gives harvested ring entries back: KVM_RESET_DIRTY_RINGS (4.129); how many. */
  resetDirtyRings(): Promise<number> {
    return this.#call('resetDirtyRings')
  }

  /** PICs, IOAPIC and local APICs in the kernel: KVM_CREATE_IRQCHIP (4.24), before the first vCPU. @throws KvmError `EEXIST`, `EINVAL` */
  createIrqchip(): Promise<void> {
    return this.#call('createIrqchip')
  }

  /** KVM_GET_IRQCHIP (4.26). @throws KvmError `ENXIO` without irqchip */
  async getIrqchip(chip: number): Promise<s.IrqchipState> {
    return s.irqchipLayout.decode(await this.#call<Uint8Array>('getIrqchip', chip))
  }

  /** KVM_SET_IRQCHIP (4.27). */
  async setIrqchip(state: s.IrqchipState): Promise<void> {
    return this.#call('setIrqchip', s.irqchipLayout.encode(state))
  }

  /** The PIT in the kernel: KVM_CREATE_PIT2 (4.71), after the irqchip. @throws KvmError `EEXIST`, `ENOENT` without irqchip */
  createPit2(flags = 0): Promise<void> {
    return this.#call('createPit2', flags)
  }

  /** KVM_GET_PIT2 (4.72). @throws KvmError `ENXIO` without a PIT */
  async getPit2(): Promise<s.PitState> {
    return s.pitLayout.decode(await this.#call<Uint8Array>('getPit2'))
  }

  /** KVM_SET_PIT2 (4.73). */
  async setPit2(state: s.PitState): Promise<void> {
    return this.#call('setPit2', s.pitLayout.encode(state))
  }

  /** Sets a line's level: KVM_IRQ_LINE (4.25). @throws KvmError `ENXIO` without irqchip */
  irqLine(gsi: number, level: boolean): Promise<void> {
    return this.#call('irqLine', gsi, level)
  }

  /** KVM_IRQ_LINE_STATUS: below 0 masked, 0 coalesced, above 0 the number of vCPUs it went to. */
  irqLineStatus(gsi: number, level: boolean): Promise<number> {
    return this.#call('irqLineStatus', gsi, level)
  }

  /** Sends a message-signalled interrupt: KVM_SIGNAL_MSI (4.70); above 0 delivered, 0 blocked by the guest. */
  async signalMsi(address: bigint, data: number): Promise<number> {
    return this.#call(
      'signalMsi',
      s.msiLayout.encode({
        addressLo: Number(address & 0xffffffffn),
        addressHi: Number(address >> 32n),
        data,
        flags: 0,
        devid: 0
      })
    )
  }

  /** Replaces the routing table: KVM_SET_GSI_ROUTING (4.52). @throws KvmError `EINVAL` without irqchip */
  async setGsiRouting(routes: readonly IrqRoute[]): Promise<void> {
    const entries = routes.map(route => {
      const words =
        route.type === 'irqchip'
          ? [route.irqchip, route.pin]
          : route.type === 'msi'
            ? [Number(route.address & 0xffffffffn), Number(route.address >> 32n), route.data]
            : [route.vcpu, route.sint]
      const type = { irqchip: 1, msi: 2, 'hv-sint': 4 }[route.type]
      return { gsi: route.gsi, type, flags: 0, union: Array.from({ length: 8 }, (_, i) => words[i] ?? 0) }
    })
    return this.#call('setGsiRouting', s.routeLayout.encodeAll(entries))
  }

  /** Signalling `event` raises `gsi`: KVM_IRQFD (4.75); `resample` is signalled at its end of interrupt. @throws KvmError `EBUSY` */
  assignIrqfd(event: EventFd, gsi: number, resample?: EventFd): Promise<void> {
    return this.#call('assignIrqfd', event.fd, gsi, resample?.fd)
  }

  /** KVM_IRQFD with KVM_IRQFD_FLAG_DEASSIGN. */
  deassignIrqfd(event: EventFd, gsi: number): Promise<void> {
    return this.#call('deassignIrqfd', event.fd, gsi)
  }

  /** A write of the guest signals an event instead of an exit: KVM_IOEVENTFD (4.59). @throws KvmError `EEXIST` */
  assignIoeventfd(io: IoEvent): Promise<void> {
    return this.#call('assignIoeventfd', io.event.fd, io.address, io.length, io.space === 'port', io.datamatch)
  }

  /** KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN. @throws KvmError `ENOENT` */
  deassignIoeventfd(io: IoEvent): Promise<void> {
    return this.#call('deassignIoeventfd', io.event.fd, io.address, io.length, io.space === 'port', io.datamatch)
  }

  /** Whether missed PIT ticks are made up for: KVM_REINJECT_CONTROL (4.99). */
  reinjectControl(on: boolean): Promise<void> {
    return this.#call('reinjectControl', on)
  }

  /** Which vCPU boots: KVM_SET_BOOT_CPU_ID (4.41), before the first vCPU. @throws KvmError `EBUSY` later */
  setBootCpuId(id: number): Promise<void> {
    return this.#call('setBootCpuId', id)
  }

  /** The kvmclock: KVM_GET_CLOCK (4.29). */
  async getClock(): Promise<s.ClockData> {
    return s.clockLayout.decode(await this.#call<Uint8Array>('getClock'))
  }

  /** KVM_SET_CLOCK (4.30); `flags` 0 sets `clock` alone. */
  async setClock(clock: s.ClockData): Promise<void> {
    return this.#call('setClock', s.clockLayout.encode(clock))
  }

  /** The TSC frequency of vCPUs to come, kHz: KVM_GET_TSC_KHZ (4.56) of the VM. */
  getTscKhz(): Promise<number> {
    return this.#call('getTscKhz')
  }

  /** KVM_SET_TSC_KHZ (4.55) of the VM. */
  setTscKhz(khz: number): Promise<void> {
    return this.#call('setTscKhz', khz)
  }

  /** Three pages for Intel's real mode, below 4 GiB and in no slot: KVM_SET_TSS_ADDR (4.36). */
  setTssAddr(address: bigint): Promise<void> {
    return this.#call('setTssAddr', address)
  }

  /** One page for Intel's real mode: KVM_SET_IDENTITY_MAP_ADDR (4.40), before the first vCPU. */
  setIdentityMapAddr(address: bigint): Promise<void> {
    return this.#call('setIdentityMapAddr', address)
  }

  /** Limits shadow pages: KVM_SET_NR_MMU_PAGES. */
  setNrMmuPages(pages: number): Promise<void> {
    return this.#call('setNrMmuPages', pages)
  }

  /** KVM_GET_NR_MMU_PAGES. @throws KvmError `ENOTTY` or `EINVAL` on kernels from 6.3 on, which dropped it */
  getNrMmuPages(): Promise<number> {
    return this.#call('getNrMmuPages')
  }

  /** Gathers writes to a range instead of exiting: KVM_REGISTER_COALESCED_MMIO (4.116); take them by `Vcpu.drainCoalesced`. */
  registerCoalesced(space: 'port' | 'mmio', address: bigint, length: number): Promise<void> {
    return this.#call('registerCoalesced', address, length, space === 'port')
  }

  /** KVM_UNREGISTER_COALESCED_MMIO (4.116). */
  unregisterCoalesced(space: 'port' | 'mmio', address: bigint, length: number): Promise<void> {
    return this.#call('unregisterCoalesced', address, length, space === 'port')
  }

  /**
   * Which MSRs the guest may touch: KVM_X86_SET_MSR_FILTER (4.97). With capability X86_USER_SPACE_MSR (and {@link MsrExitReason}
   * FILTER) a denied access becomes an exit, otherwise #GP. No ranges and `'allow'` take the filter away.
   *
   * @throws KvmError `ERANGE` on more than 16 ranges or too large a bitmap
   */
  setMsrFilter(otherwise: 'allow' | 'deny', ranges: readonly MsrFilterRange[]): Promise<void> {
    const flat = ranges.flatMap(range => [
      range.flags,
      range.base,
      range.count ?? 8 * range.bitmap.length,
      range.bitmap
    ])
    return this.#call('setMsrFilter', otherwise === 'deny', ...flat)
  }

  /** Which performance events the guest may count: KVM_SET_PMU_EVENT_FILTER (4.120). */
  setPmuEventFilter(action: 'allow' | 'deny', events: readonly bigint[], fixedCounterBitmap = 0): Promise<void> {
    return this.#call('setPmuEventFilter', action === 'deny' ? 1 : 0, BigUint64Array.from(events), fixedCounterBitmap)
  }

  /** Xen's hypercall page: KVM_XEN_HVM_CONFIG, with KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL in `flags` hypercalls exit. */
  async xenHvmConfig(flags: number, msr: number): Promise<void> {
    const config = { flags, msr, blobAddr32: 0n, blobAddr64: 0n, blobSize32: 0, blobSize64: 0 }
    return this.#call('xenHvmConfig', s.xenConfigLayout.encode(config))
  }

  /** Binds an event to a Hyper-V connection: KVM_HYPERV_EVENTFD (4.112). */
  hypervEventfd(connection: number, event: EventFd, options: { deassign?: boolean } = {}): Promise<void> {
    return this.#call('hypervEventfd', connection, event.fd, options.deassign ?? false)
  }

  /** Statistics now: KVM_GET_STATS_FD (4.133), capability BINARY_STATS_FD. */
  async stats(): Promise<Stats> {
    return decodeStats(await this.#call<Uint8Array>('stats'))
  }

  /** Whether a device type can be created: KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST. */
  testDevice(type: number): Promise<boolean> {
    return this.#call('testDevice', type)
  }

  /** Creates a device of KVM's: KVM_CREATE_DEVICE (4.79). @throws KvmError `ENODEV` for an unknown type */
  async createDevice(type: number): Promise<Device> {
    const call = <T>(op: string, ...args: unknown[]): Promise<T> => this.#call(op, ...args)
    return new Device(call, await this.#call<number>('createDevice', type), type)
  }

  /** Whether the VM has an attribute: KVM_HAS_DEVICE_ATTR (4.81), capability VM_ATTRIBUTES. */
  hasAttr(group: number, attr: bigint): Promise<boolean> {
    return this.#call('hasAttr', group, attr)
  }

  /** A 64-bit attribute: KVM_GET_DEVICE_ATTR (4.80). */
  getAttr(group: number, attr: bigint): Promise<bigint> {
    return this.#call('getAttr', group, attr)
  }

  /** KVM_SET_DEVICE_ATTR (4.80). */
  setAttr(group: number, attr: bigint, value: bigint): Promise<void> {
    return this.#call('setAttr', group, attr, value)
  }

  /** Kicks and closes its vCPUs, closes its devices, then itself, off the JavaScript thread. Twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close()
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
