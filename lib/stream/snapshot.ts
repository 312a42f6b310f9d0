// A machine's snapshot that comes while machines run from it. The stream's work is done in a thread of its own: a call
// on this one may have to wait for a machine, which may be waiting for its memory.
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import type { Machine, RestoreOptions } from '../machine/index.js'
import { Broadcast, keepNewest } from '../queue.js'
import type { Blocks } from './blocks.js'
import { Cache } from './cache.js'
import { failed, invalid, StreamError } from './errors.js'
import { Manifest } from './manifest.js'
import { Profile, type Access } from './profile.js'
import type { StreamProgress } from './progress.js'
import { settleLater, type Settle } from './settle.js'
import type { FromWorker, ToldError, ToWorker, WorkerData } from './snapshot_worker.js'
import type { StreamOptions } from './stream.js'

/**
 * How a machine is restored from a snapshot that is streamed.
 *
 * @since 0.1.0
 */
export interface StreamedRestoreOptions extends Omit<RestoreOptions, 'verify'> {
  /** In which order memory is brought that the guest has not touched. Default: the stream's; without one, as it lies. */
  profile?: Profile
  /** `false`: only what the guest touches is brought, so that a trace of the machine has all of it. Default true. */
  prefetch?: boolean
  /**
   * How long a page may take that the guest waits for, in seconds; then the machine fails, with the reason `'error'`.
   * Default: for ever.
   */
  waitSeconds?: number
}

/**
 * Makes a machine from a snapshot of which a local copy comes, by whatever process streams into it
 * ({@link SnapshotStream}, {@link ImageStream}, `hypertwin stream serve`). It is paused; all but its memory has come.
 * Its memory comes while it runs: what the guest touches at once, the rest in the profile's order. Pages of zeros
 * cost nothing. When that process ends, the guest waits until another one takes its place. Where the copy is whole,
 * its file is mapped, as by `Machine.restore`. Needs userfaultfd: root, or access to /dev/userfaultfd.
 *
 * What the snapshot says of the host that it was made on does not count here: each disk, each tap and the vsock device's
 * socket must be named by `options` (`BAD_CONFIG`).
 *
 * Do not stream into the cache in this thread, as {@link ImageStream} does.
 *
 * @param cache - the copy's folder
 * @throws StreamError `EINVAL`, `BAD_CACHE`; MachineError as `Machine.restore`, and `CACHE_FULL`, `SNAPSHOT_PARENT` for
 *   an incremental snapshot
 * @since 0.1.0
 */
export async function restoreStreamed(cache: string, options: StreamedRestoreOptions = {}): Promise<Machine> {
  if (typeof cache !== 'string' || cache === '') throw invalid('cache must be the path of a folder')
  const { profile, prefetch = true, waitSeconds = 0, ...rest } = options
  if (profile !== undefined && !(profile instanceof Profile)) throw invalid('profile must be a Profile')
  if (typeof prefetch !== 'boolean') throw invalid('prefetch must be true or false')
  if (!Number.isInteger(waitSeconds) || waitSeconds < 0 || waitSeconds > 1e6) throw invalid('waitSeconds must be a whole number of seconds')
  const folder = path.resolve(cache)
  const manifest = await Cache.manifestIn(folder)
  if (!manifest) throw new StreamError(`${folder} is no image's local copy`, { code: 'BAD_CACHE' })
  const { Machine } = await import('../machine/index.js')
  if (prefetch && (await Cache.isWhole(folder, manifest))) return Machine.restoreForeign(path.join(folder, 'image'), rest)
  const chunks = prefetch && profile ? profile.match(manifest).wanted.map(({ chunk }) => chunk) : []
  return Machine.restoreForeign(folder, rest, { chunks: Uint32Array.from(chunks), all: prefetch, waitSeconds })
}

/**
 * The trace of a machine that was restored from a stream: which chunks of the snapshot's file it waited for. With
 * {@link StreamedRestoreOptions.prefetch} `false` these are all that it touched.
 *
 * @param manifest - the snapshot's
 * @returns for {@link Profile.fromTrace}; empty when its memory did not come while it ran
 * @throws MachineError `CLOSED`
 * @since 0.1.0
 */
export function memoryTrace(machine: Machine, manifest: Manifest): Access[] {
  const { chunkSize, chunks } = manifest
  const touched = machine.touchedPages()
  const begin = touched[0]?.atMs ?? 0
  const state = [0, ...lastChunks(manifest, machine.memory.size)]
  return [
    // It cannot be restored without these.
    ...state.map(chunk => ({ chunk, atMs: 0, waitedMs: 0 })),
    ...touched.map(({ page, atMs, waitedMs }) => ({ chunk: Math.floor((page + 1) * 4096 / chunkSize), atMs: atMs - begin, waitedMs }))
  ].filter(({ chunk }) => chunk < chunks)
}

/** Where what follows a snapshot's memory lies. */
function lastChunks({ chunkSize, chunks }: Manifest, memory: number): number[] {
  const first = Math.floor((4096 + memory) / chunkSize)
  return Array.from({ length: Math.max(0, chunks - first) }, (_, i) => first + i)
}

const RETRY_MS = 500
/** Of a copy that is not what it was: trying again does not help. */
const lasting: readonly string[] = ['BAD_CACHE', 'BAD_DIGEST', 'BAD_MANIFEST']
const gone = (): StreamError => new StreamError('the thread that streams has ended', { code: 'CLOSED' })

/**
 * A snapshot that comes from a pack of its file (`hypertwin stream pack`), for machines that run meanwhile.
 *
 * @example
 * ```ts
 * await using stream = await SnapshotStream.open('https://images.example.org/ready', { cache: '/var/cache/ready' })
 * await stream.ready
 * await using machine = await stream.restore({ disks: ['/var/lib/disk.raw'] })
 * await machine.resume()
 * ```
 *
 * @since 0.1.0
 */
export class SnapshotStream implements AsyncDisposable {
  /** The snapshot's file. */
  readonly manifest: Manifest
  /** Where it comes from, as it may be shown: without a password. @since 0.1.0 */
  readonly source: string
  /** The folder of the local copy; its file `image` is the snapshot, as far as it is here. */
  readonly cache: string
  /** What comes first; undefined without one. */
  readonly profile: Profile | undefined
  /** Settled when the start may be made; rejected when it will never be. */
  readonly ready: Promise<void>
  /** Settled when the local copy is whole and on the disk; rejected when it will never be. */
  readonly complete: Promise<void>
  readonly #data: WorkerData
  readonly #settle: { ready: Settle; complete: Settle }
  readonly #streams = new Broadcast<StreamProgress>()
  readonly #over = new AbortController()
  /** Who has asked for the blocks. */
  #looking: Settle<Blocks>[] = []
  #successor: Promise<void> | undefined
  #thread: Started
  /** It has ended. */
  #gone = false
  #progress: StreamProgress
  #closing: Promise<void> | undefined

  private constructor(thread: Started, data: WorkerData) {
    const { opened } = thread
    this.manifest = new Manifest(Buffer.from(opened.manifest))
    this.profile = opened.profile === undefined ? undefined : Profile.parse(opened.profile)
    this.source = opened.source
    this.cache = data.options.cache
    this.#data = data
    this.#progress = opened.progress
    this.#thread = thread
    const ready = settleLater()
    const complete = settleLater()
    this.ready = ready.promise
    this.complete = complete.promise
    this.#settle = { ready, complete }
    this.#follow()
  }

  /**
   * Begins to stream, in a thread of its own. When that ends before close(), another one takes its place; what is in the way
   * of that is in the progress' `trouble`, and where the copy is not what it was the stream has failed.
   *
   * @param source - the folder or the http(s) URL of a pack of the snapshot's file, or the URI of an NBD server's export of that
   *   file with the option `manifest`
   * @throws StreamError as {@link ImageStream.open}
   */
  static async open(source: string, options: StreamOptions): Promise<SnapshotStream> {
    const { signal, profile, ...plain } = options
    if (typeof plain.cache !== 'string' || plain.cache === '') throw invalid('cache must be the path of a folder')
    if (profile !== undefined && profile !== false && !(profile instanceof Profile)) throw invalid('profile must be a Profile, or false')
    const data: WorkerData = {
      source,
      options: { ...plain, cache: path.resolve(plain.cache) },
      profile: profile === undefined || profile === false ? profile : String(profile)
    }
    signal?.throwIfAborted()
    return new SnapshotStream(await start(data, signal), data)
  }

  /**
   * Makes a machine from the snapshot; see {@link restoreStreamed}. Any number of them, each with memory of its own.
   *
   * @throws as {@link restoreStreamed}
   */
  restore(options: StreamedRestoreOptions = {}): Promise<Machine> {
    const { profile = this.profile, prefetch = this.#data.options.fill !== false || undefined, ...rest } = options
    return restoreStreamed(this.cache, { ...rest, ...(profile && { profile }), ...(prefetch !== undefined && { prefetch }) })
  }

  /** How far it is, as it was told last. */
  progress(): StreamProgress {
    return this.#progress
  }

  /** From now on, beginning with what is, several times a second while something changes. */
  [Symbol.asyncIterator](): AsyncIterableIterator<StreamProgress> {
    return this.#streams.iterate({ limit: 16, onFull: keepNewest }, this.#progress)
  }

  /**
   * Where each chunk of the snapshot's file is, why it came and when; for {@link blocksPicture}.
   *
   * @throws StreamError `CLOSED`, also while another thread takes the place of one that has ended
   * @since 0.1.0
   */
  async blocks(): Promise<Blocks> {
    if (this.#gone) throw gone()
    const look = settleLater<Blocks>()
    this.#looking.push(look)
    tell(this.#thread.worker, 'blocks')
    return look.promise
  }

  /** What is here stays. Machines whose memory has not come wait until somebody streams into the cache again. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** For tests: as if it had ended by itself. Settled when it has. @internal */
  async endThread(): Promise<void> {
    await this.#thread.worker.terminate()
  }

  async #close(): Promise<void> {
    this.#over.abort()
    await end(this.#thread)
    // It may have ended before, and another one may be taking its place.
    await this.#successor
    const closed = new StreamError('the stream is closed', { code: 'CLOSED' })
    this.#settle.ready.reject(closed)
    this.#settle.complete.reject(closed)
    this.#tell({ ...this.#progress, state: 'closed' })
    this.#streams.end()
  }

  #tell(progress: StreamProgress): void {
    this.#progress = progress
    this.#streams.push(progress)
  }

  #follow(): void {
    this.#gone = false
    void this.#thread.ended.then(() => {
      this.#gone = true
      for (const look of this.#looking.splice(0)) look.reject(gone())
      this.#successor = this.#again()
    })
    this.#thread.follow(told => {
      if (told.type === 'progress') this.#tell(told.progress)
      else if (told.type === 'blocks') for (const look of this.#looking.splice(0)) look.resolve(told.blocks)
      else if (told.type === 'ready') settle(this.#settle.ready, told.error)
      else if (told.type === 'complete') settle(this.#settle.complete, told.error)
    })
  }

  /** After its thread has ended by itself, or was ended. What is in the way is told. */
  async #again(): Promise<void> {
    while (!this.#closing)
      try {
        // Its machines wait for this copy, and no other one.
        if (!(await Cache.manifestIn(this.cache, this.manifest.digest))) throw new StreamError(`${this.cache} is no cache any more`, { code: 'BAD_CACHE' })
        const thread = await start(this.#data, undefined)
        // It may have been closed meanwhile.
        if (this.#closing) return await end(thread)
        this.#thread = thread
        this.#tell(thread.opened.progress)
        return this.#follow()
      } catch (error) {
        if (this.#closing) return
        const { code = 'CLOSED', message } = error as StreamError
        const isOver = lasting.includes(code)
        this.#tell({ ...this.#progress, ...(isOver && { state: 'failed' }), trouble: { code, message } })
        if (isOver) {
          this.#settle.ready.reject(error)
          return this.#settle.complete.reject(error)
        }
        await sleep(RETRY_MS, undefined, { ref: false, signal: this.#over.signal }).catch(() => undefined)
      }
  }
}

interface Started {
  worker: Worker
  /** Settled when it has ended. */
  ended: Promise<void>
  opened: Extract<FromWorker, { type: 'opened' }>
  /** From the first thing on that it says. */
  follow: (hear: (told: FromWorker) => void) => void
}

/** A thread that streams. */
async function start(data: WorkerData, signal: AbortSignal | undefined): Promise<Started> {
  const file = import.meta.url.endsWith('.ts') ? './snapshot_worker.ts' : './snapshot_worker.js'
  const worker = new Worker(new URL(file, import.meta.url), { workerData: data, name: 'ht-stream' })
  const ended = new Promise<void>(resolve => worker.once('exit', () => resolve()))
  let stop: (() => void) | undefined
  const said: FromWorker[] = []
  let hear = (told: FromWorker): void => void said.push(told)
  try {
    const opened = await new Promise<Started['opened']>((resolve, reject) => {
      stop = () => reject(signal?.reason as Error)
      signal?.addEventListener('abort', stop)
      worker.on('error', reject) // it exits
      worker.once('exit', () => reject(new StreamError('the thread that streams has ended', { code: 'CLOSED' })))
      worker.on('message', (told: FromWorker) => {
        if (told.type === 'opened') resolve(told)
        else if (told.type === 'failed') reject(errorOf(told.error))
        else hear(told)
      })
    })
    const follow: Started['follow'] = next => {
      for (const told of said) next(told)
      hear = next
    }
    return { worker, ended, opened, follow }
  } catch (error) {
    await worker.terminate()
    throw failed(`streaming ${data.source}`, error)
  } finally {
    if (stop) signal?.removeEventListener('abort', stop)
  }
}

/** A thread that closes its stream first. */
async function end({ worker, ended }: Started): Promise<void> {
  tell(worker, 'close')
  const late = setTimeout(() => void worker.terminate(), 10_000)
  await ended
  clearTimeout(late)
}

function tell(worker: Worker, what: ToWorker): void {
  worker.postMessage(what)
}

function settle(which: Settle, error: ToldError | undefined): void {
  if (error) which.reject(errorOf(error))
  else which.resolve()
}

const errorOf = ({ message, ...options }: ToldError): StreamError => new StreamError(message, options)
