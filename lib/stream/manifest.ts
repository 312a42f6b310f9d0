// A manifest: which chunks an image consists of, where they lie in the pack, and how each is verified.
// docs/stream-format.md describes the bytes. Manifests come from outside: every length is checked before it is used.
import { createHash } from 'node:crypto'
import { StreamError } from './errors.js'

const MAGIC = 'htstream'
const VERSION = 1
const HEADER = 80
const RUN = 8
const DIGEST = 32

/** Of {@link Manifest.blobOf}: the chunk holds nothing but zeros, and is stored nowhere. @internal */
export const ZERO = 0xffffffff
/** Of one image. @internal */
export const MAX_CHUNKS = 1 << 22
/** @internal */
export const MIN_CHUNK_SIZE = 4096
/** @internal */
export const MAX_CHUNK_SIZE = 1 << 20
/** A power of two between the two. @internal */
export const isChunkSize = (size: number): boolean =>
  size >= MIN_CHUNK_SIZE && size <= MAX_CHUNK_SIZE && (size & (size - 1)) === 0
/** No manifest is longer: so many chunks, each with a run, a length and a digest of its own. @internal */
export const MAX_MANIFEST_BYTES = HEADER + MAX_CHUNKS * (RUN + 4 + DIGEST)
/** The manifest's name in a pack. @internal */
export const MANIFEST_FILE = 'manifest'
/** A profile's name in a pack. @internal */
export const PROFILE_FILE = 'profile.json'

/** What a packer knows. @internal */
export interface ManifestParts {
  chunkSize: number
  imageSize: number
  /** SHA-256 of the whole image. */
  imageDigest: Uint8Array
  /** For each chunk its blob, or {@link ZERO}. */
  blobOf: Uint32Array
  /** The stored length of each blob. */
  lengths: Uint32Array
  /** SHA-256 of each blob's contents, one after the other. */
  digests: Uint8Array
}

/**
 * What a pack's manifest says. A *chunk* is a piece of the image, by its number from 0; a *blob* is what the pack stores
 * for one or several equal chunks.
 *
 * @since 0.1.0
 */
export class Manifest {
  /** SHA-256 of the manifest's bytes, in hexadecimal: who has this from somewhere safe needs to trust nobody else. */
  readonly digest: string
  /** Of each chunk, in bytes; the image's end is filled up with zeros. */
  readonly chunkSize: number
  /** In bytes. */
  readonly imageSize: number
  /** SHA-256 of the whole image, in hexadecimal. */
  readonly imageDigest: string
  /** How many chunks the image has. */
  readonly chunks: number
  /** How many different chunks are stored. */
  readonly blobs: number
  /** The length of the data file. */
  readonly dataSize: number
  /** The data file's name in the pack. */
  readonly dataName: string
  /** @internal */
  readonly bytes: Buffer
  /** @internal */
  readonly blobOf: Uint32Array
  /** Where each blob begins in the data file, and as the last one where that ends. @internal */
  readonly offsets: Float64Array
  readonly #digests: Buffer
  /** Each blob's first chunk, and for each chunk the next one with the same blob, plus one; 0 for none. */
  readonly #first: Uint32Array
  readonly #next: Uint32Array

  /**
   * @param bytes - of the whole file
   * @param where - it is from, and what mends it, for the error
   * @throws StreamError `BAD_MANIFEST`
   */
  constructor(bytes: Buffer, where = 'This', mend = 'Fetch it again, or make it anew by `hypertwin stream pack`') {
    const bad = (what: string): StreamError =>
      new StreamError(`${where} is no manifest of a streamable image: ${what}. ${mend}`, { code: 'BAD_MANIFEST' })
    if (bytes.length < HEADER) throw bad(`it has ${bytes.length} bytes, and its head alone has ${HEADER}`)
    if (bytes.toString('latin1', 0, 8) !== MAGIC) throw bad('it does not begin as one')
    const version = bytes.readUInt32LE(8)
    if (version !== VERSION) throw bad(`its version is ${version}, and this program reads version ${VERSION}`)
    this.chunkSize = bytes.readUInt32LE(12)
    if (!isChunkSize(this.chunkSize)) throw bad(`${this.chunkSize} is no size of chunks`)
    const imageSize = bytes.readBigUInt64LE(16)
    if (imageSize === 0n || imageSize > BigInt(MAX_CHUNKS) * BigInt(this.chunkSize)) throw bad(`${imageSize} is no size of an image`)
    this.imageSize = Number(imageSize)
    this.chunks = Math.ceil(this.imageSize / this.chunkSize)
    this.blobs = bytes.readUInt32LE(24)
    const runs = bytes.readUInt32LE(28)
    if (this.blobs > this.chunks) throw bad('it has more stored chunks than chunks')
    if (runs === 0 || runs > this.chunks) throw bad(`it has ${runs} runs for ${this.chunks} chunks`)
    const dataSize = bytes.readBigUInt64LE(32)
    const reserved = bytes.readBigUInt64LE(40)
    if (reserved !== 0n) throw bad('a field that must be zero is not')
    const size = HEADER + RUN * runs + (4 + DIGEST) * this.blobs
    if (bytes.length !== size) throw bad(`it has ${bytes.length} bytes and not ${size}`)

    this.imageDigest = bytes.toString('hex', 48, 80)
    this.blobOf = new Uint32Array(this.chunks)
    this.#first = new Uint32Array(this.blobs)
    this.#next = new Uint32Array(this.chunks)
    let chunk = 0
    for (let run = 0; run < runs; run++) {
      const at = HEADER + RUN * run
      const count = bytes.readUInt32LE(at)
      const blob = bytes.readUInt32LE(at + 4)
      if (count === 0 || count > this.chunks - chunk) throw bad('a run goes beyond the end of the image')
      if (blob !== ZERO && (blob >= this.blobs || count > this.blobs - blob)) throw bad('a run names chunks that are not stored')
      if (blob === ZERO) this.blobOf.fill(ZERO, chunk, chunk + count)
      else for (let i = 0; i < count; i++) this.blobOf[chunk + i] = blob + i
      chunk += count
    }
    if (chunk !== this.chunks) throw bad(`its runs have ${chunk} chunks and not ${this.chunks}`)
    // From the end, so that each list is in the image's order.
    for (let i = this.chunks - 1; i >= 0; i--) {
      const blob = this.blobOf[i] as number
      if (blob === ZERO) continue
      this.#next[i] = this.#first[blob] as number
      this.#first[blob] = i + 1
    }

    this.offsets = new Float64Array(this.blobs + 1)
    const lengths = HEADER + RUN * runs
    for (let blob = 0; blob < this.blobs; blob++) {
      const length = bytes.readUInt32LE(lengths + 4 * blob)
      if (length === 0 || length > this.chunkSize) throw bad(`a stored chunk has ${length} bytes`)
      if (this.#first[blob] === 0) throw bad('a chunk is stored that no place of the image has')
      this.offsets[blob + 1] = (this.offsets[blob] as number) + length
    }
    this.dataSize = this.offsets[this.blobs] as number
    if (dataSize !== BigInt(this.dataSize)) throw bad('the lengths of its chunks do not add up')
    this.bytes = bytes
    this.#digests = bytes.subarray(lengths + 4 * this.blobs)
    this.digest = createHash('sha256').update(bytes).digest('hex')
    this.dataName = dataName(bytes.subarray(lengths))
  }

  /**
   * Writes a manifest.
   *
   * @internal
   */
  static encode(parts: ManifestParts): Buffer {
    const { blobOf, lengths } = parts
    const runs: number[] = []
    for (let chunk = 0; chunk < blobOf.length; ) {
      const blob = blobOf[chunk] as number
      let count = 1
      while (chunk + count < blobOf.length && blobOf[chunk + count] === (blob === ZERO ? ZERO : blob + count)) count++
      runs.push(count, blob)
      chunk += count
    }
    const head = Buffer.alloc(HEADER)
    head.write(MAGIC, 0, 'latin1')
    head.writeUInt32LE(VERSION, 8)
    head.writeUInt32LE(parts.chunkSize, 12)
    head.writeBigUInt64LE(BigInt(parts.imageSize), 16)
    head.writeUInt32LE(lengths.length, 24)
    head.writeUInt32LE(runs.length / 2, 28)
    head.writeBigUInt64LE(BigInt(lengths.reduce((sum, length) => sum + length, 0)), 32)
    head.set(parts.imageDigest, 48)
    return Buffer.concat([head, words(runs), words(lengths), parts.digests])
  }

  /** SHA-256 of a blob's contents. @internal */
  digestOf(blob: number): Buffer {
    return this.#digests.subarray(DIGEST * blob, DIGEST * (blob + 1))
  }

  /** The chunks that a blob is the contents of, in the image's order; there is at least one. @internal */
  *chunksOf(blob: number): IterableIterator<number> {
    for (let chunk = this.#first[blob] as number; chunk !== 0; chunk = this.#next[chunk - 1] as number) yield chunk - 1
  }

  /** The first of them. @internal */
  chunkOf(blob: number): number {
    return (this.#first[blob] as number) - 1
  }

  /** As it is stored. @internal */
  lengthOf(blob: number): number {
    return (this.offsets[blob + 1] as number) - (this.offsets[blob] as number)
  }

  /** Bytes of a chunk that lie in the image: all but for the last one. @internal */
  sizeOf(chunk: number): number {
    return Math.min(this.chunkSize, this.imageSize - chunk * this.chunkSize)
  }
}

/**
 * A data file's name comes from what is in it: where a publisher keeps the old one when a new image comes, those who
 * have begun go on.
 *
 * @param tables - the blobs' lengths and digests, as the manifest has them
 */
function dataName(tables: Uint8Array): string {
  return `${createHash('sha256').update(tables).digest('hex').slice(0, 16)}.chunks`
}

function words(values: ArrayLike<number>): Buffer {
  const buffer = Buffer.alloc(4 * values.length)
  for (let i = 0; i < values.length; i++) buffer.writeUInt32LE(values[i] as number, 4 * i)
  return buffer
}
