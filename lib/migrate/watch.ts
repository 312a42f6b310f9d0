// What a migration tells while it goes on, at either side: the last progress, its rounds, and who iterates.
import { MigrationRounds, type MigrationRound } from '../migration_round.js'
import { Broadcast, keepNewest } from '../queue.js'
import type { NativeNews } from './addon.js'
import { decodeProgress, noProgress, type MigrationProgress, type NativeProgress } from './progress.js'

/** Hears that there is news. Its owner keeps it. @internal */
export interface Ear {
  heard: () => void
}

/** What the addon calls, and keeps: it does not keep the ear, nor what that belongs to. @internal */
export class Wake {
  #ear: WeakRef<Ear> | undefined
  readonly call = (): void => this.#ear?.deref()?.heard()

  /** Once. */
  to(ear: Ear): void {
    this.#ear = new WeakRef(ear)
  }
}

/** @internal */
export class Watch {
  progress: MigrationProgress = decodeProgress(noProgress)
  readonly #rounds = new MigrationRounds()
  readonly #streams = new Broadcast<MigrationProgress>()
  readonly #onStep: ((step: string) => void) | undefined
  #over = false

  constructor(onStep: ((step: string) => void) | undefined) {
    this.#onStep = onStep
  }

  get rounds(): MigrationRound[] {
    return this.#rounds.list()
  }

  hear(news: NativeNews[]): void {
    for (const one of news)
      if (typeof one === 'string') this.#onStep?.(one)
      else this.#tell(one)
  }

  /** `last`: of a migration that succeeded. */
  end(last?: NativeProgress): void {
    if (this.#over) return
    if (last) this.#tell(last)
    this.#over = true
    this.#streams.end()
  }

  /** From now on, beginning with what is. When nobody takes it for long, all but the newest are dropped. */
  iterate(): AsyncIterableIterator<MigrationProgress> {
    return this.#streams.iterate({ limit: 256, onFull: keepNewest }, this.progress)
  }

  #tell(native: NativeProgress): void {
    this.progress = decodeProgress(native)
    // A harvest comes at a round's end, and tells of the time since the one before.
    const { phase, dirtyPagesPerSecond } = this.progress
    this.#rounds.add(this.progress, phase === 'memory' ? dirtyPagesPerSecond : 0)
    this.#streams.push(this.progress)
  }
}
