// A stream: an image that can be read from the first moment on, while it comes.
import { setMaxListeners } from 'node:events'
import { mkdir } from 'node:fs/promises'
import type { Socket } from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Broadcast, keepNewest } from '../queue.js'
import type { Blocks, BlockState } from './blocks.js'
import { Cache } from './cache.js'
import { digestOf } from './codec.js'
import { askStatus, Door, knock } from './door.js'
import { check, failed, invalid, StreamError } from './errors.js'
import { Fetcher } from './fetcher.js'
import { forecast, gates, type Gate } from './gate.js'
import { FolderLock } from './lock.js'
import { Manifest, MANIFEST_FILE, MAX_MANIFEST_BYTES, PROFILE_FILE, ZERO } from './manifest.js'
import { fetchClasses, type FetchClass } from './order.js'
import { MAX_PROFILE_BYTES, MAX_PROFILE_HEAD, MAX_PROFILE_LINE, Profile, type ProfileMatch } from './profile.js'
import type { StreamProgress } from './progress.js'
import { settleLater, type Settle } from './settle.js'
import { openSource, type Source, type SourceOptions } from './source.js'

/**
 * How an image is streamed.
 *
 * @since 0.1.0
 */
export interface StreamOptions extends SourceOptions {
  /** The folder of this image's local copy; made where it is missing. What is in it already does not come again. */
  cache: string
  /** The digest that the manifest must have, in hexadecimal: then the source need not be trusted. */
  digest?: string
  /** What is needed first. Default: the pack's own profile, where it has one. `false`: none. */
  profile?: Profile | false
  /** When the start may be made. Default `'forecast'`; `'all'` goes not with `fill: false`. */
  gate?: Gate
  /** `false`: what nobody asks for and the profile does not have does not come. Default true. */
  fill?: boolean
  /** Ends the opening. */
  signal?: AbortSignal
}

/** Between two progresses that are told, and two forecasts. */
const TELL_MS = 200
const FORECAST_MS = 25
const LOCK_MS = 50

/**
 * An image that comes from a source into a local copy. It can be read at once: by {@link ImageStream.read}, or over NBD
 * by {@link NbdServer}; what is read and is not here is fetched before everything else. One process at a time streams
 * into a cache; any number read it.
 *
 * @example
 * ```ts
 * await using stream = await ImageStream.open('https://images.example.org/debian/', { cache: '/var/cache/debian' })
 * await using server = await NbdServer.start(stream.cache)
 * await stream.ready // then start QEMU on server.uri
 * ```
 *
 * @since 0.1.0
 */
export class ImageStream implements AsyncDisposable {
  /** What comes. */
  readonly manifest: Manifest
  /** Where it comes from, as it may be shown: without a password. @since 0.1.0 */
  readonly source: string
  /** The folder of the local copy; its file `image` is the image, as far as it is here. */
  readonly cache: string
  /** How the profile fits the image; undefined without a profile. */
  readonly match: ProfileMatch | undefined
  /** What is needed first; undefined without one. */
  readonly profile: Profile | undefined
  /** Settled when the start may be made; rejected when it will never be. */
  readonly ready: Promise<void>
  /** Settled when the local copy is whole and on the disk; rejected when it will never be. */
  readonly complete: Promise<void>
  readonly #cache: Cache
  readonly #source: Source
  readonly #fetcher: Fetcher
  readonly #gate: Gate
  readonly #wanted: { blobs: Uint32Array; bytes: Float64Array; atMs: Float64Array }
  #allocatedBytes = 0
  readonly #streams = new Broadcast<StreamProgress>()
  readonly #began = performance.now()
  readonly #lock: FolderLock
  #door: Door | undefined
  #isReady = false
  #isComplete = false
  #settle: { ready: Settle; complete: Settle }
  #startInMs: number | undefined
  #checkTimer: NodeJS.Timeout | undefined
  #tellTimer: NodeJS.Timeout | undefined
  #closing: Promise<void> | undefined

  private constructor(source: Source, cache: Cache, lock: FolderLock, profile: Profile | undefined, gate: Gate, fill: boolean) {
    this.manifest = cache.manifest
    this.source = source.where
    this.cache = cache.folder
    this.profile = profile
    this.match = profile?.match(this.manifest)
    this.#cache = cache
    this.#lock = lock
    this.#source = source
    this.#gate = gate
    const { manifest } = this
    const wanted = this.match?.wanted ?? []
    const seen = new Set<number>()
    const first = wanted.filter(({ chunk }) => {
      const blob = manifest.blobOf[chunk] as number
      return blob !== ZERO && !seen.has(blob) && seen.add(blob)
    })
    const blobs = Uint32Array.from(first, ({ chunk }) => manifest.blobOf[chunk] as number)
    for (let chunk = 0; chunk < manifest.chunks; chunk++)
      if (manifest.blobOf[chunk] !== ZERO) this.#allocatedBytes += manifest.sizeOf(chunk)
    this.#wanted = {
      blobs,
      bytes: Float64Array.from(blobs, blob => manifest.lengthOf(blob)),
      atMs: Float64Array.from(first, ({ atMs }) => atMs)
    }
    const ready = settleLater()
    const complete = settleLater()
    this.ready = ready.promise
    this.complete = complete.promise
    this.#settle = { ready, complete }
    this.#fetcher = new Fetcher(source, cache, fill)
    this.#fetcher.order.want(blobs)
    this.#fetcher.order.gate = gate !== 'none'
    this.#fetcher.isGuess = profile?.traces === 0
    this.#fetcher.onChange = () => this.#changed()
  }

  /**
   * Begins to stream.
   *
   * @param source - the folder or the http(s) URL of a pack, or the URI of an NBD server's export with the option `manifest`
   * @throws StreamError `EINVAL`, `BAD_MANIFEST`, `BAD_DIGEST`, `BAD_CACHE`, `IN_USE` when another process streams into
   *   this cache, `SOURCE_UNREACHABLE`, `SOURCE_REFUSED`, `CACHE_FULL`
   */
  static async open(source: string, options: StreamOptions): Promise<ImageStream> {
    const { gate = 'forecast', fill = true, profile, digest, signal } = (options ?? {}) as Partial<StreamOptions>
    if (typeof options?.cache !== 'string' || options.cache === '') throw invalid('cache must be the path of a folder')
    if (!gates.includes(gate)) throw invalid(`${String(gate)} is no gate: ${gates.join(', ')}`)
    if (gate === 'all' && !fill) throw invalid("gate 'all' waits for all of the image, and with fill false (--no-fill) not all of it comes: leave out one of the two")
    if (digest !== undefined && !/^[0-9a-f]{64}$/.test(digest)) throw invalid('digest must be 64 hexadecimal digits')
    if (profile !== undefined && profile !== false && !(profile instanceof Profile)) throw invalid('profile must be a Profile, or false')
    const folder = path.resolve(options.cache)
    const files = openSource(source, options)
    const inUse = async (): Promise<StreamError> => {
      // What that one streams must be what was asked for.
      await Cache.manifestIn(folder, digest)
      return new StreamError(`Another process streams into ${folder} already`, { code: 'IN_USE' })
    }
    let lock: FolderLock | undefined
    let cache: Cache | undefined
    let begun: ImageStream | undefined
    try {
      check(signal)
      const other = await knock(folder)
      if (other) {
        other.destroy()
        throw await inUse()
      }
      const kept = await Cache.manifestIn(folder, digest)
      const [manifest, published] = await Promise.all([
        // Where there is a copy, the source need not answer.
        kept ?? manifestAt(files, digest, signal),
        profile === undefined ? profileIn(files, signal) : undefined
      ])
      const own = await ownProfile(published, manifest, kept && folder)
      const found = own ?? (profile || undefined)
      if (!kept) await Cache.checkFree(folder)
      // Others may not look into it.
      await mkdir(folder, { recursive: true, mode: 0o700 })
      lock = await FolderLock.take(folder)
      if (!lock) throw await inUse()
      cache = await Cache.open(folder, manifest, signal)
      if (own) await cache.keepProfile(own)
      const stream = new ImageStream(files, cache, lock, found, gate, fill)
      begun = stream
      stream.#door = await Door.open(folder, {
        chunks: manifest.chunks,
        need: chunk => stream.#need(chunk),
        status: () => stream.progress()
      })
      check(signal)
      stream.#fetcher.pump()
      stream.#check()
      if (kept && digest === undefined) stream.#fetcher.compare()
      return stream
    } catch (error) {
      if (begun) await begun.close().catch(() => undefined)
      else {
        files.close()
        await cache?.close().catch(() => undefined)
        await lock?.release()
      }
      throw failed(`streaming ${files.where}`, error)
    }
  }

  /**
   * What the process that streams into a cache tells of its stream.
   *
   * @throws StreamError `NOT_RUNNING`
   */
  static async status(cache: string): Promise<StreamProgress> {
    return (await askStatus(path.resolve(cache))) as StreamProgress
  }

  /**
   * Waits until no process streams into a cache any more.
   *
   * @param signal - ends the wait
   */
  static async released(cache: string, signal?: AbortSignal): Promise<void> {
    const folder = path.resolve(cache)
    const socket: Socket | undefined = await knock(folder)
    if (!socket) {
      // One that begins, or comes to its end, has no door.
      for (signal?.throwIfAborted(); await FolderLock.isTaken(folder); signal?.throwIfAborted()) await sleep(LOCK_MS)
      return
    }
    await new Promise<void>((resolve, reject) => {
      const stop = (): void => {
        socket.destroy()
        reject(signal?.reason as Error)
      }
      if (signal?.aborted) return stop()
      signal?.addEventListener('abort', stop, { once: true })
      socket.resume()
      socket.once('close', () => {
        signal?.removeEventListener('abort', stop)
        resolve()
      })
    })
  }

  /** How far it is. */
  progress(): StreamProgress {
    const { manifest } = this
    const { order, counts, link, trouble, fatal, waiting } = this.#fetcher
    const { unchanged = 0, moved = 0, stale = 0, placed = 0 } = this.match ?? {}
    const profile = { bytes: 0, missingBytes: 0, unchanged, moved, stale, placed }
    this.#wanted.blobs.forEach((blob, i) => {
      const bytes = this.#wanted.bytes[i] as number
      profile.bytes += bytes
      if (!order.isHere(blob)) profile.missingBytes += bytes
    })
    let missing = 0
    for (let blob = 0; blob < manifest.blobs; blob++) if (!order.isHere(blob)) missing += manifest.lengthOf(blob)
    return {
      state: this.#closing ? 'closed' : fatal ? 'failed' : order.missing === 0 ? 'complete' : this.#isReady ? 'rest' : 'gate',
      imageBytes: manifest.imageSize,
      presentBytes: this.#cache.presentBytes,
      allocatedBytes: this.#allocatedBytes,
      storedBytes: manifest.dataSize,
      missingBytes: missing,
      profile,
      startInMs: this.#isReady ? 0 : this.#startInMs,
      waiting,
      fetched: { ...counts.bytes },
      reads: this.#cache.reads.counts(),
      demands: { count: counts.demands, ms: counts.demandMs, longestMs: counts.longestMs },
      requests: { count: counts.requests, failed: counts.failures },
      corrupt: counts.corrupt,
      bytesPerSecond: link.bytesPerSecond,
      roundTripMs: link.roundTripMs,
      trouble: trouble && { code: trouble.code, message: trouble.message },
      elapsedMs: performance.now() - this.#began
    }
  }

  /** From now on, beginning with what is, several times a second while something changes. */
  [Symbol.asyncIterator](): AsyncIterableIterator<StreamProgress> {
    return this.#streams.iterate({ limit: 16, onFull: keepNewest }, this.progress())
  }

  /**
   * Reads from the image; what is not here is waited for.
   *
   * @param offset - in bytes
   * @param size - in bytes; what lies beyond the image's end is left out
   * @param options - a signal that ends the wait; without one it is for ever
   * @throws StreamError `EINVAL`, `SOURCE_CHANGED`, `CHUNK_CORRUPT`, `CLOSED`; the signal's reason
   */
  async read(offset: number, size: number, options: { signal?: AbortSignal } = {}): Promise<Buffer> {
    const { signal } = options
    check(signal)
    const { chunkSize, imageSize } = this.manifest
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(size) || offset < 0 || size < 0)
      throw invalid('offset and size must be whole numbers of bytes')
    if (this.#closing) throw new StreamError('the stream is closed', { code: 'CLOSED' })
    const end = Math.min(imageSize, offset + size)
    if (offset >= end) return Buffer.alloc(0)
    const first = Math.floor(offset / chunkSize)
    const last = Math.floor((end - 1) / chunkSize)
    const begun = performance.now()
    let waitedMs = 0
    const { reads } = this.#cache
    // One listener, however many chunks there are.
    const over = new AbortController()
    const stop = (): void => over.abort(signal?.reason)
    setMaxListeners(0, over.signal)
    signal?.addEventListener('abort', stop)
    let pieces: Buffer[]
    try {
      pieces = await Promise.all(
        Array.from({ length: last - first + 1 }, async (_, i) => {
          const chunk = first + i
          let contents: Buffer | undefined
          if (!this.#isHere(chunk)) {
            contents = await this.#fetcher.need(this.manifest.blobOf[chunk] as number, over.signal)
            waitedMs = performance.now() - begun
          }
          return (contents ?? (await this.#cache.read(chunk))).subarray(0, this.manifest.sizeOf(chunk))
        })
      )
    } catch (error) {
      if (!over.signal.aborted) reads.failed()
      throw error
    } finally {
      signal?.removeEventListener('abort', stop)
    }
    reads.add(waitedMs)
    const start = offset - first * chunkSize
    return Buffer.concat(pieces).subarray(start, start + (end - offset))
  }

  /** Where each chunk is, why it came and when; for {@link blocksPicture}. */
  blocks(): Blocks {
    const { manifest } = this
    const { why, at } = this.#fetcher.came
    const atMs = new Float64Array(manifest.chunks).fill(NaN)
    const state = Array.from({ length: manifest.chunks }, (_, chunk): BlockState => {
      const blob = manifest.blobOf[chunk] as number
      if (blob === ZERO) return 'zeros'
      if (!this.#cache.has(chunk)) return 'missing'
      const code = why[blob] as number
      if (code === 0) return 'kept'
      atMs[chunk] = (at[blob] as number) - this.#began
      return fetchClasses[code - 1] as FetchClass
    })
    return { state, atMs }
  }

  /** For each chunk of the image whether it is here (not 0) or not (0). */
  map(): Uint8Array {
    return this.#cache.map()
  }

  /** What is here stays. Twice is fine. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    clearTimeout(this.#checkTimer)
    clearTimeout(this.#tellTimer)
    const closed = new StreamError('the stream is closed', { code: 'CLOSED' })
    try {
      await this.#fetcher.close()
      this.#source.close()
      await this.#cache.close()
    } finally {
      this.#settle.ready.reject(closed)
      this.#settle.complete.reject(closed)
      this.#streams.push(this.progress())
      this.#streams.end()
      // Who waits for its turn sees the door close: by then the cache is whole on disk.
      await this.#door?.close()
      await this.#lock.release()
    }
  }

  #isHere(chunk: number): boolean {
    return this.manifest.blobOf[chunk] === ZERO || this.#cache.has(chunk)
  }

  async #need(chunk: number): Promise<Buffer | undefined> {
    return this.#isHere(chunk) ? undefined : this.#fetcher.need(this.manifest.blobOf[chunk] as number)
  }

  #changed(): void {
    if (this.#closing) return
    if (!this.#isReady || (this.#fetcher.order.missing === 0 && !this.#isComplete) || this.#fetcher.fatal)
      this.#checkTimer ??= setTimeout(() => {
        this.#checkTimer = undefined
        this.#check()
      }, FORECAST_MS)
    if (this.#streams.heard)
      this.#tellTimer ??= setTimeout(() => {
        this.#tellTimer = undefined
        this.#streams.push(this.progress())
      }, TELL_MS)
  }

  /** Whether the start may be made, and whether all is here. */
  #check(): void {
    const { order, fatal } = this.#fetcher
    if (!this.#isReady && this.#mayStart()) {
      this.#isReady = true
      order.gate = false
      this.#settle.ready.resolve()
    }
    if (order.missing === 0 && !this.#isComplete) {
      this.#isComplete = true
      this.#cache.sync().then(this.#settle.complete.resolve, this.#settle.complete.reject)
    } else if (fatal && !this.#isComplete) {
      this.#settle.ready.reject(fatal)
      this.#settle.complete.reject(fatal)
    }
  }

  #mayStart(): boolean {
    const { order, link } = this.#fetcher
    const { blobs } = this.#wanted
    if (this.#gate === 'none' || order.missing === 0) return true
    if (this.#gate === 'all') return false
    if (this.#gate === 'profile') return blobs.every(blob => order.isHere(blob))
    const isHere = (i: number): boolean => order.isHere(blobs[i] as number)
    if (link.sustained === undefined) return blobs.every((_, i) => isHere(i))
    this.#startInMs = forecast(this.#wanted, isHere, link.sustained)
    return this.#startInMs === 0
  }
}

async function manifestAt(source: Source, digest: string | undefined, signal: AbortSignal | undefined): Promise<Manifest> {
  const bytes = await source.file(MANIFEST_FILE, MAX_MANIFEST_BYTES, signal)
  const given = digestOf(bytes).toString('hex')
  if (digest !== undefined && given !== digest)
    throw new StreamError(`The manifest at ${source.where} has the digest ${given}: it is not the one that was asked for`, {
      code: 'BAD_DIGEST'
    })
  return new Manifest(bytes, `What ${source.where} has as its ${MANIFEST_FILE}`)
}

/** What is there in the place of a pack's profile: nothing, or an error where that cannot be known. */
async function profileIn(source: Source, signal: AbortSignal | undefined): Promise<Buffer | Error | undefined> {
  try {
    return await source.file(PROFILE_FILE, MAX_PROFILE_BYTES, signal)
  } catch (error) {
    check(signal)
    return error instanceof StreamError && error.code === 'SOURCE_REFUSED' ? undefined : (error as Error)
  }
}

/**
 * The pack's own profile. Where the source does not tell, a copy goes on with the one that it has kept.
 *
 * @param kept - the folder of a copy that was there before
 */
async function ownProfile(published: Buffer | Error | undefined, manifest: Manifest, kept: string | undefined): Promise<Profile | undefined> {
  if (published === undefined) return undefined
  const found = published instanceof Error ? undefined : parsed(published, manifest)
  if (found) return found
  if (kept !== undefined) return Cache.profileIn(kept)
  if (published instanceof Error) throw published
  return undefined
}

/**
 * A stream goes on without one that is none. What is too long for its image is not parsed: it would fill the memory. Of
 * chunks a few bytes of manifest can have millions, but not of those that are stored.
 */
function parsed(bytes: Buffer, manifest: Manifest): Profile | undefined {
  if (bytes.length > MAX_PROFILE_HEAD + MAX_PROFILE_LINE * manifest.blobs) return undefined
  try {
    return Profile.parse(bytes.toString('utf8'))
  } catch {
    return undefined
  }
}
