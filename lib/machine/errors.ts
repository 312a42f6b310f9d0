// The error class of hypertwin/machine.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/machine throws and rejects with. `code` is errno's name when a system call failed (`'ENOENT'`),
 * or one of
 * - `'BAD_STATE'`: not possible in the machine's state, which the message names with what is possible
 * - `'CLOSED'`: the machine is closed
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'BAD_CONFIG'`: memory, disks or network devices that cannot be
 * - `'BAD_BOARD'`: not possible on the machine's board
 * - `'BAD_KERNEL'`: no ELF file that can be started by PVH
 * - `'NO_MEMORY'`: kernel, initial RAM disk and start-up tables do not fit into the memory
 * - `'NO_BOUNDARY'`: the guest reached no boundary in time
 * - `'BUSY'`: a snapshot is being written to that path by somebody else
 * - `'SNAPSHOT_LIMIT'`: a snapshot that could not be restored, since it would add to too many others or its list of pages
 *   would be too long, is not written: take a full one
 * - `'DIRTY_BUSY'`: somebody tracks the machine's dirty pages already
 * - `'BAD_CERTIFICATE'`: of a disk's NBD server, or for it: files that are missing or cannot be used
 * - `'LIBNBD_MISSING'`: a disk on an NBD server, and libnbd is not installed here
 * - `'ERANGE'`: an address, device number or length out of range
 * - `'CORRUPT'`, `'SNAPSHOT_VERSION'`, `'SNAPSHOT_PARENT'`: a snapshot that cannot be restored
 * - `'FINAL_STATE'`: the machine ended in another state than the one waited for
 * - `'NOT_HERE'`: memory that comes while the machine runs, and has not come
 * - `'CACHE_FULL'`: no room for the state of a snapshot that is streamed
 *
 * @since 0.1.0
 */
export class MachineError extends HypertwinError {
  override name = 'MachineError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' ? { ...details, code: 'CLOSED' } : details)
  }
}

/** @internal */
export function machineErrors<T>(body: () => T): T {
  return withLayerErrors(MachineError, body)
}

/** @internal */
export function invalid(message: string): MachineError {
  return new MachineError(message, { code: 'EINVAL' })
}
