// The error class of hypertwin/eventlog.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/eventlog throws and rejects with. `code` is errno's name when a system call failed, or one of
 * - `'LOG_NOT_FOUND'`: no such folder, or no log in it
 * - `'LOG_EXISTS'`: the folder holds a log already, or somebody begins one there at this moment
 * - `'LOG_VERSION'`, `'LOG_UNKNOWN_KIND'`: written by a later version
 * - `'LOG_HEADER_DAMAGED'`: no segment has a whole header
 * - `'LOG_MISMATCH'`: it cannot be replayed on this host; the message lists what differs
 * - `'LOG_INITIAL_STATE'`: the snapshot beside the log is not the one that it begins with
 * - `'LOG_WRITE_FAILED'`: the log cannot be written (disk full, I/O error); see {@link Recording.retry}
 * - `'LOG_BUFFER_FULL'`: the disk does not keep up with what is logged
 * - `'BUSY'`: what is to be captured is captured already
 * - `'NO_BOUNDARY'`: the guest reached no boundary in time
 * - `'BAD_STATE'`: not possible now
 * - `'BAD_BOARD'`: a machine of the standard board: give it the deterministic one to record it
 * - `'CORRUPT'`, `'SNAPSHOT_VERSION'`: the snapshot beside the log cannot be restored
 * - `'ERANGE'`: a boundary, address or length out of range
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'CLOSED'`: the handle, or the machine, is closed
 *
 * @since 0.1.0
 */
export class EventLogError extends HypertwinError {
  override name = 'EventLogError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details.code === 'ECLOSED' ? { ...details, code: 'CLOSED' } : details)
  }
}

/** @internal */
export function logErrors<T>(body: () => T): T {
  return withLayerErrors(EventLogError, body)
}

/** @internal */
export function invalid(message: string): EventLogError {
  return new EventLogError(message, { code: 'EINVAL' })
}

/** @internal */
export function folder(directory: unknown): string {
  if (typeof directory !== 'string' || directory === '' || directory.includes('\0'))
    throw invalid("the log's folder must be a path")
  return directory
}

/** @internal */
export function boundaryNumber(value: unknown, what: string): bigint {
  if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value)
    throw invalid(`${what} must be a boundary's number: a bigint from 0n to 2n ** 64n - 1n`)
  return value
}

/** @internal */
export function count(value: unknown, what: string, least: number, most: number): number {
  if (!Number.isSafeInteger(value) || (value as number) < least || (value as number) > most)
    throw invalid(`${what} must be an integer from ${least} to ${most}`)
  return value as number
}
