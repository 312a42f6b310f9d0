// What is read of a local copy over NBD, as nbdkit's plugin counts it in a file beside it (native/nbdkit/read_counts.h). It
// is counted for as long as the copy is there, by all who serve it; here it counts from the opening on.
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import path from 'node:path'

/**
 * Reads of an image, over NBD and by {@link ImageStream.read}, since the stream was opened.
 *
 * @since 0.1.0
 */
export interface ReadCounts {
  /** All that have ended. */
  count: number
  /** Those that waited for nothing. */
  hits: number
  /** Those that waited for more than 100 ms. */
  stalls: number
  /** Those that could not be answered. */
  failed: number
}

/** @internal */
export const READS_FILE = 'reads'
const MAGIC = Buffer.from('htreads1', 'latin1')
const COUNTS = 4
const SIZE = MAGIC.length + 8 * COUNTS
const STALL_MS = 100

/** @internal */
export class Reads {
  readonly #own: ReadCounts = { count: 0, hits: 0, stalls: 0, failed: 0 }
  readonly #file: number
  readonly #before: bigint[]
  #last: bigint[]
  #closed = false

  private constructor(file: number, counts: bigint[]) {
    this.#file = file
    this.#before = counts
    this.#last = counts
  }

  /** In a cache's folder; the file is made where it is missing. */
  static open(folder: string): Reads {
    const file = openSync(path.join(folder, READS_FILE), constants.O_RDWR | constants.O_CREAT, 0o600)
    try {
      let counts = countsIn(file)
      if (!counts) {
        counts = Array<bigint>(COUNTS).fill(0n)
        writeSync(file, Buffer.concat([MAGIC, Buffer.alloc(8 * COUNTS)]), 0, SIZE, 0)
      }
      return new Reads(file, counts)
    } catch (error) {
      closeSync(file)
      throw error
    }
  }

  /** A read by this process: how long it waited for what was not here, 0 when it did not. */
  add(waitedMs: number): void {
    this.#own.count++
    if (waitedMs === 0) this.#own.hits++
    if (waitedMs > STALL_MS) this.#own.stalls++
  }

  /** One that could not be answered. */
  failed(): void {
    this.#own.count++
    this.#own.failed++
  }

  counts(): ReadCounts {
    if (!this.#closed) this.#last = countsIn(this.#file) ?? this.#last
    const [reads, waited, stalls, failed] = this.#last.map((value, i) => Number(value - (this.#before[i] as bigint))) as [number, number, number, number]
    const own = this.#own
    return { count: own.count + reads, hits: own.hits + reads - waited - failed, stalls: own.stalls + stalls, failed: own.failed + failed }
  }

  /** What has been counted stays. Twice is fine. */
  close(): void {
    if (this.#closed) return
    this.counts()
    this.#closed = true
    closeSync(this.#file)
  }
}

/** Undefined when it is no such file, or cannot be read: nothing depends on it. */
function countsIn(file: number): bigint[] | undefined {
  const bytes = Buffer.alloc(SIZE)
  try {
    if (readSync(file, bytes, 0, SIZE, 0) !== SIZE || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined
  } catch {
    return undefined
  }
  return Array.from({ length: COUNTS }, (_, i) => bytes.readBigUInt64LE(MAGIC.length + 8 * i))
}
