// What a link can do, as learnt from the answers that come over it: the shortest round trip and the largest throughput
// of late. Of these follows how much to have under way: enough to keep it busy, and no more, since all that is under
// way stands before the next urgent request.

/** Samples of throughput that are kept. */
const SAMPLES = 12
/** A sample is at least so long, in milliseconds. */
const SAMPLE_MS = 100
/** By how much the shortest round trip is doubted each second: links do change. */
const DOUBT = 0.01
/** So much under way is never too much, in milliseconds of the link: a short trip would make every request tiny. */
const SHORT_MS = 50

/** @internal */
export class Link {
  /** All that came, as it is stored. */
  bytes = 0
  readonly #rates: number[] = []
  #trip: { ms: number; at: number } | undefined
  /** Since when something has been under way without a pause, and what has come since. */
  #busySince: number | undefined
  #inSample = 0
  /** Of all samples. */
  #sampled = { bytes: 0, ms: 0 }

  /** In milliseconds; undefined before the first answer. */
  get roundTripMs(): number | undefined {
    return this.#trip?.ms
  }

  /** Undefined before there is a sample. */
  get bytesPerSecond(): number | undefined {
    return this.#rates.length === 0 ? undefined : Math.max(...this.#rates)
  }

  /**
   * What it carried while it was kept busy: no more than all the time, and no more than of late. Bursts, which make
   * {@link bytesPerSecond}, are not in it. Undefined before there is a sample.
   */
  get sustained(): number | undefined {
    if (this.#rates.length === 0) return undefined
    const late = this.#rates.reduce((sum, rate) => sum + rate) / this.#rates.length
    return Math.min(late, (1000 * this.#sampled.bytes) / this.#sampled.ms)
  }

  /**
   * An answer has begun, so long after its request. Most of them stood in a queue of our own making: were those
   * believed, more would be put under way, and the queue would grow.
   */
  answered(ms: number, now: number): void {
    const doubted = this.#trip === undefined ? Infinity : this.#trip.ms * (1 + (DOUBT * (now - this.#trip.at)) / 1000)
    this.#trip = { ms: Math.min(ms, doubted), at: now }
  }

  /** Something has been asked for. */
  busy(now: number): void {
    this.#busySince ??= now
  }

  /** Nothing is under way. What had come is too little for a sample. */
  idle(): void {
    this.#busySince = undefined
    this.#inSample = 0
  }

  came(bytes: number, now: number): void {
    this.bytes += bytes
    this.#inSample += bytes
    if (this.#busySince === undefined) return
    const elapsed = now - this.#busySince
    if (elapsed < Math.max(SAMPLE_MS, 2 * (this.roundTripMs ?? 0))) return
    this.#rates.push((this.#inSample * 1000) / elapsed)
    if (this.#rates.length > SAMPLES) this.#rates.shift()
    this.#sampled.bytes += this.#inSample
    this.#sampled.ms += elapsed
    this.#busySince = now
    this.#inSample = 0
  }

  /** Twice what fits on the link: one half on its way here, the other asked for meanwhile. */
  get fill(): number | undefined {
    const rate = this.bytesPerSecond
    const trip = this.roundTripMs
    return rate === undefined || trip === undefined ? undefined : (rate * Math.max(SHORT_MS, 2 * trip)) / 1000
  }
}
