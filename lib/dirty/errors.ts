// The error class of hypertwin/dirty.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/dirty throws and rejects with. `code` is errno's name when a system call failed, or one of
 * - `'CLOSED'`: the tracker, or what it tracks, is closed
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'ERANGE'`: an address that is no guest memory
 * - `'DIRTY_BUSY'`: the VM has a tracker already
 * - `'DIRTY_MODE'`: this kernel lacks the mode
 * - `'DIRTY_RING'`: ring mode of a VM without a ring, or another mode of a VM with one
 * - `'DIRTY_SLOT'`: no such memory slot, or one that was changed while it was tracked
 * - `'DIRTY_UNUSABLE'`: no mode that the VM could be tracked in works on this host; the message says why
 *
 * @since 0.1.0
 */
export class DirtyError extends HypertwinError {
  override name = 'DirtyError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' ? { ...details, code: 'CLOSED' } : details)
  }
}

/** @internal */
export function dirtyErrors<T>(body: () => T): T {
  return withLayerErrors(DirtyError, body)
}

/** @internal */
export function invalid(message: string): DirtyError {
  return new DirtyError(message, { code: 'EINVAL' })
}
