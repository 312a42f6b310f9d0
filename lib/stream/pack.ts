// Makes a pack of an image: a manifest and a file of chunks, for any web server.
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { digestOf, encodeChunk } from './codec.js'
import { check, failed, invalid, StreamError } from './errors.js'
import { isChunkSize, Manifest, MANIFEST_FILE, MAX_CHUNKS, PROFILE_FILE, ZERO } from './manifest.js'
import type { Profile } from './profile.js'
import { runTool } from './tool.js'
import { bytesOf, noSize, type Size } from '../size.js'

/**
 * How an image is packed.
 *
 * @since 0.1.0
 */
export interface PackOptions {
  /**
   * What the image is. Default `'raw'`; `'qcow2'` and the source of an `nbd:` or `nbd+unix:` URL are read by qemu-img.
   * It is never guessed: what a guest has written could look like anything.
   */
  format?: 'raw' | 'qcow2'
  /** A power of two from 4 KiB to 1 MiB. Default 64 KiB. */
  chunkSize?: Size
  /** Of Brotli, 0 to 11: higher is smaller, and slower to pack. Default 5. */
  quality?: number
  /** What a start needs first is laid first in the data file, and the profile goes into the pack. */
  profile?: Profile
  /** Told after each few MiB. */
  onProgress?: (progress: PackProgress) => void
  /** Stops packing; nothing is left behind. */
  signal?: AbortSignal
}

/**
 * How far packing is.
 *
 * @since 0.1.0
 */
export interface PackProgress {
  /** Bytes of the image that are done. */
  done: number
  /** Bytes of the image. */
  total: number
  /** Bytes in the data file so far. */
  stored: number
}

/**
 * What a pack has become.
 *
 * @since 0.1.0
 */
export interface PackResult {
  /** The folder. */
  folder: string
  /** What it says; `manifest.digest` is what to hand to those who shall trust it. */
  manifest: Manifest
  /** Chunks of nothing but zeros, which cost nothing. */
  zeroChunks: number
  /** Chunks that are equal to another one, and stored once. */
  sharedChunks: number
}

const PIECE = 4 << 20
/** Compressed at once, in libuv's pool. */
const PARALLEL = 4

/**
 * Packs a disk image. In `folder` are afterwards `manifest`, `<name>.chunks`, and `profile.json` when one was given;
 * the manifest comes last, so that the folder may be one that is being served: an old data file stays for those who
 * still read it.
 *
 * @param image - a file, a block device, or an `nbd:` or `nbd+unix:` URL
 * @throws StreamError `BAD_IMAGE`, `TOOL_MISSING`, `TOOL_FAILED`, `EINVAL`, or errno's name
 * @since 0.1.0
 */
export async function pack(image: string, folder: string, options: PackOptions = {}): Promise<PackResult> {
  const { format = 'raw', quality = 5, signal } = options
  const chunkSize = Number(bytesOf(options.chunkSize ?? '64KiB') ?? NaN)
  if (Number.isNaN(chunkSize)) throw invalid(noSize(options.chunkSize))
  if (!isChunkSize(chunkSize)) throw invalid('chunkSize must be a power of two from 4 KiB to 1 MiB')
  if (!Number.isInteger(quality) || quality < 0 || quality > 11) throw invalid('quality must be a whole number from 0 to 11')
  if (format !== 'raw' && format !== 'qcow2') throw invalid(`${String(format)} is no format: 'raw' or 'qcow2'`)
  check(signal)
  try {
    await mkdir(folder, { recursive: true })
    const work = await mkdtemp(path.join(folder, '.pack-'))
    try {
      let source = image
      if (format !== 'raw' || /^nbd(s?|\+unix|s\+unix):/.test(image)) {
        source = path.join(work, 'raw')
        await runTool(['qemu-img', 'convert', '-f', format, '-O', 'raw', '--', image, source], { ...(signal && { signal }) })
      }
      const packer = new Packer(chunkSize, quality, options)
      const manifest = await packer.run(source, path.join(work, 'chunks'))
      await rename(path.join(work, 'chunks'), path.join(folder, manifest.dataName))
      if (options.profile) {
        await writeFile(path.join(work, PROFILE_FILE), options.profile.toString())
        await rename(path.join(work, PROFILE_FILE), path.join(folder, PROFILE_FILE))
      }
      await writeFile(path.join(work, MANIFEST_FILE), manifest.bytes)
      await rename(path.join(work, MANIFEST_FILE), path.join(folder, MANIFEST_FILE))
      return { folder, manifest, zeroChunks: packer.zeroChunks, sharedChunks: packer.sharedChunks }
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  } catch (error) {
    throw failed(`packing ${image}`, error)
  }
}

class Packer {
  zeroChunks = 0
  sharedChunks = 0
  readonly #blobs = new Map<string, number>()
  readonly #digests: Buffer[] = []
  readonly #lengths: number[] = []
  readonly #zeros: Buffer
  /** What is being compressed, in the order of the data file. */
  readonly #pending: Promise<Uint8Array>[] = []
  #stored = 0

  constructor(
    readonly chunkSize: number,
    readonly quality: number,
    readonly options: PackOptions
  ) {
    this.#zeros = Buffer.alloc(chunkSize)
  }

  async run(image: string, dataFile: string): Promise<Manifest> {
    const { chunkSize } = this
    const { signal, onProgress, profile, format = 'raw' } = this.options
    const input = await open(image, 'r')
    try {
      const imageSize = await sizeOf(input, image)
      if (imageSize > MAX_CHUNKS * chunkSize)
        throw invalid(`${image} has ${imageSize} bytes, too many for chunks of ${chunkSize}: give a larger chunkSize`)
      const start = Buffer.alloc(4)
      await input.read(start, 0, 4, 0)
      if (format === 'raw' && start.toString('latin1') === 'QFI\xfb' && this.options.format === undefined)
        throw new StreamError(`${image} looks like a qcow2 image: give the format, qcow2 or raw`, { code: 'BAD_IMAGE' })
      const blobOf = new Uint32Array(Math.ceil(imageSize / chunkSize)).fill(ZERO)
      const done = new Uint8Array(blobOf.length)
      const output = await open(dataFile, 'wx')
      try {
        for (const chunk of chunksOf(profile, chunkSize)) {
          if (chunk >= blobOf.length || done[chunk] === 1) continue
          check(signal)
          done[chunk] = 1
          blobOf[chunk] = await this.#add(await readPiece(input, chunk * chunkSize, Math.min(chunkSize, imageSize - chunk * chunkSize)), output)
        }
        const whole = createHash('sha256')
        for (let at = 0; at < imageSize; at += PIECE) {
          check(signal)
          const piece = await readPiece(input, at, Math.min(PIECE, imageSize - at))
          whole.update(piece)
          for (let offset = 0; offset < piece.length; offset += chunkSize) {
            const chunk = (at + offset) / chunkSize
            const contents = piece.subarray(offset, offset + chunkSize)
            if (done[chunk] === 0) blobOf[chunk] = await this.#add(contents, output)
          }
          onProgress?.({ done: at + piece.length, total: imageSize, stored: this.#stored })
        }
        await this.#flush(output, 0)
        await output.sync()
        return new Manifest(
          Manifest.encode({
            chunkSize,
            imageSize,
            imageDigest: whole.digest(),
            blobOf,
            lengths: Uint32Array.from(this.#lengths),
            digests: Buffer.concat(this.#digests)
          })
        )
      } finally {
        await output.close()
      }
    } finally {
      await input.close()
    }
  }

  async #add(contents: Buffer, output: FileHandle): Promise<number> {
    let whole = contents
    if (contents.length < this.chunkSize) {
      whole = Buffer.alloc(this.chunkSize)
      whole.set(contents)
    }
    if (whole.equals(this.#zeros)) {
      this.zeroChunks++
      return ZERO
    }
    const digest = digestOf(whole)
    const name = digest.toString('latin1')
    const known = this.#blobs.get(name)
    if (known !== undefined) {
      this.sharedChunks++
      return known
    }
    const blob = this.#digests.push(digest) - 1
    this.#blobs.set(name, blob)
    const work = encodeChunk(whole, this.quality)
    // Whoever awaits it later hears of a failure; until then it is nobody's.
    work.catch(() => undefined)
    this.#pending.push(work)
    await this.#flush(output, PARALLEL)
    return blob
  }

  /** Writes what is compressed, until at most so many are left. */
  async #flush(output: FileHandle, left: number): Promise<void> {
    while (this.#pending.length > left) {
      const stored = await (this.#pending.shift() as Promise<Uint8Array>)
      await output.appendFile(stored)
      this.#lengths.push(stored.length)
      this.#stored += stored.length
    }
  }
}

/** What a profile has, in its order: its own chunks may be of another size. */
function* chunksOf(profile: Profile | undefined, chunkSize: number): Generator<number> {
  if (!profile) return
  for (const { chunk } of profile.entries) {
    const from = chunk * profile.chunkSize
    for (let one = Math.floor(from / chunkSize); one * chunkSize < from + profile.chunkSize; one++) yield one
  }
}

async function sizeOf(input: FileHandle, image: string): Promise<number> {
  const stats = await input.stat()
  if (stats.isFile()) {
    if (stats.size === 0) throw new StreamError(`${image} is empty`, { code: 'BAD_IMAGE' })
    return stats.size
  }
  if (!stats.isBlockDevice()) throw new StreamError(`${image} is neither a file nor a block device`, { code: 'BAD_IMAGE' })
  // A block device's size is where reading ends.
  const probe = Buffer.alloc(1)
  let low = 0
  let high = Number.MAX_SAFE_INTEGER
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const { bytesRead } = await input.read(probe, 0, 1, middle).catch(() => ({ bytesRead: 0 }))
    if (bytesRead === 1) low = middle + 1
    else high = middle
  }
  return low
}

async function readPiece(input: FileHandle, at: number, size: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(size)
  for (let done = 0; done < size; ) {
    const { bytesRead } = await input.read(bytes, done, size - done, at + done)
    if (bytesRead === 0) throw new StreamError(`the image became shorter while it was read: it must not change`, { code: 'BAD_IMAGE' })
    done += bytesRead
  }
  return bytes
}
