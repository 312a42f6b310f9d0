// The error class of hypertwin/stream.
import { HypertwinError, withLayerErrors, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/stream throws and rejects with. `code` is errno's name when a system call failed (`'ENOSPC'`), or one
 * of
 * - `'BAD_MANIFEST'`: these bytes are no manifest, or one of another version, or a damaged one
 * - `'BAD_DIGEST'`: a manifest whose digest is not the one that was asked for
 * - `'BAD_PROFILE'`: these bytes are no profile
 * - `'BAD_TRACE'`: these bytes are no trace of reads
 * - `'BAD_CACHE'`: the folder holds something else than this image's cache
 * - `'BAD_IMAGE'`: nothing that can be packed or examined
 * - `'SOURCE_UNREACHABLE'`: no answer, a broken connection, or a server's error; trying again may help
 * - `'SOURCE_REFUSED'`: the server said no: not found, forbidden
 * - `'SOURCE_NO_RANGES'`: the server gives whole files only
 * - `'SOURCE_CHANGED'`: another image is published there now
 * - `'CHUNK_CORRUPT'`: a chunk came, several times, with contents that its digest does not allow
 * - `'CACHE_FULL'`: no room on the cache's disk
 * - `'TOOL_MISSING'`: a program (nbdkit, qemu-img, debugfs) is not installed, or the nbdkit plugin is not built
 * - `'TOOL_FAILED'`: a program failed; the message has what it said
 * - `'IN_USE'`: another process streams into that cache
 * - `'NOT_RUNNING'`: nobody streams into that cache
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'CLOSED'`: the stream is closed
 *
 * @since 0.1.0
 */
export class StreamError extends HypertwinError {
  override name = 'StreamError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details)
  }
}

/** @internal */
export function streamErrors<T>(body: () => T): T {
  return withLayerErrors(StreamError, body)
}

/** @internal */
export function invalid(message: string): StreamError {
  return new StreamError(message, { code: 'EINVAL' })
}

/** What a failed system call was for; anything else as it is. @internal */
export function failed(what: string, error: unknown): unknown {
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  if (!(error instanceof Error) || error instanceof HypertwinError || code === undefined || syscall === undefined) return error
  return new StreamError(`${what}: ${message}`, {
    code,
    call: syscall,
    ...(errno !== undefined && { errno: Math.abs(errno) }),
    cause: error
  })
}

/** The signal's reason is thrown when it is aborted. @internal */
export function check(signal: AbortSignal | undefined): void {
  signal?.throwIfAborted()
}
