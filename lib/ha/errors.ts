// The error class of hypertwin/ha.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/ha throws and rejects with. `code` is errno's name when a system call failed, or one of
 * - `'BAD_STATE'`: not possible now: the machine is protected, recorded or debugged already, has ended, or is not protected
 * - `'BAD_BOARD'`: a machine of the standard board: give it the deterministic one to protect it
 * - `'BAD_ADDRESS'`: no `tcp://host:port` or `unix:/path`
 * - `'BAD_CONFIG'`: disks or taps that the primary's machine does not have
 * - `'PEER_UNREACHABLE'`, `'TIMEOUT'`: nobody answers at the backup's address
 * - `'PEER_LOST'`: the connection broke
 * - `'REFUSED'`: the other side said no; its code and sentence are in the message
 * - `'PROTOCOL'`: the other side does not speak this protocol
 * - `'TLS_FAILED'`, `'TLS_UNAVAILABLE'`: certificates that do not fit together; no TLS library
 * - `'MIGRATION_MISMATCH'`: the hosts differ (CPU, board, version); the message names in what
 * - `'HAND_OVER_FAILED'`: the machine goes on here, or as the events say
 * - `'ARBITER_UNREACHABLE'`: a standby was closed while nobody could say whether the machine was to go on there
 * - `'ENDED'`: the protection ended before what was waited for
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'CLOSED'`: closed, or its machine is
 *
 * @since 0.1.0
 */
export class HaError extends HypertwinError {
  override name = 'HaError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' || details.code === 'CANCELLED' ? { ...details, code: 'CLOSED' } : details)
  }
}

/** @internal */
export function haErrors<T>(body: () => T): T {
  return withLayerErrors(HaError, body)
}

/** @internal */
export function invalid(message: string): HaError {
  return new HaError(message, { code: 'EINVAL' })
}
