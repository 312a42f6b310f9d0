// How fast memory is written, whoever measures it: hypertwin/dirty page by page, a hypervisor by its own means.

/**
 * How much memory was written in one interval.
 *
 * @since 0.1.0
 */
export interface DirtyRateSample {
  /** The interval's length. */
  milliseconds: number
  /** Dirty pages of the interval. */
  pages: number
  /** Their bytes. */
  bytes: number
  /** Bytes made dirty a second; a page counts once an interval however often it was written. */
  bytesPerSecond: number
}

/**
 * What measures how fast memory is written: a `DirtyTracker` of `hypertwin/dirty`, or a `DomainDirtyRate` of
 * `hypertwin/libvirt`.
 *
 * @since 0.1.0
 */
export interface DirtyRateSource {
  /**
   * Measures again and again.
   *
   * @param options - `intervalMs`: how long each measurement takes; `signal`: rejects with its reason
   */
  samples(options?: { intervalMs?: number; signal?: AbortSignal }): AsyncIterable<DirtyRateSample>
}
