// What the nbdkit plugin writes down of reads: counters, and when each chunk was read first. The file may still grow.
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { failed, StreamError } from './errors.js'
import type { Access } from './profile.js'
import { MAX_CHUNKS } from './manifest.js'

const MAGIC = 'htaccess'
const VERSION = 1
const HEAD = 4096
const COUNTERS_AT = 64
const RECORD = 16

/**
 * What has been read over NBD.
 *
 * @since 0.1.0
 */
export interface Trace {
  /** The digest of the manifest of the image that was read. */
  manifest: string
  /** Reads, and their bytes. */
  reads: number
  /** See reads. */
  bytes: number
  /** Reads that had to wait for a chunk; how long altogether and the longest, in milliseconds. */
  waited: { reads: number; ms: number; longestMs: number }
  /** Of these, those that waited for more than 100 ms. */
  stalls: number
  /** Reads that could not be answered. */
  failedReads: number
  /** When each chunk was read first, in the order of time; times count from the first read. */
  accesses: Access[]
}

/**
 * Reads a trace, as {@link NbdServer} lets it be written.
 *
 * @param file - see {@link NbdOptions.trace}
 * @throws StreamError `BAD_TRACE`, or errno's name
 * @since 0.1.0
 */
export async function readTrace(file: string): Promise<Trace> {
  const bad = (what: string): StreamError => new StreamError(`${file} is no trace of reads: ${what}`, { code: 'BAD_TRACE' })
  let bytes: Buffer
  try {
    // A FIFO in its place must not hang this.
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) throw bad('it is no file')
      // No chunk is written down twice.
      const whole = Math.min(stats.size, HEAD + MAX_CHUNKS * RECORD)
      bytes = Buffer.alloc(whole)
      bytes = bytes.subarray(0, (await handle.read(bytes, 0, whole, 0)).bytesRead)
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw failed(`reading the trace ${file}`, error)
  }
  if (bytes.length < HEAD || bytes.toString('latin1', 0, 8) !== MAGIC) throw bad('it does not begin as one')
  if (bytes.readUInt32LE(8) !== VERSION) throw bad(`its version is ${bytes.readUInt32LE(8)}, and this program reads version ${VERSION}`)
  const chunks = bytes.readUInt32LE(16)
  const counter = (index: number): number => Number(bytes.readBigUInt64LE(COUNTERS_AT + 8 * index))
  const accesses: Access[] = []
  for (let at = HEAD; at + RECORD <= bytes.length; at += RECORD) {
    const chunk = bytes.readUInt32LE(at + 8)
    if (chunk >= chunks) throw bad(`it names chunk ${chunk} of ${chunks}`)
    accesses.push({ chunk, atMs: Number(bytes.readBigUInt64LE(at)) / 1000, waitedMs: bytes.readUInt32LE(at + 12) / 1000 })
  }
  accesses.sort((a, b) => a.atMs - b.atMs)
  const start = accesses[0]?.atMs ?? 0
  for (const access of accesses) access.atMs -= start
  return {
    manifest: bytes.toString('hex', 24, 56),
    reads: counter(0),
    bytes: counter(1),
    waited: { reads: counter(2), ms: counter(3) / 1000, longestMs: counter(4) / 1000 },
    stalls: counter(5),
    failedReads: counter(6),
    accesses
  }
}
