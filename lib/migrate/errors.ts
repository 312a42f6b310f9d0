// The error class of hypertwin/migrate.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/migrate throws and rejects with. After any of them but the first two the machine is at the source as
 * it was before, running or paused. `code` is errno's name when a system call failed (`'EADDRINUSE'`), or one of
 * - `'MIGRATION_IN_DOUBT'`: the destination may run the machine; it is paused here, for reason `'in-doubt'`. Look
 *   there, then resume() it or stop() it
 * - `'MIGRATED_ANYWAY'`: the connection was lost, but the arbiter gave the machine to the destination: it is stopped
 *   here, for reason `'migrated'`
 * - `'CANCELLED'`: by cancel()
 * - `'PEER_UNREACHABLE'`, `'TIMEOUT'`: no connection
 * - `'PEER_LOST'`: the connection broke, or the other side kept silent
 * - `'TLS_FAILED'`, `'TLS_UNAVAILABLE'`: which check failed; this Node carries no OpenSSL that can be used
 * - `'REFUSED'`: the destination said no, with its reason
 * - `'NO_CONVERGENCE'`: the guest writes memory faster than it can be sent, and `mustConverge` was given
 * - `'PROTOCOL'`: the other side does not speak this protocol, or bytes were damaged on the way
 * - `'MIGRATION_MISMATCH'`: at the destination: another CPU, board or version; the message lists what differs
 * - `'MIGRATION_DIGEST'`: at the destination: what arrived is not what was sent
 * - `'ABORTED'`, `'NOT_OURS'`: at the destination: the source gave up; the machine goes on there
 * - `'BAD_BOARD'`: a machine of the standard board: give it the deterministic one to migrate it
 * - `'BAD_STATE'`: the machine neither runs nor is paused, or is recorded, protected or debugged
 * - `'BAD_CONFIG'`: disks or network devices that the machine does not have
 * - `'BAD_ADDRESS'`, `'EINVAL'`: an argument of the wrong type or value
 * - `'CLOSED'`: the machine, listener or connection is closed
 *
 * @since 0.1.0
 */
export class MigrateError extends HypertwinError {
  override name = 'MigrateError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' ? { ...details, code: 'CLOSED' } : details)
  }
}

/** @internal */
export function migrateErrors<T>(body: () => T): T {
  return withLayerErrors(MigrateError, body)
}

/** @internal */
export function invalid(message: string): MigrateError {
  return new MigrateError(message, { code: 'EINVAL' })
}
