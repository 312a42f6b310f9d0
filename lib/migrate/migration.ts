// A migration from here: a machine that runs in this process goes to another.
import type { MigrationRound } from '../migration_round.js'
import { nativeHandle, type StateDigest } from '../state.js'
import { nativeMigrations, type NativeMigration } from './addon.js'
import { invalid, migrateErrors, MigrateError } from './errors.js'
import { bytesPerSecond, nativeMigrateOptions, type MigrateOptions } from './options.js'
import type { MigrationProgress } from './progress.js'
import type { Size } from '../kvm/size.js'
import { Wake, Watch, type Ear } from './watch.js'

/** Handles of machines that move now. */
const moving = new WeakSet<object>()

/**
 * A machine that can be migrated: a `Machine` of `hypertwin/machine`.
 *
 * @since 0.1.0
 */
export interface Migratable {
  /** @internal */
  readonly [nativeHandle]: object
}

/**
 * What a migration came to.
 *
 * @since 0.1.0
 */
export interface MigrationResult {
  /** 32 hexadecimal digits that name it; the destination has the same, and so has the arbiter. */
  session: string
  /** The state that was handed over; the destination's has the same. */
  digest: StateDigest
  /** How long the machine stood still (the downtime), as the source saw it, in milliseconds. */
  blackoutMs: number
  /** From migrate() to the end, in milliseconds. */
  totalMs: number
  /** Sums. */
  progress: MigrationProgress
  /** Each round. */
  rounds: MigrationRound[]
}

/**
 * A migration that goes on. Iterate over it for its progress: about 20 a second, from now on; an iteration ends with
 * the migration, however that ends, and {@link done} says how.
 *
 * @since 0.1.0
 */
export class Migration implements AsyncIterable<MigrationProgress> {
  /**
   * Its end. Rejects with a {@link MigrateError}, or the signal's reason; the machine is then as the error says.
   * A rejection that nobody awaits ends no process.
   */
  readonly done: Promise<MigrationResult>
  readonly #native: NativeMigration
  readonly #watch: Watch
  readonly #ear: Ear = { heard: () => this.#watch.hear(this.#native.take()) }
  #bandwidth: number

  /** @internal */
  constructor(machine: Migratable, address: string, options: MigrateOptions) {
    const handle = (machine as Partial<Migratable> | undefined)?.[nativeHandle]
    if (typeof handle !== 'object') throw invalid('migrate() needs a machine of hypertwin/machine')
    const settings = nativeMigrateOptions(address, options)
    const { signal } = options
    if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid('signal must be an AbortSignal')
    signal?.throwIfAborted()
    if (moving.has(handle)) throw new MigrateError('the machine is being migrated already', { code: 'BAD_STATE' })
    this.#bandwidth = settings.bandwidth
    this.#watch = new Watch(options.onStep)
    const wake = new Wake()
    wake.to(this.#ear)
    const native = migrateErrors(() => nativeMigrations.migration(wake.call))
    this.#native = native
    moving.add(handle)
    this.done = this.#run(native.run.bind(native, handle, settings), signal).finally(() => moving.delete(handle))
    this.done.catch(() => undefined)
  }

  /** How far it is. */
  get progress(): MigrationProgress {
    return this.#watch.progress
  }

  /** The rounds so far; the last one may go on. */
  get rounds(): MigrationRound[] {
    return this.#watch.rounds
  }

  /** Bytes a second that memory and disks may take; 0: no limit. Takes effect at once. */
  get bandwidth(): number {
    return this.#bandwidth
  }

  /** Also sizes such as `'50MiB'`. */
  set bandwidth(limit: Size) {
    this.#bandwidth = bytesPerSecond(limit)
    this.#native.limit(this.#bandwidth)
  }

  /**
   * Gives it up: the machine goes on here at full speed, and `done` rejects with `CANCELLED`. Once the machine's state
   * is sent, nothing can be cancelled any more: `done` then says how it ended.
   */
  cancel(): void {
    this.#native.cancel()
  }

  /** Its progress, beginning with the present one. */
  [Symbol.asyncIterator](): AsyncIterableIterator<MigrationProgress> {
    return this.#watch.iterate()
  }

  async #run(run: () => ReturnType<NativeMigration['run']>, signal: AbortSignal | undefined): Promise<MigrationResult> {
    const abort = (): void => this.cancel()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      const result = await migrateErrors(run)
      this.#watch.hear(this.#native.take())
      this.#watch.end(result.progress)
      return {
        session: result.session,
        digest: result.digest,
        blackoutMs: result.blackoutNs / 1e6,
        totalMs: result.totalNs / 1e6,
        progress: this.#watch.progress,
        rounds: this.#watch.rounds
      }
    } catch (error) {
      if (signal?.aborted && error instanceof MigrateError && error.code === 'CANCELLED') throw signal.reason
      throw error
    } finally {
      signal?.removeEventListener('abort', abort)
      this.#watch.hear(this.#native.take())
      this.#watch.end()
      // Its thread ends; there is nothing to wait for.
      void this.#native.close()
    }
  }
}

/**
 * Moves a machine to another process, on this host or another one, while it runs: pre-copy. The memory is sent in
 * rounds, each what the guest wrote during the one before; when the rest is small enough the machine stops, the rest
 * and the state follow, both sides compare digests, and the machine goes on there. Here it is then `stopped`, for reason
 * `'migrated'`. Until its state is sent the migration can be cancelled, and whatever goes wrong leaves the machine
 * running here; see {@link MigrateError} for the two cases in which it does not.
 *
 * A paused machine arrives paused.
 *
 * @param machine - runs or is paused; neither recorded nor protected
 * @param address - where {@link listen} listens: `'tcp://host:port'`, `'unix:/path'`
 * @throws MigrateError `EINVAL`, `BAD_STATE` while it is being migrated already; everything else comes by {@link Migration.done}
 *
 * @example
 * ```ts
 * const migration = migrate(machine, 'tcp://10.0.0.2:7100', { tls, arbiter, maxBlackoutMs: 50 })
 * for await (const { round, remainingPages } of migration) console.log(round, remainingPages)
 * const { blackoutMs } = await migration.done
 * ```
 *
 * @since 0.1.0
 */
export function migrate(machine: Migratable, address: string, options: MigrateOptions = {}): Migration {
  return new Migration(machine, address, options)
}
