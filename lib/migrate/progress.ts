// How far a migration is: the figures of a moment, and those of each round.

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

/**
 * One round of a migration. The last one is the stop's: then the machine stands still.
 *
 * @since 0.1.0
 */
export interface MigrationRound {
  /** From 1. */
  round: number
  /** Pages sent. */
  pages: number
  /** Of these: nothing but zeros. */
  zeroPages: number
  /** Of these: as they are. */
  rawPages: number
  /** Of these: compressed. */
  compressedPages: number
  /** Of these: as a difference. */
  deltaPages: number
  /** Blocks of disks sent. */
  diskBlocks: number
  /** On the wire. */
  bytes: number
  /** In milliseconds. */
  durationMs: number
  /** Pages that the guest wrote a second during it; 0 in the last one. */
  dirtyPagesPerSecond: number
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

const summed = ['pages', 'zeroPages', 'rawPages', 'compressedPages', 'deltaPages', 'diskBlocks', 'bytes'] as const

/** Makes rounds of the progress that is told. @internal */
export class Rounds {
  readonly #rounds: MigrationRound[] = []
  #before: MigrationProgress = decodeProgress(noProgress)
  #last: MigrationProgress = this.#before

  add(now: MigrationProgress): void {
    if (now.round > this.#last.round) this.#before = this.#last
    this.#last = now
    if (now.round === 0) return
    const before = this.#before
    const round: MigrationRound = {
      round: now.round,
      ...(Object.fromEntries(summed.map(name => [name, now[name] - before[name]])) as Record<(typeof summed)[number], number>),
      durationMs: now.elapsedMs - before.elapsedMs,
      // A harvest comes at a round's end, and tells of the time since the one before.
      dirtyPagesPerSecond: now.phase === 'memory' ? now.dirtyPagesPerSecond : 0
    }
    if (this.#rounds.at(-1)?.round === now.round) this.#rounds.pop()
    this.#rounds.push(round)
  }

  list(): MigrationRound[] {
    return [...this.#rounds]
  }
}
