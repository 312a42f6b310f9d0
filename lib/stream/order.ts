// What to fetch next: the chunks that somebody waits for, then those of the profile in its order, then those beside
// what was waited for, then all others. It knows which are missing and nothing of how they come.
import { ZERO, type Manifest } from './manifest.js'

/**
 * Why a chunk is fetched: somebody waits for it; the start waits for it; the profile has it; it lies behind one that
 * somebody waited for; it is missing.
 *
 * @since 0.1.0
 */
export type FetchClass = 'demand' | 'gate' | 'profile' | 'ahead' | 'fill'

/** @internal */
export const fetchClasses: readonly FetchClass[] = ['demand', 'gate', 'profile', 'ahead', 'fill']

const MISSING = 0
const FLYING = 1
const HERE = 2
/** Not now: it came damaged, and is asked for again later. */
const RESTING = 3

/** Blobs `first` to `last`, which lie one after the other in the data file. @internal */
export interface Run {
  first: number
  last: number
  why: FetchClass
}

/** How many chunks behind one that was waited for are worth having next. */
const AHEAD = 8
const MAX_AHEAD = 1024

/** @internal */
export class FetchOrder {
  /** Everything is fetched in the end. */
  readonly fill: boolean
  /** The start waits for what is wanted. */
  gate = false
  readonly #manifest: Manifest
  readonly #offsets: ArrayLike<number>
  readonly #states: Uint8Array
  readonly #demanded = new Set<number>()
  /** Blobs in the profile's order, and whether one is among them. */
  #wanted: Uint32Array = new Uint32Array(0)
  readonly #isWanted: Uint8Array
  #wantedAt = 0
  #ahead: number[] = []
  #fillAt = 0
  /** How many blobs are missing or under way. */
  missing: number

  /** @param offsets - where each blob begins at the source, and the last one ends: requests are of so many bytes */
  constructor(manifest: Manifest, offsets: ArrayLike<number>, has: (chunk: number) => boolean, fill: boolean) {
    this.#manifest = manifest
    this.#offsets = offsets
    this.fill = fill
    this.#states = new Uint8Array(manifest.blobs).fill(HERE)
    this.#isWanted = new Uint8Array(manifest.blobs)
    for (let chunk = 0; chunk < manifest.chunks; chunk++) {
      const blob = manifest.blobOf[chunk] as number
      if (blob !== ZERO && !has(chunk)) this.#states[blob] = MISSING
    }
    this.missing = this.#states.reduce((sum, state) => sum + (state === MISSING ? 1 : 0), 0)
  }

  /** Sets what is fetched before the rest, in this order; once. */
  want(blobs: Uint32Array): void {
    this.#wanted = blobs
    for (const blob of blobs) this.#isWanted[blob] = 1
  }

  /** Of what is wanted some has not been asked for. */
  get isWanting(): boolean {
    return this.#wantedAt < this.#wanted.length
  }

  isHere(blob: number): boolean {
    return this.#states[blob] === HERE
  }

  /** Somebody waits for it. One that is under way stays so. */
  demand(blob: number): void {
    if (this.#states[blob] === RESTING) this.#states[blob] = MISSING
    if (this.#states[blob] === MISSING) this.#demanded.add(blob)
    if (!this.fill) return
    const [chunk] = this.#manifest.chunksOf(blob)
    for (let i = AHEAD; i >= 1; i--) {
      const next = this.#manifest.blobOf[(chunk as number) + i]
      if (next !== undefined && next !== ZERO && this.#states[next] === MISSING) this.#ahead.push(next)
    }
    if (this.#ahead.length > MAX_AHEAD) this.#ahead = this.#ahead.slice(-MAX_AHEAD / 2)
  }

  /** The next chunks that somebody waits for, at most so many bytes, and at least one; they are under way now. */
  nextDemand(limit: number): Run | undefined {
    for (const blob of this.#demanded) return this.#take(blob, 'demand', limit, other => this.#demanded.has(other))
    return undefined
  }

  /** The next others. */
  next(limit: number): Run | undefined {
    while (this.#wantedAt < this.#wanted.length) {
      const blob = this.#wanted[this.#wantedAt] as number
      if (this.#states[blob] === MISSING)
        return this.#take(blob, this.gate ? 'gate' : 'profile', limit, other => this.#isWanted[other] === 1)
      this.#wantedAt++
    }
    if (!this.fill) return undefined
    for (let blob = this.#ahead.pop(); blob !== undefined; blob = this.#ahead.pop())
      if (this.#states[blob] === MISSING) return this.#take(blob, 'ahead', limit, other => this.#ahead.includes(other))
    while (this.#fillAt < this.#states.length) {
      if (this.#states[this.#fillAt] === MISSING) return this.#take(this.#fillAt, 'fill', limit, () => true)
      this.#fillAt++
    }
    return undefined
  }

  here(blob: number): void {
    if (this.#states[blob] !== HERE) this.missing--
    this.#states[blob] = HERE
    this.#demanded.delete(blob)
  }

  /** It did not come. */
  missed(blob: number): void {
    if (this.#states[blob] === HERE) return
    this.#states[blob] = MISSING
    this.#fillAt = Math.min(this.#fillAt, blob)
    // Few fail, and to look through the order again is quick.
    if (this.#isWanted[blob] === 1) this.#wantedAt = 0
  }

  /** It came damaged: until missed() or demand() it is not asked for again. */
  rest(blob: number): void {
    if (this.#states[blob] !== HERE) this.#states[blob] = RESTING
    this.#demanded.delete(blob)
  }

  /** The blob and what lies around it and is worth having with it, in one run. */
  #take(blob: number, why: FetchClass, limit: number, worth: (blob: number) => boolean): Run {
    const offsets = this.#offsets
    const run = { first: blob, last: blob, why }
    const fits = (first: number, last: number): boolean => (offsets[last + 1] as number) - (offsets[first] as number) <= limit
    const free = (other: number): boolean => this.#states[other] === MISSING && worth(other)
    while (run.last + 1 < this.#states.length && free(run.last + 1) && fits(run.first, run.last + 1)) run.last++
    // What somebody waits for comes first in its answer.
    if (why !== 'demand') while (run.first > 0 && free(run.first - 1) && fits(run.first - 1, run.last)) run.first--
    for (let one = run.first; one <= run.last; one++) {
      this.#states[one] = FLYING
      this.#demanded.delete(one)
    }
    return run
  }
}
