// How far a migration is.

/**
 * How far a migration is. At the destination pages and bytes are those received, and what only the source knows is 0.
 *
 * @since 0.1.0
 */
export interface MigrationProgress {
  /**
   * - `'connect'`: the two sides agree
   * - `'memory'`: rounds, while the machine runs
   * - `'stop'`: the machine stands still, the rest is sent
   * - `'commit'`: all is there; the machine changes hands
   * - `'done'`: it runs at the destination
   */
  phase: 'connect' | 'memory' | 'stop' | 'commit' | 'done'
  /** From 1; the last one is the stop's. 0 before the first. */
  round: number
  /** Pages of 4 KiB sent so far, in all rounds: one sent twice counts twice. */
  pages: number
  /** Of these: nothing but zeros. */
  zeroPages: number
  /** Of these: as they are. */
  rawPages: number
  /** Of these: compressed. */
  compressedPages: number
  /** Of these: as the difference from the last copy sent. */
  deltaPages: number
  /** Blocks of 64 KiB of disks sent so far. */
  diskBlocks: number
  /** On the wire so far, headers and all. */
  bytes: number
  /** Pages of this round that are still to be sent. */
  remainingPages: number
  /** Bytes of memory and disks that are still to be sent in this round, before compression. */
  remainingBytes: number
  /** Pages that the guest wrote a second, as of the last harvest. */
  dirtyPagesPerSecond: number
  /** On the wire, of late. */
  bytesPerSecond: number
  /** How long the machine would stand still if it stopped now, in milliseconds. */
  expectedBlackoutMs: number
  /** Since the beginning, in milliseconds. */
  elapsedMs: number
}

/** Numbers in the order of native/addon/migrate_convert.h. @internal */
export interface NativeProgress {
  phase: string
  numbers: Float64Array
}

/** @internal */
export const noProgress: NativeProgress = { phase: 'connect', numbers: new Float64Array(14) }

/** @internal */
export function decodeProgress({ phase, numbers }: NativeProgress): MigrationProgress {
  const at = (i: number): number => numbers[i] ?? 0
  return {
    phase: phase as MigrationProgress['phase'],
    round: at(0),
    pages: at(1),
    zeroPages: at(2),
    rawPages: at(3),
    compressedPages: at(4),
    deltaPages: at(5),
    diskBlocks: at(6),
    bytes: at(7),
    remainingPages: at(8),
    remainingBytes: at(9),
    dirtyPagesPerSecond: at(10),
    bytesPerSecond: at(11),
    expectedBlackoutMs: at(12),
    elapsedMs: at(13) / 1e6
  }
}
