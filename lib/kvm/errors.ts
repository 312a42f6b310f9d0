// The error class of hypertwin/kvm.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/kvm throws and rejects with. `code` is errno's name when an ioctl failed (`'EINVAL'`), or one of
 * - `'CLOSED'`: the handle, or what it belongs to, is closed
 * - `'VCPU_RUNNING'`: a run is in progress; `kick()` the vCPU and await the run first
 * - `'EBADSLOT'`, `'EOVERLAP'`, `'EALIGN'`, `'ERANGE'`: a memory slot, address, size or offset that cannot be
 * - `'EMSR'`: KVM refuses an MSR, which the message names
 * - `'ENOINPUT'`: the last exit takes no answer
 * - `'ENORING'`: the VM has no dirty ring
 * - `'EVERSION'`: the device speaks another KVM API
 *
 * @since 0.1.0
 */
export class KvmError extends HypertwinError {
  override name = 'KvmError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' ? { ...details, code: 'CLOSED' } : details)
  }

  /** The failed ioctl's name, for example `'KVM_CREATE_VCPU'`; undefined when none failed. */
  get ioctl(): string | undefined {
    return this.call
  }
}

/** @internal */
export function kvmErrors<T>(body: () => T): T {
  return withLayerErrors(KvmError, body)
}

/** @internal */
export function closedError(what: string): KvmError {
  return new KvmError(`${what} is closed: open a new one`, { code: 'CLOSED' })
}
