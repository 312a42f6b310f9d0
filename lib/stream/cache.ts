// An image's local copy, as far as it has come: a sparse file, and a map that says of each chunk whether it is there.
//
//   manifest  as it was published; the copy is one of this image and of no other
//   image     the image; what is not there yet is a hole
//   chunks    a head of 4096 bytes, then a byte for each chunk; docs/stream-format.md describes it
//   reads     how many reads there were, and how many of them waited
//   profile.json  the pack's own profile, the last that its source had; may be missing
//
// A chunk is written before its byte is, so a process that is killed at any time leaves no byte without its chunk.
// That order holds within one run of the kernel. After a power failure, which the kernel's boot id tells, each chunk
// is verified before it counts, unless the cache had been closed. Who reads the files while they grow (the nbdkit
// plugin) looks at the byte first.
import { constants } from 'node:fs'
import { access, open, readFile, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { digestOf } from './codec.js'
import { check, failed, StreamError } from './errors.js'
import { LOCK_FILE } from './lock.js'
import { Manifest, MANIFEST_FILE, MAX_MANIFEST_BYTES, PROFILE_FILE, ZERO } from './manifest.js'
import { Profile } from './profile.js'
import { Reads, READS_FILE } from './reads.js'
import { writeWhole } from './whole_file.js'

const MAGIC = 'htchunks'
const VERSION = 1
const HEAD = 4096
const CLEAN_AT = 28
const BOOT_AT = 64
const BOOT_LENGTH = 36
/** Of its files: others may not look into the image. */
const MODE = 0o600

/** Of the map: not there, there, there and all zeros (and a hole of the file). */
const MISSING = 0
const HERE = 1
const HOLE = 2

export const IMAGE_FILE = 'image'
export const MAP_FILE = 'chunks'

/** @internal */
export class Cache {
  readonly folder: string
  readonly manifest: Manifest
  /** Of chunks that are not all zeros, those that are there, in bytes. */
  presentBytes = 0
  /** Chunks that were there by the map, and were not what they should be. */
  readonly lost: number
  readonly reads: Reads
  readonly #image: FileHandle
  readonly #mapFile: FileHandle
  readonly #map: Buffer
  /** Something of it may not have reached the disk. */
  #doubtful = false
  #closing: Promise<void> | undefined

  private constructor(folder: string, manifest: Manifest, image: FileHandle, mapFile: FileHandle, map: Buffer, lost: number, reads: Reads) {
    this.folder = folder
    this.manifest = manifest
    this.#image = image
    this.#mapFile = mapFile
    this.#map = map
    this.lost = lost
    this.reads = reads
    map.forEach((byte, chunk) => {
      if (byte === HERE) this.presentBytes += manifest.sizeOf(chunk)
    })
  }

  /**
   * The manifest that a cache is of; undefined where there is no cache.
   *
   * @throws StreamError `BAD_DIGEST` when it is not the one with this digest
   */
  static async manifestIn(folder: string, digest?: string): Promise<Manifest | undefined> {
    const file = path.join(folder, MANIFEST_FILE)
    let handle: FileHandle
    try {
      handle = await open(file, 'r')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw failed(`reading ${file}`, error)
    }
    try {
      const { size } = await handle.stat()
      if (size > MAX_MANIFEST_BYTES) throw foreign(folder, `its manifest has ${size} bytes`)
      const manifest = new Manifest(await handle.readFile(), file, 'Give another folder, or remove this one if it is a local copy')
      if (digest === undefined || manifest.digest === digest) return manifest
      throw new StreamError(
        `${folder} is the copy of another image: its manifest's digest is ${manifest.digest}. Give another folder, or remove this one`,
        { code: 'BAD_DIGEST' }
      )
    } finally {
      await handle.close()
    }
  }

  /**
   * A folder may become a cache when nothing in it is somebody else's that would be written over.
   *
   * @throws StreamError `BAD_CACHE`
   */
  static async checkFree(folder: string): Promise<void> {
    for (const name of [IMAGE_FILE, MAP_FILE, READS_FILE, PROFILE_FILE]) {
      if (!(await isThere(folder, name)) || (await isThere(folder, LOCK_FILE)) || (await isThere(folder, MANIFEST_FILE))) continue
      throw new StreamError(
        `${folder} is no cache, and has a file ${name}, which would be written over: give a new or empty folder for the local copy`,
        { code: 'BAD_CACHE' }
      )
    }
  }

  /** What is there of a cache, as it is now: for each chunk 0 missing, 1 there, 2 all zeros. */
  static async mapIn(folder: string, manifest: Manifest): Promise<Uint8Array> {
    const map = await readMap(path.join(folder, MAP_FILE), manifest)
    if (!map) throw foreign(folder, (await isPack(folder, manifest)) ? 'it is a pack, no local copy' : 'it has no map')
    return map.chunks
  }

  /** The profile that a cache has kept, if any. */
  static async profileIn(folder: string): Promise<Profile | undefined> {
    return Profile.load(path.join(folder, PROFILE_FILE)).catch(() => undefined)
  }

  /** Whether all is there, and need not be verified. */
  static async isWhole(folder: string, manifest: Manifest): Promise<boolean> {
    const map = await readMap(path.join(folder, MAP_FILE), manifest)
    return map !== undefined && map.trusted && !map.chunks.includes(MISSING)
  }

  /**
   * Opens a cache, or makes one, in a folder that is there.
   *
   * @param signal - ends it, also while all that is there is verified
   */
  static async open(folder: string, manifest: Manifest, signal?: AbortSignal): Promise<Cache> {
    const before = await this.manifestIn(folder)
    if (before && before.digest !== manifest.digest)
      throw foreign(folder, `it is the copy of the image whose manifest's digest is ${before.digest}`)
    if (await isPack(folder, manifest)) throw new StreamError(`${folder} is a pack: give another folder for the local copy`, { code: 'BAD_CACHE' })
    const opened: FileHandle[] = []
    const at = (name: string): string => path.join(folder, name)
    try {
      if (!before) await writeWhole(at(MANIFEST_FILE), manifest.bytes, MODE)
      const image = await open(at(IMAGE_FILE), constants.O_RDWR | constants.O_CREAT, MODE)
      opened.push(image)
      const whole = (await image.stat()).size === manifest.imageSize
      const boot = await bootId()
      let map = whole ? await readMap(at(MAP_FILE), manifest) : undefined
      if (!map) {
        // Nothing of what it holds is known; where the image has zeros it must be a hole.
        await image.truncate(0)
        await image.truncate(manifest.imageSize)
        const bytes = Buffer.alloc(HEAD + manifest.chunks)
        bytes.set(head(manifest, boot))
        for (let chunk = 0; chunk < manifest.chunks; chunk++) if (manifest.blobOf[chunk] === ZERO) bytes[HEAD + chunk] = HOLE
        await writeWhole(at(MAP_FILE), bytes, MODE)
        map = { chunks: bytes.subarray(HEAD), trusted: true }
      }
      const mapFile = await open(at(MAP_FILE), 'r+')
      opened.push(mapFile)
      let lost = 0
      if (!map.trusted) {
        lost = await verify(image, manifest, map.chunks, signal)
        await write(mapFile, map.chunks, HEAD)
      }
      await write(mapFile, head(manifest, boot), 0)
      // That it is open must outlast a power failure before anything is stored.
      await mapFile.datasync()
      return new Cache(folder, manifest, image, mapFile, map.chunks, lost, Reads.open(folder))
    } catch (error) {
      for (const handle of opened) await handle.close()
      throw isFull(error) ? full(folder, error) : failed(`opening the cache ${folder}`, error)
    }
  }

  /** Whether a chunk is there. */
  has(chunk: number): boolean {
    return this.#map[chunk] !== MISSING
  }

  /**
   * Puts a verified chunk in each place that it has.
   *
   * @param signal - ends it between two of them, without an error
   * @throws StreamError `CACHE_FULL`; some of the places may have it then
   */
  async store(blob: number, contents: Uint8Array, signal: AbortSignal): Promise<void> {
    const { manifest } = this
    for (const chunk of manifest.chunksOf(blob)) {
      if (signal.aborted) return
      if (this.has(chunk)) continue
      try {
        await write(this.#image, contents.subarray(0, manifest.sizeOf(chunk)), chunk * manifest.chunkSize)
        await write(this.#mapFile, Uint8Array.of(HERE), HEAD + chunk)
      } catch (error) {
        throw isFull(error) ? full(this.folder, error) : failed(`writing to the cache ${this.folder}`, error)
      }
      if (this.#map[chunk] === MISSING) {
        this.#map[chunk] = HERE
        this.presentBytes += manifest.sizeOf(chunk)
      }
    }
  }

  /** A chunk that is there, as it is in the image's file: shorter at the image's end. */
  async read(chunk: number): Promise<Buffer> {
    const size = this.manifest.sizeOf(chunk)
    const { buffer, bytesRead } = await this.#image.read(Buffer.allocUnsafe(size), 0, size, chunk * this.manifest.chunkSize)
    if (bytesRead !== size) throw foreign(this.folder, 'its image has been cut')
    return buffer
  }

  /** All that is there outlasts a power failure from now on. */
  async sync(): Promise<void> {
    try {
      await this.#image.datasync()
      await this.#mapFile.datasync()
    } catch (error) {
      // The kernel tells of what it could not write once, and may forget it: nothing counts from now on until it is verified.
      this.#doubtful = true
      await write(this.#mapFile, Buffer.alloc(BOOT_LENGTH), BOOT_AT).catch(() => undefined)
      throw failed(`writing the cache ${this.folder} to its disk`, error)
    }
  }

  /** Keeps the pack's own profile for a time when its source does not answer. Where there is no room it is not kept. */
  async keepProfile(profile: Profile): Promise<void> {
    if (String(await Cache.profileIn(this.folder)) === String(profile)) return
    await writeWhole(path.join(this.folder, PROFILE_FILE), String(profile), MODE).catch(() => undefined)
  }

  /** For people, and for a picture: a byte for each chunk, 0 where it is missing. */
  map(): Uint8Array {
    return Uint8Array.from(this.#map)
  }

  /** Twice is fine. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    try {
      await this.sync()
      if (!this.#doubtful) await write(this.#mapFile, Uint8Array.of(1), CLEAN_AT)
    } finally {
      this.reads.close()
      await this.#image.close()
      await this.#mapFile.close()
    }
  }
}

function foreign(folder: string, why: string): StreamError {
  return new StreamError(`${folder} cannot be this image's cache: ${why}. Give another folder`, { code: 'BAD_CACHE' })
}

const isPack = (folder: string, manifest: Manifest): Promise<boolean> => isThere(folder, manifest.dataName)

const isThere = (folder: string, name: string): Promise<boolean> =>
  access(path.join(folder, name)).then(
    () => true,
    () => false
  )

const isFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT', 'EFBIG'].includes((error as NodeJS.ErrnoException).code ?? '')

function full(folder: string, cause: unknown): StreamError {
  const { code = '', errno, syscall } = cause as NodeJS.ErrnoException
  return new StreamError(`There is no more room for the cache ${folder} (${code}): make some, or put the cache elsewhere`, {
    code: 'CACHE_FULL',
    cause,
    ...(errno !== undefined && { errno: Math.abs(errno) }),
    ...(syscall !== undefined && { call: syscall })
  })
}

function head(manifest: Manifest, boot: string): Buffer {
  const bytes = Buffer.alloc(HEAD)
  bytes.write(MAGIC, 0, 'latin1')
  bytes.writeUInt32LE(VERSION, 8)
  bytes.writeUInt32LE(manifest.chunkSize, 12)
  bytes.writeBigUInt64LE(BigInt(manifest.imageSize), 16)
  bytes.writeUInt32LE(manifest.chunks, 24)
  bytes.write(manifest.digest, 32, 'hex')
  bytes.write(boot, BOOT_AT, BOOT_LENGTH, 'latin1')
  return bytes
}

/** A cache's map; undefined when it is none of this image, and so nothing counts as there. */
async function readMap(file: string, manifest: Manifest): Promise<{ chunks: Buffer; trusted: boolean } | undefined> {
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  if (bytes.length !== HEAD + manifest.chunks || !bytes.subarray(0, CLEAN_AT).equals(head(manifest, '').subarray(0, CLEAN_AT)) ||
      bytes.toString('hex', 32, 64) !== manifest.digest) return undefined
  const chunks = bytes.subarray(HEAD)
  for (let chunk = 0; chunk < chunks.length; chunk++) {
    const zero = manifest.blobOf[chunk] === ZERO
    if ((chunks[chunk] as number) > HOLE || (chunks[chunk] === HOLE) !== zero) return undefined
  }
  const trusted = bytes[CLEAN_AT] === 1 || bytes.toString('latin1', BOOT_AT, BOOT_AT + BOOT_LENGTH) === (await bootId())
  return { chunks, trusted }
}

/** Of the chunks that the map has, those that are not what they should be are struck off; their number. */
async function verify(image: FileHandle, manifest: Manifest, map: Buffer, signal: AbortSignal | undefined): Promise<number> {
  const contents = Buffer.alloc(manifest.chunkSize)
  let lost = 0
  for (let chunk = 0; chunk < manifest.chunks; chunk++) {
    if (map[chunk] !== HERE) continue
    check(signal)
    contents.fill(0)
    await image.read(contents, 0, manifest.sizeOf(chunk), chunk * manifest.chunkSize)
    if (digestOf(contents).equals(manifest.digestOf(manifest.blobOf[chunk] as number))) continue
    map[chunk] = MISSING
    lost++
  }
  return lost
}

async function write(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten
}

async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).slice(0, BOOT_LENGTH)
}
