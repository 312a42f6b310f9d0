// Brings chunks from a source into a cache: in the order that FetchOrder says, several requests at once, as many as
// keep the link busy. What somebody waits for is asked for at once, on a connection of its own, and what is under way
// besides is bounded so that it does not stand before it for long. Each chunk is verified before anybody gets it.
//
//   missing -> under way -> verified -> in the cache
//                        -> damaged: asked for again, past any cache on the way, at most MAX_TRIES times
//                        -> not stored (no room): whoever waits gets it all the same; the rest waits for room
//   an answer fails: all of it that has not come is missing again; after a pause that grows one request tries
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { ExponentialBackoff } from 'cockatiel'
import { decodeChunk } from './codec.js'
import type { Cache } from './cache.js'
import { StreamError } from './errors.js'
import { Link } from './link.js'
import { Manifest, MANIFEST_FILE, MAX_MANIFEST_BYTES } from './manifest.js'
import { fetchClasses, FetchOrder, type FetchClass, type Run } from './order.js'
import type { Layout, Source } from './source.js'

/** Requests under way at once: for what somebody waits for, and for the rest. */
const MAX_DEMANDS = 16
const MAX_FLIGHTS = 8
/** Of one request, as stored. */
const MAX_REQUEST = 4 << 20
const MAX_DEMAND_REQUEST = 1 << 20
/** Under way at once, as stored: before the link is known, at least, at most, and where there is no link. */
const FIRST = 512 << 10
const LEAST = 64 << 10
const MOST = 64 << 20
const LOCAL = 4 << 20
/** So long after somebody had to wait, little is under way besides, in milliseconds. */
const URGENT_MS = 10_000
/**
 * Chunks that are being verified and stored; above that no more is read from the link but what somebody waits for, whose own
 * turn comes behind them: enough for the threads that do it, and no more.
 */
const MAX_WORK = 12
/** A damaged chunk is asked for so many times. */
const MAX_TRIES = 4
/** Until a chunk that kept coming damaged is tried again unasked. */
const REST_MS = 30_000
/** Between two tries of a source that fails. */
const sourceDelays = new ExponentialBackoff({ initialDelay: 200, maxDelay: 5_000 })
/** Until a cache without room is tried again. */
const roomDelays = new ExponentialBackoff({ initialDelay: 5_000, maxDelay: 120_000 })
/** At most that often the source is asked whether it still publishes the same image. */
const LOOK_MS = 5_000
/** What fails once more after that, at a source that publishes another image by now, will not come. */
const CONFIRM_MS = 500
/** A chunk with more places in the image is given to whoever waits before all of them have it. */
const MANY_PLACES = 8

/** What happened, in numbers. @internal */
export interface FetchCounts {
  /** Bytes as stored, by why they were fetched. */
  bytes: Record<FetchClass, number>
  /** Chunks that were waited for, and how long altogether, in milliseconds. */
  demands: number
  demandMs: number
  /** The longest of them. */
  longestMs: number
  requests: number
  /** Requests that failed. */
  failures: number
  /** Chunks that came with other contents than they must have. */
  corrupt: number
}

interface Waiter {
  resolve: (contents: Buffer | undefined) => void
  reject: (error: unknown) => void
  since: number
}

/** @internal */
export class Fetcher {
  readonly link = new Link()
  readonly order: FetchOrder
  /** What is wanted was found by an examination, and no start has been seen: others will be read, before and behind it. */
  isGuess = false
  readonly counts: FetchCounts = {
    bytes: Object.fromEntries(fetchClasses.map(name => [name, 0])) as Record<FetchClass, number>,
    demands: 0,
    demandMs: 0,
    longestMs: 0,
    requests: 0,
    failures: 0,
    corrupt: 0
  }
  /** Why nothing will come any more. */
  fatal: StreamError | undefined
  /** Of each blob that came: why, and when, on performance.now()'s clock. */
  readonly came: { why: Uint8Array; at: Float64Array }
  /** Told after each chunk, and when trouble comes or goes. */
  onChange: () => void = () => undefined
  readonly #manifest: Manifest
  readonly #layout: Layout
  readonly #source: Source
  readonly #cache: Cache
  /** Some of it was there before. */
  readonly #wasBegun: boolean
  readonly #waiters = new Map<number, Waiter[]>()
  readonly #tries = new Map<number, number>()
  /** Chunks that came damaged each time, and have not come well since. */
  readonly #spoilt = new Map<number, StreamError>()
  /** Why nothing comes at the moment. */
  #trouble: StreamError | undefined
  /** Chunks with many places that are being put there. */
  readonly #spreading = new Map<number, Buffer>()
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #stop = new AbortController()
  readonly #flying = new Set<Promise<void>>()
  #demandFlights = 0
  #demandedAt = -Infinity
  #flights = 0
  /** Bytes that were asked for and have not come. */
  #underWay = 0
  #work = 0
  #workDone: (() => void)[] = []
  #sourceDelay = sourceDelays.next()
  #roomDelay = roomDelays.next()
  /** After a failure: waiting, then one request tries. */
  #paused: 'no' | 'waiting' | 'trying' = 'no'
  /** Something came since the last failure: that one was a connection's, not the source's. */
  #lucky = false
  #full = false
  #lookedAt = -Infinity
  #looking: Promise<void> | undefined

  constructor(source: Source, cache: Cache, fill: boolean) {
    this.#source = source
    this.#cache = cache
    this.#wasBegun = cache.presentBytes > 0
    this.#manifest = cache.manifest
    this.#layout = source.layout?.(cache.manifest) ?? cache.manifest
    // Each request under way has one.
    setMaxListeners(0, this.#stop.signal)
    this.came = { why: new Uint8Array(cache.manifest.blobs), at: new Float64Array(cache.manifest.blobs) }
    this.order = new FetchOrder(cache.manifest, this.#layout.offsets, chunk => cache.has(chunk), fill)
  }

  /** Why nothing comes at the moment, or some of it will not; undefined when all is well. */
  get trouble(): StreamError | undefined {
    return this.#trouble ?? this.#spoilt.values().next().value
  }

  /** How many chunks somebody waits for. */
  get waiting(): number {
    return this.#waiters.size
  }

  /**
   * Waits for a chunk.
   *
   * @param signal - of this wait alone: ends it; the chunk comes all the same
   * @returns its contents when the cache has no room for it, or not all of its places have it; undefined when it is in the cache
   */
  async need(blob: number, signal?: AbortSignal): Promise<Buffer | undefined> {
    signal?.throwIfAborted()
    if (this.order.isHere(blob)) return undefined
    const spread = this.#spreading.get(blob)
    if (spread) return spread
    if (this.fatal) throw this.fatal
    return new Promise((resolve, reject) => {
      const waiter = { resolve, reject, since: performance.now() }
      signal?.addEventListener('abort', () => {
        this.#leave(blob, waiter)
        reject(signal.reason as Error)
      })
      const waiting = this.#waiters.get(blob)
      if (waiting) waiting.push(waiter)
      else this.#waiters.set(blob, [waiter])
      this.order.demand(blob)
      this.#demandedAt = waiter.since
      this.pump()
    })
  }

  /** Begins what may begin. */
  pump(): void {
    if (this.fatal || this.#stop.signal.aborted || this.#paused === 'waiting') return
    const trying = this.#paused === 'trying'
    const may = (): boolean => !trying || this.#demandFlights + this.#flights === 0
    while (this.#demandFlights < MAX_DEMANDS && may()) {
      const run = this.order.nextDemand(MAX_DEMAND_REQUEST)
      if (!run) break
      this.#launch(run)
    }
    if (this.#full) return
    const allowed = this.#allowed()
    while (this.#flights < MAX_FLIGHTS && this.#underWay < allowed && may()) {
      // Several requests share the link, so that one is always under way while another begins.
      const run = this.order.next(Math.min(MAX_REQUEST, this.#busy() / 4))
      if (!run) break
      this.#launch(run)
    }
  }

  /** Ends all; whoever waits is told so. */
  async close(): Promise<void> {
    this.#end(new StreamError('the stream is closed', { code: 'CLOSED' }))
    this.#stop.abort(this.fatal)
    for (const timer of this.#timers) clearTimeout(timer)
    await Promise.all([...this.#flying, this.#looking])
    while (this.#work > 0) await this.#oneDone()
  }

  /** Under way at once that the link is busy. */
  #busy(): number {
    return this.#source.local ? LOCAL : Math.min(MOST, Math.max(LEAST, this.link.fill ?? FIRST))
  }

  #allowed(): number {
    if (this.#source.local) return LOCAL
    // Who has waited will wait again: no queue is built before it, and what nobody has asked for leaves room. Where what is
    // needed was guessed, the first will wait too, once somebody reads: then no more is under way than fits on the link.
    const { gate, isWanting } = this.order
    const urgent = performance.now() - this.#demandedAt < URGENT_MS
    return Math.max(LEAST, this.#busy() / (urgent && !isWanting ? 4 : urgent || (this.isGuess && !gate) ? 2 : 1))
  }

  #launch(run: Run): void {
    const demanded = run.why === 'demand'
    if (demanded) this.#demandFlights++
    else this.#flights++
    const flight = this.#fly(run).finally(() => {
      this.#flying.delete(flight)
      if (demanded) this.#demandFlights--
      else this.#flights--
      if (this.#underWay === 0) this.link.idle()
      this.pump()
    })
    this.#flying.add(flight)
  }

  async #fly({ first, last, why }: Run): Promise<void> {
    const { offsets, dataName } = this.#layout
    const from = offsets[first] as number
    const to = offsets[last + 1] as number
    let at = from
    let blob = first
    this.#underWay += to - from
    this.counts.requests++
    try {
      let fresh = false
      for (let one = first; one <= last; one++) if (this.#tries.has(one)) fresh = true
      const asked = performance.now()
      this.link.busy(asked)
      const answer = await this.#source.range(dataName, from, to, this.#stop.signal, fresh)
      const answered = performance.now()
      this.link.answered(answered - asked, answered)
      let stored: Buffer | undefined
      for await (const piece of answer) {
        this.#underWay -= piece.length
        this.counts.bytes[why] += piece.length
        this.link.came(piece.length, performance.now())
        for (let used = 0; used < piece.length; ) {
          const end = offsets[blob + 1] as number
          stored ??= Buffer.allocUnsafe(end - (offsets[blob] as number))
          const count = Math.min(piece.length - used, end - at)
          piece.copy(stored, stored.length - (end - at), used, used + count)
          used += count
          at += count
          if (at === end) {
            void this.#arrived(blob++, stored, why)
            stored = undefined
          }
        }
        this.#well()
        this.pump()
        while (why !== 'demand' && this.#work > MAX_WORK) await this.#oneDone()
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#failed(error, Math.min(blob, last))
    } finally {
      this.#underWay -= to - at
      for (; blob <= last; blob++) this.#missed(blob)
    }
  }

  /** A stored chunk is verified, put into the cache, and given to whoever waits. */
  async #arrived(blob: number, stored: Buffer, why: FetchClass): Promise<void> {
    this.#work++
    try {
      const contents = await decodeChunk(stored, this.#manifest.chunkSize, this.#manifest.digestOf(blob))
      if (!contents) return this.#damaged(blob)
      this.#tries.delete(blob)
      this.#spoilt.delete(blob)
      try {
        if (this.#hasManyPlaces(blob)) {
          this.#spreading.set(blob, contents)
          this.#answer(blob, waiter => waiter.resolve(contents))
        }
        await this.#cache.store(blob, contents, this.#stop.signal)
        if (this.#stop.signal.aborted) return
      } catch (error) {
        this.#noRoom(error as StreamError)
        this.#answer(blob, waiter => waiter.resolve(contents))
        this.order.missed(blob)
        return
      }
      if (this.#trouble?.call === 'write') {
        this.#trouble = undefined
        this.#roomDelay = roomDelays.next()
      }
      this.order.here(blob)
      this.came.why[blob] = 1 + fetchClasses.indexOf(why)
      this.came.at[blob] = performance.now()
      this.#answer(blob, waiter => waiter.resolve(undefined))
    } finally {
      this.#spreading.delete(blob)
      this.#work--
      for (const done of this.#workDone.splice(0)) done()
      this.onChange()
    }
  }

  #hasManyPlaces(blob: number): boolean {
    const places = this.#manifest.chunksOf(blob)
    let count = 0
    while (count <= MANY_PLACES && places.next().done !== true) count++
    return count > MANY_PLACES
  }

  #oneDone(): Promise<void> {
    return new Promise(resolve => this.#workDone.push(resolve))
  }

  #answer(blob: number, how: (waiter: Waiter) => void): void {
    const waiters = this.#waiters.get(blob)
    if (!waiters) return
    this.#waiters.delete(blob)
    for (const waiter of waiters) {
      const ms = performance.now() - waiter.since
      this.counts.demands++
      this.counts.demandMs += ms
      this.counts.longestMs = Math.max(this.counts.longestMs, ms)
      how(waiter)
    }
  }

  #leave(blob: number, waiter: Waiter): void {
    const rest = this.#waiters.get(blob)?.filter(one => one !== waiter) ?? []
    if (rest.length > 0) this.#waiters.set(blob, rest)
    else this.#waiters.delete(blob)
  }

  #missed(blob: number): void {
    this.order.missed(blob)
    if (this.#waiters.has(blob)) this.order.demand(blob)
  }

  #damaged(blob: number): void {
    this.counts.corrupt++
    const tries = (this.#tries.get(blob) ?? 0) + 1
    this.#tries.set(blob, tries)
    this.order.rest(blob)
    const chunk = this.#manifest.chunkOf(blob)
    // Once it may have been the way; then the data may be another image's.
    if (tries > 1) this.#look(blob)
    if (tries < MAX_TRIES) return this.#later(50 * 4 ** (tries - 1), () => this.#missed(blob))
    this.#tries.delete(blob)
    const error = new StreamError(
      `Chunk ${chunk} of ${this.#source.where} came damaged ${tries} times: its publisher must put it right`,
      { code: 'CHUNK_CORRUPT' }
    )
    this.#spoilt.set(blob, error)
    this.#answer(blob, waiter => waiter.reject(this.fatal ?? error))
    this.#later(REST_MS, () => this.#missed(blob))
  }

  #noRoom(error: StreamError): void {
    this.#trouble = error
    if (this.#full) return
    this.#full = true
    this.#later(this.#roomDelay.duration, () => (this.#full = false))
    this.#roomDelay = this.#roomDelay.next(undefined)
  }

  /** A request failed, at this chunk. */
  #failed(error: unknown, blob: number): void {
    this.counts.failures++
    const known = error instanceof StreamError
    // Some of a copy that was begun has come: something on the way may answer in the server's place.
    if (known && ((error.code === 'SOURCE_NO_RANGES' && !this.#wasBegun) || error.code === 'TOOL_MISSING')) return this.#end(error)
    this.#trouble = known
      ? error
      : new StreamError(`${this.#source.where}: ${(error as Error).message}`, { code: 'SOURCE_UNREACHABLE', cause: error })
    // A file that is gone may have been replaced.
    if (known && error.code === 'SOURCE_REFUSED') this.#look(blob)
    if (this.#paused === 'no' && this.#lucky) this.#lucky = false
    else if (this.#paused !== 'waiting') {
      this.#paused = 'waiting'
      this.#later(this.#sourceDelay.duration, () => (this.#paused = 'trying'))
      this.#sourceDelay = this.#sourceDelay.next(undefined)
    }
    this.onChange()
  }

  #well(): void {
    this.#lucky = true
    if (this.#paused === 'trying') {
      this.#paused = 'no'
      this.#sourceDelay = sourceDelays.next()
    }
    // What stays is that the source publishes another image, and what ails the cache.
    if (!this.fatal && this.#trouble?.code !== 'SOURCE_CHANGED' && this.#trouble?.call !== 'write') this.#trouble = undefined
  }

  /** Tells when the source publishes another image than the cache's by now; what is to be had of that comes all the same. */
  compare(): void {
    this.#inBackground(async () => {
      if (!(await this.#publishesAnother()) || this.fatal) return
      this.#trouble = new StreamError(
        `The cache ${this.#cache.folder} is of another image than ${this.#source.where} publishes now: it goes on with that one. Stream the ` +
          "new one into another folder, or give this one's digest if it is meant",
        { code: 'SOURCE_CHANGED' }
      )
      this.onChange()
    })
  }

  /** Whether the source publishes another image by now and this chunk of the old one, which failed, is not to be had any more. */
  #look(blob: number): void {
    const now = performance.now()
    if (this.#looking || now < this.#lookedAt + LOOK_MS) return
    this.#lookedAt = now
    this.#inBackground(async () => {
      if (!(await this.#publishesAnother())) return
      // The old data may be there still, and what failed have been of the moment.
      await sleep(CONFIRM_MS, undefined, { signal: this.#stop.signal })
      if (this.order.isHere(blob) || !(await this.#isGone(blob))) return
      this.#end(
        new StreamError(
          `${this.#source.where} publishes another image now: what is in the cache ${this.#cache.folder} stays, and the rest of ` +
            'the old image cannot be had there any more. Stream the new one into another folder',
          { code: 'SOURCE_CHANGED' }
        )
      )
    })
  }

  #inBackground(look: () => Promise<void>): void {
    this.#looking = look()
      .catch(() => undefined)
      .finally(() => (this.#looking = undefined))
  }

  async #publishesAnother(): Promise<boolean> {
    // What is no manifest says nothing: it may be on its way there, or somebody else's answer.
    const bytes = await this.#source.file(MANIFEST_FILE, MAX_MANIFEST_BYTES, this.#stop.signal)
    return !bytes.equals(this.#manifest.bytes) && new Manifest(bytes).digest !== this.#manifest.digest
  }

  /** The source refuses a chunk, or has something else in its place. */
  async #isGone(blob: number): Promise<boolean> {
    const { offsets, dataName } = this.#layout
    try {
      const pieces: Buffer[] = []
      for await (const piece of await this.#source.range(dataName, offsets[blob] as number, offsets[blob + 1] as number, this.#stop.signal, true))
        pieces.push(piece)
      return !(await decodeChunk(Buffer.concat(pieces), this.#manifest.chunkSize, this.#manifest.digestOf(blob)))
    } catch (error) {
      return error instanceof StreamError && error.code === 'SOURCE_REFUSED'
    }
  }

  #end(error: StreamError): void {
    if (this.fatal) return
    this.fatal = error
    this.#trouble = error
    for (const blob of [...this.#waiters.keys()]) this.#answer(blob, waiter => waiter.reject(error))
    this.onChange()
  }

  #later(ms: number, body: () => void): void {
    if (this.#stop.signal.aborted) return
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      body()
      this.pump()
    }, ms)
    this.#timers.add(timer)
  }
}
