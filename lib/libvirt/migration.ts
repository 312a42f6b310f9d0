// A domain goes from one host to another while it runs.
import { setTimeout as sleep } from 'node:timers/promises'
import { MigrationRounds, type MigrationRound } from '../migration_round.js'
import type { Size } from '../size.js'
import { given, invalid, mebibytes, whole, day } from './checks.js'
import { Connect } from './connect.js'
import { Domain } from './domain.js'
import { lostConnection } from './lost.js'
import { LibvirtError } from './errors.js'
import {
  DomainEventSuspendedDetailType,
  DomainEventType,
  DomainGetJobStatsFlags,
  DomainJobOperation,
  DomainJobType,
  DomainMigrateFlags,
  DomainMigrateMaxSpeedFlags,
  DomainPausedReason,
  DomainState,
  ErrorNumber
} from './generated/enums.js'
import type { DomainJobStats } from './generated/params.js'
import { DomainJob, Poll } from './job.js'
import { migrateCall, type DomainMigrateOptions, type MigrateCall } from './migration_options.js'
import { progressOf, type DomainMigrationProgress } from './migration_progress.js'
import { abortOwn } from './save.js'
import type { TypedOutput } from './typed.js'

const resume = { tries: 50, delayMs: 100 }

/**
 * What a migration came to.
 *
 * @since 0.1.0
 */
export interface DomainMigrationResult {
  /** The domain at the destination; undefined where that was given as a URI. */
  domain: Domain | undefined
  /** How long it stood still (libvirt's downtime), in milliseconds, as the hypervisor says; undefined when it does not. */
  blackoutMs: number | undefined
  /** From migrate() to the end, in milliseconds. */
  totalMs: number
  /** Whether post-copy was switched to. */
  postCopy: boolean
  /** The last that was known. */
  progress: DomainMigrationProgress
  /** Each round. */
  rounds: MigrationRound[]
}

/**
 * A migration that goes on. Iterate over it for its progress: as often as libvirt is asked, and at each round.
 *
 * @since 0.1.0
 */
export class DomainMigration extends DomainJob<DomainMigrationProgress, DomainMigrationResult> {
  readonly #domain: Domain
  readonly #call: MigrateCall
  readonly #rounds = new MigrationRounds()
  readonly #begun = performance.now()
  #phase: DomainMigrationProgress['phase'] = 'connect'
  #completed: TypedOutput<DomainJobStats> | undefined
  #postCopy = false

  /** @internal */
  constructor(domain: Domain, destination: Connect | string, options: DomainMigrateOptions) {
    if (!(domain instanceof Domain)) throw invalid('migrate() needs a Domain')
    if (!(destination instanceof Connect) && (typeof destination !== 'string' || destination === ''))
      throw invalid("the destination must be a Connect, or a URI such as 'qemu+tls://host/system'")
    const call = migrateCall(options, typeof destination === 'string')
    super(progressOf({}, 'connect'), options.signal)
    this.#domain = domain
    this.#call = call
    this.#postCopy = (call.flags & DomainMigrateFlags.POSTCOPY_RESUME) !== 0
    this.begin(() => this.#run(destination))
  }

  /** The rounds so far; the last one may go on. */
  get rounds(): MigrationRound[] {
    return this.#rounds.list()
  }

  /**
   * Lets the domain move over now, with its memory after it. From then on nothing can be cancelled. Needs `postCopy`.
   *
   * @throws LibvirtError when it was not asked for, or memory is not being sent yet
   */
  async startPostCopy(): Promise<void> {
    await this.#domain.migrateStartPostCopy()
    this.#postCopy = true
  }

  /**
   * Limits how fast memory is sent, from now on.
   *
   * @param limit - bytes a second, rounded up to MiB
   */
  async setBandwidth(limit: Size): Promise<void> {
    const flags = this.#postCopy ? DomainMigrateMaxSpeedFlags.POSTCOPY : 0
    await this.#domain.migrateSetMaxSpeed(mebibytes(limit, 'the bandwidth'), flags)
  }

  /**
   * Says how long the domain may stand still (libvirt's downtime), from now on.
   *
   * @param ms - milliseconds
   */
  async setMaxBlackout(ms: number): Promise<void> {
    await this.#domain.migrateSetMaxDowntime(whole(ms, 'the blackout', 1, day))
  }

  /** @internal */
  protected override giveUp(): Promise<void> {
    return abortOwn(this.#domain, DomainJobOperation.MIGRATION_OUT)
  }

  async #run(destination: Connect | string): Promise<DomainMigrationResult> {
    await using source = await this.#domain.getConnect()
    const events = source.events(['domain.migrationIteration', 'domain.jobCompleted', 'domain.lifecycle'], {
      domain: this.#domain
    })
    // Where there are no such events, asking has to do.
    await events.ready.catch(() => undefined)
    const poll = new Poll(this.#call.intervalMs, () => this.#look())
    const listening = (async () => {
      for await (const event of events)
        if (event.kind === 'domain.jobCompleted') this.#completed = event.args.params
        else if (event.kind === 'domain.migrationIteration') poll.now()
        else if (event.kind === 'domain.lifecycle' && event.args.event === DomainEventType.SUSPENDED)
          this.#stands(event.args.detail)
    })().catch(() => undefined)
    // Without the destination the source would send all memory first, and notice then.
    const watched = destination instanceof Connect ? await this.#watchLoss(destination) : undefined
    let domain: Domain | undefined
    try {
      domain = await this.#perform(destination)
    } catch (error) {
      const found = await lostConnection('the migration', error, {
        source,
        ...(destination instanceof Connect && { destination })
      })
      throw found === error && this.#phase === 'post-copy' ? brokeOff(error) : found
    } finally {
      await poll.stop()
      await events.return()
      await listening
      await watched?.()
    }
    return await this.#result(domain)
  }

  /** Resolves with how the watch ends. */
  async #watchLoss(destination: Connect): Promise<(() => Promise<void>) | undefined> {
    try {
      const id = await destination.registerCloseCallback(() => void this.#domain.abortJob().catch(() => undefined))
      return () => destination.unregisterCloseCallback(id).catch(() => undefined)
    } catch {
      // A driver within this process has no connection that could be lost.
      return undefined
    }
  }

  async #perform(destination: Connect | string): Promise<Domain | undefined> {
    const { flags, params, maxBlackoutMs } = this.#call
    if (maxBlackoutMs !== undefined) await this.#domain.migrateSetMaxDowntime(maxBlackoutMs)
    for (let tries = 1; ; tries++)
      try {
        if (destination instanceof Connect) return await this.#domain.migrate3(destination, params, flags)
        await this.#domain.migrateToURI3(destination, params, flags)
        return undefined
      } catch (error) {
        // libvirt may know that post-copy broke off before the hypervisor of the source does, and refuses until then.
        const early = flags & DomainMigrateFlags.POSTCOPY_RESUME && numberOf(error) === ErrorNumber.OPERATION_INVALID
        if (!early || tries === resume.tries || this.cancelled || !(await this.#isBroken())) throw error
        await sleep(resume.delayMs)
      }
  }

  async #isBroken(): Promise<boolean> {
    const { state, reason } = await this.#domain.getState()
    return state === DomainState.PAUSED && reason === DomainPausedReason.POSTCOPY_FAILED
  }

  #stands(why: number): void {
    if (why === DomainEventSuspendedDetailType.MIGRATED && !this.#postCopy) this.#phase = 'stop'
    if (why === DomainEventSuspendedDetailType.POSTCOPY) {
      this.#postCopy = true
      this.#phase = 'post-copy'
    }
  }

  async #look(): Promise<void> {
    const { type, params } = await this.#domain.getJobStats()
    if (type !== DomainJobType.BOUNDED && type !== DomainJobType.UNBOUNDED) return
    if (this.#phase === 'connect' || this.#phase === 'disks')
      if (Number(params.memory_iteration ?? 0) > 0) this.#phase = this.#postCopy ? 'post-copy' : 'memory'
      else if (Number(params.disk_total ?? 0) > 0) this.#phase = 'disks'
    this.#note(progressOf(params, this.#phase))
    const after = this.#call.postCopyAfter
    if (after !== undefined && this.#phase === 'memory' && !this.#postCopy && this.progress.round > after)
      await this.startPostCopy()
  }

  #note(progress: DomainMigrationProgress): void {
    // A round's end is when libvirt knows how much was written during it.
    this.#rounds.add({ ...progress, compressedPages: 0 }, 0, progress.dirtyPagesPerSecond)
    this.tell(progress)
  }

  async #result(domain: Domain | undefined): Promise<DomainMigrationResult> {
    // The destination knows best how long it took; the source may have forgotten the domain.
    const ask = domain ?? this.#domain
    const keep = DomainGetJobStatsFlags.COMPLETED | DomainGetJobStatsFlags.KEEP_COMPLETED
    const stats = await ask.getJobStats(keep).then(
      ({ params }) => params,
      () => this.#completed
    )
    const last = stats ?? this.#completed ?? this.progress.stats
    // Of disks only the source knows.
    const { disk_total, disk_processed, disk_remaining } = this.#completed ?? this.progress.stats
    this.#note(progressOf({ ...last, ...given({ disk_total, disk_processed, disk_remaining }) }, 'done'))
    return {
      domain,
      blackoutMs: this.#postCopy && !stats?.downtime ? undefined : optional(stats?.downtime),
      totalMs: performance.now() - this.#begun,
      postCopy: this.#postCopy,
      progress: this.progress,
      rounds: this.rounds
    }
  }
}

const numberOf = (error: unknown): number | undefined => (error instanceof LibvirtError ? error.number : undefined)

function brokeOff(cause: unknown): LibvirtError {
  return new LibvirtError(
    'the migration broke off when the domain had moved and its memory had not: it is on both hosts in part. Its connection' +
      ` can be made anew: migrate(domain, destination, { postCopy: true, resumePostCopy: true }) (${(cause as Error).message})`,
    { code: 'POST_COPY_BROKEN', cause }
  )
}

const optional = (value: bigint | undefined): number | undefined => (value === undefined ? undefined : Number(value))

/**
 * Moves a domain to another host. A connection as the destination: this process leads both libvirts through it (a
 * "managed direct" migration), and when a connection of it breaks, the domain goes on at the source. A URI: the
 * source's libvirt connects to it and does it all (peer-to-peer), whatever becomes of this process.
 *
 * When {@link DomainMigration.done} rejects with `CONNECTION_LOST`, how it ended is not known here: look on both hosts.
 * With `POST_COPY_BROKEN` it is on both hosts in part, and only `resumePostCopy` gets it together again. After any
 * other error the domain is at the source as it was.
 *
 * ```ts
 * const migration = migrate(domain, destination, { autoConverge: true, postCopy: { afterRounds: 5 }, signal })
 * for await (const { round, remainingBytes, dirtyPagesPerSecond } of migration) console.log(round, remainingBytes)
 * const { blackoutMs } = await migration.done
 * ```
 *
 * @param destination - a connection to it, or its URI as the source's libvirt reaches it
 * @throws LibvirtError `EINVAL`; everything else comes by {@link DomainMigration.done}
 * @see [virDomainMigrate3](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainMigrate3),
 * [virDomainMigrateToURI3](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainMigrateToURI3)
 * @since 0.1.0; libvirt 1.1.0
 */
export function migrate(domain: Domain, destination: Connect | string, options: DomainMigrateOptions = {}): DomainMigration {
  return new DomainMigration(domain, destination, options)
}
