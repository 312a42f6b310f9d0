// Figures of a series of harvests: rate, working set, how soon pages are written again.
import type { DirtyRateSample } from '../dirty_rate.js'
import { invalid } from './errors.js'
import { pageRuns, type DirtyHarvest } from './harvest.js'

/**
 * The figures of one interval.
 *
 * @since 0.1.0
 */
export interface DirtySample extends DirtyRateSample {
  /** What it is about. */
  harvest: DirtyHarvest
  /** Different pages written since the first sample. */
  uniquePages: number
  /** Different pages written in the last `window` intervals: the working set of writes. */
  workingSetPages: number
  /** The same with old intervals fading out: a page written `age` intervals ago counts `decay ** age`. */
  decayedWorkingSetPages: number
  /**
   * How many of this interval's pages were last written 1, 2, 3 to 4, 5 to 8, … intervals ago; the last entry counts
   * those that are written for the first time.
   */
  redirtied: number[]
}

const buckets = 16

/**
 * Turns harvests into figures. Costs 4 bytes of memory a tracked page, and time for each dirty page.
 *
 * @since 0.1.0
 */
export class DirtyStats {
  readonly #window: number
  readonly #decay: number
  /** By slot: in which interval a page was last written; 0 never. */
  readonly #last = new Map<number, Uint32Array>()
  /** How many pages were last written in interval i, at i modulo the window. */
  readonly #recent: number[]
  #interval = 0
  #unique = 0
  #decayed = 0

  /**
   * @param options - `window`: intervals that make up the working set (default 8); `decay`: what an interval's
   * passing leaves of a page's weight, above 0 and below 1 (default 0.8)
   * @throws DirtyError `EINVAL`
   */
  constructor(options: { window?: number; decay?: number } = {}) {
    this.#window = options.window ?? 8
    this.#decay = options.decay ?? 0.8
    if (!Number.isInteger(this.#window) || this.#window < 1) throw invalid('window must be a whole number of intervals')
    if (!(this.#decay > 0 && this.#decay < 1)) throw invalid('decay must lie between 0 and 1')
    this.#recent = new Array<number>(this.#window).fill(0)
  }

  /** Takes the next harvest in. */
  add(harvest: DirtyHarvest): DirtySample {
    const now = ++this.#interval
    const slot = now % this.#window
    this.#recent[slot] = 0
    const redirtied = new Array<number>(buckets).fill(0)
    const bump = (bucket: number): void => {
      redirtied[bucket] = (redirtied[bucket] ?? 0) + 1
    }
    let fading = 0
    for (const { slot: number, pageCount, bitmap } of harvest.slots) {
      let last = this.#last.get(number)
      if (last?.length !== pageCount) this.#last.set(number, (last = new Uint32Array(pageCount)))
      for (const { first, count } of pageRuns(bitmap))
        for (let page = first; page < first + count; page++) {
          const before = last[page] as number
          last[page] = now
          if (before === 0) {
            this.#unique++
            bump(buckets - 1)
            continue
          }
          const age = now - before
          bump(Math.min(32 - Math.clz32(age - 1), buckets - 2))
          fading += this.#decay ** age
          if (age < this.#window) this.#recent[before % this.#window] = (this.#recent[before % this.#window] ?? 0) - 1
        }
    }
    this.#recent[slot] = harvest.pages
    this.#decayed = Math.max(0, this.#decayed * this.#decay - fading) + harvest.pages
    const milliseconds = harvest.endedAt - harvest.startedAt
    return {
      harvest,
      milliseconds,
      pages: harvest.pages,
      bytes: harvest.bytes,
      bytesPerSecond: milliseconds > 0 ? (harvest.bytes * 1000) / milliseconds : 0,
      uniquePages: this.#unique,
      workingSetPages: this.#recent.reduce((sum, pages) => sum + pages, 0),
      decayedWorkingSetPages: this.#decayed,
      redirtied
    }
  }
}
