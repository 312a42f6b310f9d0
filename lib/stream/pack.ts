// Makes a pack of an image: a manifest and a file of chunks, for any web server.
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, mkdir, mkdtemp, open, readdir, rename, rm, writeFile, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { digestOf, encodeChunk } from './codec.js'
import { check, failed, invalid, StreamError } from './errors.js'
import { tryLock } from './lock.js'
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
   * It is never guessed: what a guest has written could look like anything. A qcow2 image must be whole in itself: one
   * that names a backing file or a data file, which could be any file of this host, is refused.
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
  /** Stops packing; nothing is left behind. What a pack that was killed has left is removed by the next one into its folder. */
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
const NBD = /^nbd(s?|\+unix|s\+unix):/
/** What mkdtemp makes of it. */
const WORK = '.pack-'
const WORKS = /^\.pack-\w{6}$/
/** Of qcow2's header. */
const QCOW2_MAGIC = 'QFI\xfb'
const QCOW2_HEAD = 80
const QCOW2_DATA_FILE = 4

/**
 * Packs a disk image. In `folder` are afterwards `manifest`, `<name>.chunks`, and `profile.json` when one was given;
 * the manifest comes last, so that the folder may be one that is being served: an old data file stays for those who
 * still read it. A power failure leaves the pack that was there, or the whole new one.
 *
 * The image must not change meanwhile.
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
    await using work = await Work.begin(folder)
    const convert = (from: 'raw' | 'qcow2', source: string, to: string): Promise<string> =>
      runTool(['qemu-img', 'convert', '-f', from, '-O', 'raw', '--', source, to], { ...(signal && { signal }) })
    // qemu-img takes what stands before a colon for a protocol, but not in an absolute path.
    let source = path.resolve(image)
    if (NBD.test(image)) {
      source = work.at('export')
      await convert('raw', image, source)
    }
    if (format === 'qcow2') {
      const flat = work.at('raw')
      await unchanged(source, async input => {
        await checkAlone(input, image)
        await convert('qcow2', source, flat)
      })
      source = flat
    }
    const packer = new Packer(chunkSize, quality, options)
    const manifest = await unchanged(source, input => packer.run(input, image, work.at('chunks')))
    await rename(work.at('chunks'), path.join(folder, manifest.dataName))
    if (options.profile) {
      await writeFile(work.at(PROFILE_FILE), options.profile.toString(), { flush: true })
      await rename(work.at(PROFILE_FILE), path.join(folder, PROFILE_FILE))
    }
    await writeFile(work.at(MANIFEST_FILE), manifest.bytes, { flush: true })
    // What it names must outlast a power failure before it takes its place.
    await syncFolder(folder)
    await rename(work.at(MANIFEST_FILE), path.join(folder, MANIFEST_FILE))
    await syncFolder(folder)
    return { folder, manifest, zeroChunks: packer.zeroChunks, sharedChunks: packer.sharedChunks }
  } catch (error) {
    throw failed(`packing ${image}`, error)
  }
}

/** A folder inside of the pack's, from where what is ready moves to its place. It is locked as long as its process lives. */
class Work implements AsyncDisposable {
  private constructor(
    readonly folder: string,
    readonly lock: FileHandle
  ) {}

  /** Removes what killed ones have left, too. */
  static async begin(folder: string): Promise<Work> {
    for (const name of await readdir(folder)) {
      if (!WORKS.test(name)) continue
      const left = await this.#take(path.join(folder, name)).catch(() => undefined)
      await left?.[Symbol.asyncDispose]().catch(() => undefined)
    }
    for (;;) {
      const made = await mkdtemp(path.join(folder, WORK))
      // Before it was locked another one may have taken it for left.
      const work = await this.#take(made, true)
      if (work) return work
    }
  }

  /**
   * Undefined when somebody has it, or has removed it.
   *
   * @param isOwn - where folders cannot be locked (NFS), nobody else takes it either
   */
  static async #take(folder: string, isOwn = false): Promise<Work | undefined> {
    let lock: FileHandle
    try {
      lock = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
    try {
      if (tryLock(lock.fd)) {
        await access(folder)
        return new Work(folder, lock)
      }
    } catch (error) {
      if (isOwn && (error as NodeJS.ErrnoException).code !== 'ENOENT') return new Work(folder, lock)
    }
    await lock.close()
    return undefined
  }

  at(name: string): string {
    return path.join(this.folder, name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await rm(this.folder, { recursive: true, force: true })
    } finally {
      await this.lock.close()
    }
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** What is made of an image that did not change meanwhile, as far as its file tells. */
async function unchanged<T>(image: string, body: (input: FileHandle) => Promise<T>): Promise<T> {
  // A FIFO in its place must not hang this.
  const input = await open(image, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const before = await input.stat({ bigint: true })
    if (!before.isFile() && !before.isBlockDevice())
      throw new StreamError(`${image} is neither a file nor a block device`, { code: 'BAD_IMAGE' })
    const made = await body(input)
    const after = await input.stat({ bigint: true })
    // The times of a block device are those of its node.
    if (before.isFile() && (before.size !== after.size || before.mtimeNs !== after.mtimeNs || before.ctimeNs !== after.ctimeNs)) throw changed()
    return made
  } finally {
    await input.close()
  }
}

function changed(): StreamError {
  return new StreamError('the image changed while it was read: it must not be in use', { code: 'BAD_IMAGE' })
}

/** A qcow2 image may name files of this host, or what is to be had over the network, which qemu-img would read in its place. */
async function checkAlone(input: FileHandle, image: string): Promise<void> {
  const head = Buffer.alloc(QCOW2_HEAD)
  await input.read(head, 0, QCOW2_HEAD, 0)
  if (head.toString('latin1', 0, 4) !== QCOW2_MAGIC) return
  const named =
    head.readBigUInt64BE(8) !== 0n
      ? 'backing file'
      : head.readUInt32BE(4) >= 3 && (head.readUInt32BE(76) & QCOW2_DATA_FILE) !== 0
        ? 'data file'
        : undefined
  if (named === undefined) return
  throw new StreamError(
    `${image} is not whole in itself: it names a ${named}. Where that is the right one, pack what \`qemu-img convert -f qcow2 -O raw\` makes of it`,
    { code: 'BAD_IMAGE' }
  )
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

  async run(input: FileHandle, image: string, dataFile: string): Promise<Manifest> {
    const { chunkSize } = this
    const { signal, onProgress, profile, format = 'raw' } = this.options
    const imageSize = await sizeOf(input, image)
    if (imageSize > MAX_CHUNKS * chunkSize)
      throw invalid(`${image} has ${imageSize} bytes, too many for chunks of ${chunkSize}: give a larger chunkSize`)
    const start = Buffer.alloc(4)
    await input.read(start, 0, 4, 0)
    if (format === 'raw' && start.toString('latin1') === QCOW2_MAGIC && this.options.format === undefined)
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
          else if (!this.#isOf(blobOf[chunk] as number, contents)) throw changed()
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
  }

  async #add(contents: Buffer, output: FileHandle): Promise<number> {
    const whole = this.#filled(contents)
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

  /** Whether a chunk that has been read before is the same. */
  #isOf(blob: number, contents: Buffer): boolean {
    const whole = this.#filled(contents)
    return blob === ZERO ? whole.equals(this.#zeros) : digestOf(whole).equals(this.#digests[blob] as Buffer)
  }

  /** The image's last one is shorter. */
  #filled(contents: Buffer): Buffer {
    if (contents.length === this.chunkSize) return contents
    const whole = Buffer.alloc(this.chunkSize)
    whole.set(contents)
    return whole
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
    if (bytesRead === 0) throw changed()
    done += bytesRead
  }
  return bytes
}
