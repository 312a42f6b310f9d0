// A virtual CPU. Its operations run, in their order, on its own native thread `ht-vcpu<id>`.
import type { NativeVcpu } from './addon.js'
import { closedError, KvmError, kvmErrors } from './errors.js'
import { decodeExit, type Exit } from './exit.js'
import { decodeStats, type Stats } from './stats.js'
import * as s from './structs.js'
import type { Vm } from './vm.js'

/** struct kvm_run's synchronised registers: valid mask, dirty mask, then struct kvm_sync_regs. */
const validRegsOffset = 288
const syncRegsOffset = 304

/**
 * A virtual CPU.
 *
 * Every method that returns a promise rejects with a {@link KvmError}: `CLOSED` after close(), `VCPU_RUNNING` while a run is
 * in progress (`kick()` it and await it first), or the failed ioctl's errno, named below where it is telling.
 *
 * @since 0.1.0
 */
export class Vcpu implements AsyncDisposable {
  readonly #native: NativeVcpu
  #closing: Promise<void> | undefined
  #running = false
  /** The VM that it belongs to. */
  readonly vm: Vm
  /** As given to `Vm.createVcpu`; the APIC id unless CPUID says otherwise. */
  readonly id: number

  /** @internal */
  constructor(native: NativeVcpu, vm: Vm, id: number) {
    this.#native = native
    this.vm = vm
    this.id = id
  }

  /** Whether a run is in progress. */
  get running(): boolean {
    return this.#running
  }

  /** Whether this vCPU or its VM was closed. */
  get closed(): boolean {
    return this.#closing !== undefined || this.vm.closed
  }

  /**
   * The vCPU's descriptor; it belongs to this object. For ioctls that are not bound here.
   *
   * @throws KvmError `CLOSED`
   * @since 0.1.0
   */
  get fd(): number {
    return kvmErrors(() => this.native.fd())
  }

  /** How many exits were answered natively (see `Vm.addExitHandler`, `setHltPolicy`). */
  get handledExits(): bigint {
    return kvmErrors(() => this.native.handled())
  }

  /** @internal */
  get native(): NativeVcpu {
    if (this.closed) throw closedError(`vCPU ${this.id}`)
    return this.#native
  }

  async #call<T>(op: string, ...args: unknown[]): Promise<T> {
    return kvmErrors(async () => {
      const native = this.native
      if (this.#running)
        throw new KvmError(`vCPU ${this.id} is running, so ${op} must wait: kick() it and await the run first`, {
          code: 'VCPU_RUNNING'
        })
      return (await native.invoke(op, ...args)) as T
    })
  }

  async #get<T>(op: string, layout: { decode(from: Uint8Array): T }): Promise<T> {
    return layout.decode(await this.#call<Uint8Array>(op))
  }

  /**
   * Runs the guest until something happens that no native handler answers (KVM_RUN, api.rst 4.10).
   *
   * An exit that takes an answer (port read, MMIO read, MSR read, hypercall) is completed by the next run: call
   * `exit.respond()` before it. Abort by the signal and the run is kicked and rejects with the signal's reason; if
   * an exit came at that very moment it is returned, and the next run returns `'interrupted'` at once.
   *
   * @throws KvmError `EFAULT` when the guest's memory is gone, `EINVAL` on impossible state, `CLOSED` also when closed while it runs
   * @since 0.1.0
   */
  async run(options: { signal?: AbortSignal } = {}): Promise<Exit> {
    const { signal } = options
    signal?.throwIfAborted()
    return kvmErrors(async () => {
      const native = this.native
      if (this.#running)
        throw new KvmError(`vCPU ${this.id} is running already: await that run, or kick() it`, { code: 'VCPU_RUNNING' })
      const abort = (): void => {
        if (!this.closed) this.kick()
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#running = true
      try {
        const { result, page, data } = await native.run()
        if (result === 0)
          return decodeExit(page, data, {
            respond: (value, size) => this.#respond(value, size),
            refuse: () => this.refuseMsr()
          })
        if (this.closed) throw closedError(`vCPU ${this.id}`)
        if (result === 1) signal?.throwIfAborted()
        return { reason: result === 1 ? 'interrupted' : 'not-runnable' }
      } finally {
        this.#running = false
        signal?.removeEventListener('abort', abort)
      }
    })
  }

  /**
   * Runs again and again and yields each exit that no native handler answers; ends at a kick, at close() and at
   * `'shutdown'`, `'fail-entry'` and `'internal-error'`, which it still yields.
   *
   * @throws as {@link Vcpu.run}
   * @since 0.1.0
   */
  async *exits(options: { signal?: AbortSignal } = {}): AsyncGenerator<Exit, void, void> {
    while (!this.closed) {
      let exit
      try {
        exit = await this.run(options)
      } catch (error) {
        if (this.closed && error instanceof KvmError && error.code === 'CLOSED') return
        throw error
      }
      if (exit.reason === 'interrupted') return
      yield exit
      if (exit.reason === 'shutdown' || exit.reason === 'fail-entry' || exit.reason === 'internal-error') return
    }
  }

  /**
   * Ends the run in progress with `'interrupted'`, soon and from any state of the guest; if none is in progress, the next
   * one. (immediate_exit of struct kvm_run and a signal to the vCPU's thread.)
   *
   * @throws KvmError `CLOSED`
   * @since 0.1.0
   */
  kick(): void {
    kvmErrors(() => {
      this.native.kick()
    })
  }

  async #respond(value: Uint8Array | number | bigint, size: number): Promise<void> {
    if (value instanceof Uint8Array) return this.respond(value)
    const number = typeof value === 'bigint' || Number.isInteger(value) ? BigInt(value) : -1n
    if (size > 8 || BigInt.asUintN(8 * size, number) !== number)
      throw new KvmError(`${value} does not fit the ${size} bytes that the exit takes`, { code: 'ERANGE' })
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(0, number, true)
    return this.respond(bytes.subarray(0, size))
  }

  /**
   * Answers the last exit: the bytes of a port or MMIO read, exactly as many as it asks for; 8 bytes for an MSR read or a hypercall.
   * The next run delivers them, or {@link Vcpu.completeIo}.
   *
   * @throws KvmError `ENOINPUT` when the last exit takes no answer, `ERANGE` on another length
   * @since 0.1.0
   */
  respond(data: Uint8Array): Promise<void> {
    return this.#call('respond', data)
  }

  /**
   * Refuses the MSR access of the last exit: the guest gets #GP.
   *
   * @throws KvmError `ENOINPUT` when the last exit is no MSR access
   * @since 0.1.0
   */
  refuseMsr(): Promise<void> {
    return this.#call('refuseMsr')
  }

  /**
   * Completes the last port or MMIO exit without running the guest, so that the registers are whole (KVM_RUN with
   * immediate_exit). Where RIP stands at a port exit differs between hosts until this was called.
   *
   * @returns false when the access has a further part: respond to it and call again
   * @since 0.1.0
   */
  completeIo(): Promise<boolean> {
    return this.#call('completeIo')
  }

  /**
   * What HLT does: `'exit'` (the default) ends the run, `'resume'` goes on natively behind it. With an in-kernel irqchip
   * the kernel waits for an interrupt and neither happens.
   *
   * @since 0.1.0
   */
  setHltPolicy(policy: 'exit' | 'resume'): Promise<void> {
    return this.#call('setHltPolicy', policy === 'resume')
  }

  /** General registers: KVM_GET_REGS (api.rst 4.11). */
  getRegs(): Promise<s.Regs> {
    return this.#get('getRegs', s.regsLayout)
  }

  /** KVM_SET_REGS (4.12). */
  async setRegs(regs: s.Regs): Promise<void> {
    return this.#call('setRegs', s.regsLayout.encode(regs))
  }

  /** Special registers: KVM_GET_SREGS (4.13). */
  getSregs(): Promise<s.Sregs> {
    return this.#get('getSregs', s.sregsLayout)
  }

  /** KVM_SET_SREGS (4.14). @throws KvmError `EINVAL` when CR0, CR4, EFER and CS contradict each other */
  async setSregs(sregs: s.Sregs): Promise<void> {
    return this.#call('setSregs', s.sregsLayout.encode(sregs))
  }

  /** Special registers with PDPTRs: KVM_GET_SREGS2 (4.126), capability SREGS2. @throws KvmError `ENOTTY` without it */
  getSregs2(): Promise<s.Sregs2> {
    return this.#get('getSregs2', s.sregs2Layout)
  }

  /** KVM_SET_SREGS2 (4.127). */
  async setSregs2(sregs: s.Sregs2): Promise<void> {
    return this.#call('setSregs2', s.sregs2Layout.encode(sregs))
  }

  /** x87 and SSE: KVM_GET_FPU (4.22). */
  getFpu(): Promise<s.Fpu> {
    return this.#get('getFpu', s.fpuLayout)
  }

  /** KVM_SET_FPU (4.23). */
  async setFpu(fpu: s.Fpu): Promise<void> {
    return this.#call('setFpu', s.fpuLayout.encode(fpu))
  }

  /** The XSAVE area: KVM_GET_XSAVE2 (4.134) where offered, else KVM_GET_XSAVE (4.42); 4096 bytes or more. */
  getXsave(): Promise<Uint8Array> {
    return this.#call('getXsave')
  }

  /** KVM_SET_XSAVE (4.43). @throws KvmError `ERANGE` on another size, `EINVAL` on features that the vCPU lacks */
  setXsave(xsave: Uint8Array): Promise<void> {
    return this.#call('setXsave', xsave)
  }

  /** XCR0: KVM_GET_XCRS (4.44). */
  getXcrs(): Promise<s.Xcrs> {
    return this.#get('getXcrs', s.xcrsLayout)
  }

  /** KVM_SET_XCRS (4.45). @throws KvmError `EINVAL` on features that CPUID does not offer */
  async setXcrs(xcrs: s.Xcrs): Promise<void> {
    return this.#call('setXcrs', s.xcrsLayout.encode(xcrs))
  }

  /** MSRs by number: KVM_GET_MSRS (4.18). @throws KvmError `EMSR` naming the first that KVM refuses */
  async getMsrs(indices: readonly number[]): Promise<s.Msr[]> {
    return s.msrLayout.decodeAll(await this.#call<Uint8Array>('getMsrs', Uint32Array.from(indices)))
  }

  /** KVM_SET_MSRS (4.19). @throws KvmError `EMSR` naming the first that KVM refuses; those before it are set */
  async setMsrs(msrs: readonly s.Msr[]): Promise<void> {
    return this.#call('setMsrs', s.msrLayout.encodeAll(msrs))
  }

  /** The guest's CPUID table: KVM_GET_CPUID2 (4.21). */
  async getCpuid2(): Promise<s.CpuidEntry[]> {
    return s.cpuidLayout.decodeAll(await this.#call<Uint8Array>('getCpuid2'))
  }

  /** KVM_SET_CPUID2 (4.20), before the first run. @throws KvmError `EINVAL` after it, `E2BIG` on too many entries */
  async setCpuid2(entries: readonly s.CpuidEntry[]): Promise<void> {
    return this.#call('setCpuid2', s.cpuidLayout.encodeAll(entries))
  }

  /** Hyper-V leaves that KVM can give this vCPU: KVM_GET_SUPPORTED_HV_CPUID (4.118). */
  async supportedHvCpuid(): Promise<s.CpuidEntry[]> {
    return s.cpuidLayout.decodeAll(await this.#call<Uint8Array>('supportedHvCpuid'))
  }

  /** Pending and injected events: KVM_GET_VCPU_EVENTS (4.31). */
  getVcpuEvents(): Promise<s.VcpuEvents> {
    return this.#get('getVcpuEvents', s.vcpuEventsLayout)
  }

  /** KVM_SET_VCPU_EVENTS (4.32). */
  async setVcpuEvents(events: s.VcpuEvents): Promise<void> {
    return this.#call('setVcpuEvents', s.vcpuEventsLayout.encode(events))
  }

  /** Debug registers: KVM_GET_DEBUGREGS (4.33). */
  getDebugregs(): Promise<s.DebugRegs> {
    return this.#get('getDebugregs', s.debugregsLayout)
  }

  /** KVM_SET_DEBUGREGS (4.34). */
  async setDebugregs(regs: s.DebugRegs): Promise<void> {
    return this.#call('setDebugregs', s.debugregsLayout.encode(regs))
  }

  /** KVM_GET_MP_STATE (4.38): one of {@link MpState}. */
  async getMpState(): Promise<number> {
    return (await this.#get('getMpState', s.mpStateLayout)).mpState
  }

  /** KVM_SET_MP_STATE (4.39). @throws KvmError `EINVAL` on other states than runnable without an in-kernel irqchip */
  async setMpState(mpState: number): Promise<void> {
    return this.#call('setMpState', s.mpStateLayout.encode({ mpState }))
  }

  /** The local APIC's 1024 bytes of registers: KVM_GET_LAPIC (4.57). @throws KvmError `EINVAL` without an in-kernel irqchip */
  getLapic(): Promise<Uint8Array> {
    return this.#call('getLapic')
  }

  /** KVM_SET_LAPIC (4.58). */
  setLapic(registers: Uint8Array): Promise<void> {
    return this.#call('setLapic', registers)
  }

  /** The TSC's frequency: KVM_GET_TSC_KHZ (4.56), kHz. */
  getTscKhz(): Promise<number> {
    return this.#call('getTscKhz')
  }

  /** KVM_SET_TSC_KHZ (4.55). @throws KvmError `EINVAL` where the host cannot scale */
  setTscKhz(khz: number): Promise<void> {
    return this.#call('setTscKhz', khz)
  }

  /** Queues an external interrupt: KVM_INTERRUPT (4.16). @throws KvmError `ENXIO` with an in-kernel irqchip, `EEXIST` when one is queued */
  interrupt(vector: number): Promise<void> {
    return this.#call('interrupt', vector)
  }

  /** Asks for an `'irq-window-open'` exit as soon as the guest can take an interrupt (request_interrupt_window). */
  requestInterruptWindow(on: boolean): Promise<void> {
    return this.writeRunPage(0, Uint8Array.of(on ? 1 : 0))
  }

  /** Queues an NMI: KVM_NMI (4.64). */
  nmi(): Promise<void> {
    return this.#call('nmi')
  }

  /** Queues an SMI: KVM_SMI, capability X86_SMM. */
  smi(): Promise<void> {
    return this.#call('smi')
  }

  /**
   * Single-stepping and breakpoints: KVM_SET_GUEST_DEBUG (4.87).
   *
   * @param control - bits of {@link GuestDebug}
   * @param debugreg - DR0 to DR7 for hardware breakpoints
   */
  async setGuestDebug(control: number, debugreg: readonly bigint[] = []): Promise<void> {
    const all = Array.from({ length: 8 }, (_, i) => debugreg[i] ?? 0n)
    return this.#call('setGuestDebug', s.guestDebugLayout.encode({ control, debugreg: all }))
  }

  /** Enables a capability of the vCPU: KVM_ENABLE_CAP (4.37). @throws KvmError `EINVAL` when it is none of a vCPU's */
  enableCap(capability: number, ...args: readonly bigint[]): Promise<void> {
    return this.#call('enableCap', capability, ...args)
  }

  /** State of nested virtualisation, opaque: KVM_GET_NESTED_STATE (4.114). @throws KvmError `ENOTTY` where not offered */
  getNestedState(): Promise<Uint8Array> {
    return this.#call('getNestedState')
  }

  /** KVM_SET_NESTED_STATE (4.115). */
  setNestedState(state: Uint8Array): Promise<void> {
    return this.#call('setNestedState', state)
  }

  /** A register by its id, up to 64 bits: KVM_GET_ONE_REG (4.69). @throws KvmError on x86 before Linux 6.18 `ENOTTY` or `EINVAL` */
  getOneReg(id: bigint): Promise<bigint> {
    return this.#call('getOneReg', id)
  }

  /** KVM_SET_ONE_REG (4.68). */
  setOneReg(id: bigint, value: bigint): Promise<void> {
    return this.#call('setOneReg', id, value)
  }

  /** Ids for getOneReg: KVM_GET_REG_LIST (4.84). */
  async getRegList(): Promise<bigint[]> {
    const bytes = await this.#call<Uint8Array>('getRegList')
    return [...new BigUint64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8)]
  }

  /** Translates a guest-virtual address by the guest's page tables: KVM_TRANSLATE (4.15). */
  async translate(linearAddress: bigint): Promise<s.Translation> {
    return s.translationLayout.decode(await this.#call<Uint8Array>('translate', linearAddress))
  }

  /** Signals blocked inside KVM_RUN, bit n - 1 for signal n; undefined takes the mask away: KVM_SET_SIGNAL_MASK (4.17). */
  setSignalMask(mask: bigint | undefined): Promise<void> {
    return this.#call('setSignalMask', mask)
  }

  /** Machine checks: KVM_X86_SETUP_MCE (4.104), bits of `Kvm.mceCapSupported`. */
  setupMce(mcgCap: bigint): Promise<void> {
    return this.#call('setupMce', mcgCap)
  }

  /** Injects a machine check: KVM_X86_SET_MCE (4.105). */
  async setMce(mce: s.MachineCheck): Promise<void> {
    return this.#call('setMce', s.mceLayout.encode(mce))
  }

  /** Tells the guest that it was paused: KVM_KVMCLOCK_CTRL (4.69). @throws KvmError `EINVAL` when it does not use kvmclock */
  kvmclockCtrl(): Promise<void> {
    return this.#call('kvmclockCtrl')
  }

  /** Exits on TPR accesses: KVM_TPR_ACCESS_REPORTING. */
  async tprAccessReporting(enabled: boolean): Promise<void> {
    await this.#call('tprAccessReporting', s.tprAccessLayout.encode({ enabled: enabled ? 1 : 0, flags: 0 }))
  }

  /** Where the virtual APIC page lies: KVM_SET_VAPIC_ADDR. */
  setVapicAddr(address: bigint): Promise<void> {
    return this.#call('setVapicAddr', address)
  }

  /** Statistics now: KVM_GET_STATS_FD (4.133), capability BINARY_STATS_FD. @throws KvmError `ENOTTY` without it */
  async stats(): Promise<Stats> {
    return decodeStats(await this.#call<Uint8Array>('stats'))
  }

  /** Whether the vCPU has an attribute: KVM_HAS_DEVICE_ATTR (4.81). */
  hasAttr(group: number, attr: bigint): Promise<boolean> {
    return this.#call('hasAttr', group, attr)
  }

  /** A 64-bit attribute: KVM_GET_DEVICE_ATTR (4.80). @throws KvmError `ENXIO` when there is none such */
  getAttr(group: number, attr: bigint): Promise<bigint> {
    return this.#call('getAttr', group, attr)
  }

  /** KVM_SET_DEVICE_ATTR (4.80). */
  setAttr(group: number, attr: bigint, value: bigint): Promise<void> {
    return this.#call('setAttr', group, attr, value)
  }

  /** Takes the writes that KVM gathered (see `Vm.registerCoalesced`; KVM_COALESCED_MMIO_PAGE_OFFSET). */
  async drainCoalesced(): Promise<s.CoalescedWrite[]> {
    return s.coalescedLayout.decodeAll(await this.#call<Uint8Array>('drainCoalesced'))
  }

  /**
   * Takes the pages out of the vCPU's dirty ring (api.rst 8.29), in order, also while it runs; `Vm.resetDirtyRings` gives the
   * entries back to the kernel. A dirty tracker upon this lives in hypertwin/dirty.
   *
   * @throws KvmError `ENORING` when no ring was enabled before the vCPU was created
   */
  harvestDirtyRing(): Promise<s.DirtyPage[]> {
    return kvmErrors(async () => s.dirtyGfnLayout.decodeAll(await this.vm.native.harvest(this.native)))
  }

  /** Which registers each run leaves in the run page: bits of {@link SyncRegs} (api.rst 6.31, capability SYNC_REGS). */
  setSyncRegs(classes: number): Promise<void> {
    const mask = new Uint8Array(8)
    mask[0] = classes
    return this.writeRunPage(validRegsOffset, mask)
  }

  /** The general registers as the last run left them in the run page; valid when setSyncRegs asked for REGS. */
  async syncedRegs(): Promise<s.Regs> {
    return s.regsLayout.decode(await this.readRunPage(syncRegsOffset, s.regsLayout.size))
  }

  /** Bytes of struct kvm_run (api.rst 5), a copy. @throws KvmError `ERANGE` */
  readRunPage(offset: number, length: number): Promise<Uint8Array> {
    return this.#call('readRunPage', offset, length)
  }

  /** Writes into struct kvm_run; for fields that no method here covers. @throws KvmError `ERANGE` */
  writeRunPage(offset: number, data: Uint8Array): Promise<void> {
    return this.#call('writeRunPage', offset, data)
  }

  /** Kicks a run in progress, which rejects with `CLOSED`, ends the thread, closes the descriptor. Twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close()
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
