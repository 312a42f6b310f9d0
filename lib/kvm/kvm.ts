// /dev/kvm itself.
import { nativeKvm, type NativeSystem } from './addon.js'
import { closedError, kvmErrors } from './errors.js'
import { cpuidLayout, msrLayout, type CpuidEntry, type Msr } from './structs.js'
import { Vm } from './vm.js'

/**
 * /dev/kvm. Every method that returns a promise rejects with a {@link KvmError}: `CLOSED` after close(), or the failed ioctl's
 * errno.
 *
 * @since 0.1.0
 */
export class Kvm implements AsyncDisposable {
  readonly #native: NativeSystem
  #closing: Promise<void> | undefined

  private constructor(native: NativeSystem) {
    this.#native = native
  }

  /**
   * Opens the device.
   *
   * @throws KvmError `ENOENT` without the module, `EACCES` without permission, `EVERSION`; the message says what to do
   * @since 0.1.0
   */
  static async open(path = '/dev/kvm'): Promise<Kvm> {
    return kvmErrors(async () => new Kvm(await nativeKvm.open(path)))
  }

  /** Whether close() was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /**
   * The descriptor of /dev/kvm; it belongs to this object. For ioctls that are not bound here.
   *
   * @throws KvmError `CLOSED`
   * @since 0.1.0
   */
  get fd(): number {
    return kvmErrors(() => this.#open.fd())
  }

  get #open(): NativeSystem {
    if (this.#closing) throw closedError('/dev/kvm')
    return this.#native
  }

  async #call<T>(op: string, ...args: unknown[]): Promise<T> {
    return kvmErrors(async () => (await this.#open.invoke(op, ...args)) as T)
  }

  /** KVM_GET_API_VERSION (4.1): 12. */
  apiVersion(): Promise<number> {
    return this.#call('apiVersion')
  }

  /** What KVM claims of a capability (0: nothing): KVM_CHECK_EXTENSION (4.4). Probe by doing where it matters. */
  checkExtension(capability: number): Promise<number> {
    return this.#call('checkExtension', capability)
  }

  /** Bytes of a vCPU's shared mapping: KVM_GET_VCPU_MMAP_SIZE (4.5). */
  vcpuMmapSize(): Promise<number> {
    return this.#call('vcpuMmapSize')
  }

  /** The CPUID table that KVM can give a guest: KVM_GET_SUPPORTED_CPUID (4.46). Its APIC ids are those of the CPU that asks. */
  async supportedCpuid(): Promise<CpuidEntry[]> {
    return cpuidLayout.decodeAll(await this.#call<Uint8Array>('supportedCpuid'))
  }

  /** Features that KVM emulates: KVM_GET_EMULATED_CPUID (4.88). */
  async emulatedCpuid(): Promise<CpuidEntry[]> {
    return cpuidLayout.decodeAll(await this.#call<Uint8Array>('emulatedCpuid'))
  }

  /** Hyper-V leaves: KVM_GET_SUPPORTED_HV_CPUID (4.118), capability SYS_HYPERV_CPUID. */
  async supportedHvCpuid(): Promise<CpuidEntry[]> {
    return cpuidLayout.decodeAll(await this.#call<Uint8Array>('supportedHvCpuid'))
  }

  async #numbers(op: string): Promise<number[]> {
    const bytes = await this.#call<Uint8Array>(op)
    return [...new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)]
  }

  /** MSRs that belong to a vCPU's state: KVM_GET_MSR_INDEX_LIST (4.3). */
  msrIndexList(): Promise<number[]> {
    return this.#numbers('msrIndexList')
  }

  /** MSRs that tell features: KVM_GET_MSR_FEATURE_INDEX_LIST (4.3). */
  msrFeatureIndexList(): Promise<number[]> {
    return this.#numbers('msrFeatureIndexList')
  }

  /** Values of feature MSRs: KVM_GET_MSRS (4.18) of the system. @throws KvmError `EMSR` naming the first that there is not */
  async getMsrs(indices: readonly number[]): Promise<Msr[]> {
    return msrLayout.decodeAll(await this.#call<Uint8Array>('getMsrs', Uint32Array.from(indices)))
  }

  /** Machine check features: KVM_X86_GET_MCE_CAP_SUPPORTED (4.103). */
  mceCapSupported(): Promise<bigint> {
    return this.#call('mceCapSupported')
  }

  /** Whether the system has an attribute: KVM_HAS_DEVICE_ATTR (4.81), capability SYS_ATTRIBUTES. */
  hasAttr(group: number, attr: bigint): Promise<boolean> {
    return this.#call('hasAttr', group, attr)
  }

  /** A 64-bit attribute: KVM_GET_DEVICE_ATTR (4.80). */
  getAttr(group: number, attr: bigint): Promise<bigint> {
    return this.#call('getAttr', group, attr)
  }

  /** Creates a virtual machine: KVM_CREATE_VM (4.2). @throws KvmError `EINVAL` for an unknown type, `EMFILE` */
  async createVm(options: { type?: bigint } = {}): Promise<Vm> {
    return kvmErrors(async () => new Vm(await this.#open.createVm(options.type ?? 0n)))
  }

  /** Closes the device; its VMs go on. Twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close()
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
