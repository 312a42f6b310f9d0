// The rounds of a migration, whoever makes it: hypertwin/migrate page by page, a hypervisor as far as it tells.

/**
 * One round of a migration. The last one is the stop's: then the machine stands still. Of a libvirt domain it is as exact
 * as libvirt was asked often.
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
  /** Of these: compressed. libvirt does not tell them from the ones as they are: 0. */
  compressedPages: number
  /** Of these: as a difference. */
  deltaPages: number
  /** Of disks, in units of 64 KiB, sent. */
  diskBlocks: number
  /** On the wire; of a libvirt domain: of memory and disks, sent. */
  bytes: number
  /** In milliseconds. */
  durationMs: number
  /** Pages that the guest wrote a second during it; 0 in the last one. */
  dirtyPagesPerSecond: number
}

const summed = ['pages', 'zeroPages', 'rawPages', 'compressedPages', 'deltaPages', 'diskBlocks', 'bytes'] as const

/** What has come together since the beginning, at a moment of a round. @internal */
export type RoundFigures = Record<(typeof summed)[number] | 'round' | 'elapsedMs', number>

const nothing: RoundFigures = {
  round: 0,
  pages: 0,
  zeroPages: 0,
  rawPages: 0,
  compressedPages: 0,
  deltaPages: 0,
  diskBlocks: 0,
  bytes: 0,
  elapsedMs: 0
}

/** Makes rounds of the figures that are told. @internal */
export class MigrationRounds {
  readonly #rounds: MigrationRound[] = []
  #before = nothing
  #last = nothing

  /**
   * @param written - how many pages a second the guest wrote in this round
   * @param writtenBefore - the same of the round before, where that is known only now
   */
  add(now: RoundFigures, written: number, writtenBefore?: number): void {
    if (now.round > this.#last.round) {
      this.#before = this.#last
      const ended = this.#rounds.at(-1)
      if (ended && writtenBefore !== undefined) ended.dirtyPagesPerSecond = writtenBefore
    }
    this.#last = now
    if (now.round === 0) return
    const before = this.#before
    const sums = summed.map(name => [name, Math.max(0, now[name] - before[name])])
    if (this.#rounds.at(-1)?.round === now.round) this.#rounds.pop()
    this.#rounds.push({
      round: now.round,
      ...(Object.fromEntries(sums) as Record<(typeof summed)[number], number>),
      durationMs: Math.max(0, now.elapsedMs - before.elapsedMs),
      dirtyPagesPerSecond: written
    })
  }

  list(): MigrationRound[] {
    return [...this.#rounds]
  }
}
