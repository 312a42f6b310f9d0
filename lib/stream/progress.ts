// What a stream tells of itself.
import type { FetchClass } from './order.js'
import type { ProfileMatch } from './profile.js'
import type { ReadCounts } from './reads.js'

/**
 * How far a stream is. Sizes are in bytes; those that say *stored* as they come over the link, the others as in the
 * image.
 *
 * @since 0.1.0
 */
export interface StreamProgress {
  /**
   * - `'gate'`: what the start waits for is coming
   * - `'rest'`: the start may be made, the rest is coming
   * - `'complete'`: the local copy is whole
   * - `'failed'`: nothing more will come; see trouble
   * - `'closed'`
   */
  state: 'gate' | 'rest' | 'complete' | 'failed' | 'closed'
  /** Of the image. */
  imageBytes: number
  /** Of it here, chunks of nothing but zeros not counted. */
  presentBytes: number
  /** Of it in chunks that are not all zeros. */
  allocatedBytes: number
  /** Stored, of all. */
  storedBytes: number
  /** Stored, of all that is not here. */
  missingBytes: number
  /** What the profile has, stored: of all, and of what is not here; and how many of its entries fit, as {@link ProfileMatch}. */
  profile: { bytes: number; missingBytes: number } & Omit<ProfileMatch, 'wanted'>
  /** How long until the start may be made, in milliseconds; 0 afterwards, undefined while nobody can tell. */
  startInMs: number | undefined
  /** Chunks that somebody waits for now. */
  waiting: number
  /** Stored, that came, by why it was fetched. */
  fetched: Record<FetchClass, number>
  /** Reads of the image; hits of these, by all of them, is the hit rate. */
  reads: ReadCounts
  /** Chunks that were waited for; how long altogether, and the longest, in milliseconds. */
  demands: { count: number; ms: number; longestMs: number }
  /** Requests; of these, those that failed. */
  requests: { count: number; failed: number }
  /** Chunks that came with contents that they must not have. */
  corrupt: number
  /** Of the link, stored, of late; undefined before it is known. */
  bytesPerSecond: number | undefined
  /** Of the link, in milliseconds, the shortest of late; undefined before it is known. */
  roundTripMs: number | undefined
  /** What is in the way at the moment. */
  trouble: { code: string; message: string } | undefined
  /** Since the stream was opened, in milliseconds. */
  elapsedMs: number
}
