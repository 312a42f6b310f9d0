// A domain's memory in a file: saved, and started from there.
import { setTimeout as sleep } from 'node:timers/promises'
import { day, invalid, within } from './checks.js'
import type { Connect } from './connect.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import { describeDomain } from './description.js'
import { DomainJobOperation, DomainJobType, DomainSaveRestoreFlags, ErrorNumber } from './generated/enums.js'
import type { DomainJobStats } from './generated/params.js'
import { DomainJob, notYet, Poll } from './job.js'
import { lostConnection } from './lost.js'
import type { TypedOutput } from './typed.js'

/**
 * How a domain is saved.
 *
 * @since 0.1.0
 */
export interface SaveOptions {
  /** XML to restore it with, with changes that the guest cannot see. Not of a managed save. */
  xml?: string
  /** Past the host's cache. Default false. */
  bypassCache?: boolean
  /** It is paused when it is restored: true; it runs: false. Default: as it was. */
  paused?: boolean
  /** How often libvirt is asked how far it is, in milliseconds. Default 100. */
  intervalMs?: number
  /** Gives it up, as cancel() does: the domain runs on; `done` then rejects with the signal's reason. */
  signal?: AbortSignal
}

/**
 * How a domain is restored.
 *
 * @since 0.1.0
 */
export interface RestoreOptions {
  /** XML in place of the saved one, with changes that the guest cannot see. */
  xml?: string
  /** Past the host's cache. Default false. */
  bypassCache?: boolean
  /** It is paused: true; it runs: false. Default: as it was. */
  paused?: boolean
  /** Gives it up, with its reason: the domain is off again, and the file as it was. */
  signal?: AbortSignal
}

/**
 * How far a job is that writes a domain's memory or disks.
 *
 * @since 0.1.0
 */
export interface JobProgress {
  /** Written so far. */
  bytes: number
  /** Still to be written. */
  remainingBytes: number
  /** In all; 0 while that is not known. */
  totalBytes: number
  /** Of late. */
  bytesPerSecond: number
  /** Since the beginning, in milliseconds. */
  elapsedMs: number
  /** All that libvirt says. */
  stats: TypedOutput<DomainJobStats>
}

/** @internal */
export function jobProgress(stats: TypedOutput<DomainJobStats>): JobProgress {
  const at = (value: bigint | undefined): number => Number(value ?? 0)
  const sum = (memory: bigint | undefined, disk: bigint | undefined): number => at(memory) + at(disk)
  return {
    bytes: sum(stats.memory_processed, stats.disk_processed),
    remainingBytes: sum(stats.memory_remaining, stats.disk_remaining),
    totalBytes: sum(stats.memory_total, stats.disk_total),
    bytesPerSecond: sum(stats.memory_bps, stats.disk_bps),
    elapsedMs: at(stats.time_elapsed),
    stats
  }
}

/** The progress of the running job of a domain; undefined when there is none. @internal */
export async function runningJob(domain: Domain): Promise<JobProgress | undefined> {
  const { type, params } = await domain.getJobStats()
  return type === DomainJobType.BOUNDED || type === DomainJobType.UNBOUNDED ? jobProgress(params) : undefined
}

/**
 * Gives up the running job of a domain if that is such a one: this side's own may wait in libvirt for another's end.
 *
 * @throws LibvirtError while it is not
 * @internal
 */
export async function abortOwn(domain: Domain, operation: DomainJobOperation): Promise<void> {
  const { params } = await domain.getJobStats()
  // Not every driver says what it does.
  if (params.operation !== undefined && (params.operation as DomainJobOperation) !== operation) throw notYet()
  await domain.abortJob()
}

const flagsOf = ({ bypassCache, paused }: SaveOptions): number =>
  (bypassCache ? DomainSaveRestoreFlags.BYPASS_CACHE : 0) |
  (paused === undefined ? 0 : paused ? DomainSaveRestoreFlags.PAUSED : DomainSaveRestoreFlags.RUNNING)

/**
 * A domain that is being saved.
 *
 * @since 0.1.0
 */
export class SaveJob extends DomainJob<JobProgress, JobProgress> {
  readonly #domain: Domain

  /** @param file - undefined: libvirt manages it @internal */
  constructor(domain: Domain, file: string | undefined, options: SaveOptions) {
    if (file !== undefined && (typeof file !== 'string' || file === '')) throw invalid('saveTo() needs the path of a file')
    if (file === undefined && options.xml !== undefined) throw invalid('a managed save takes no XML: use managedSaveDefineXML()')
    const intervalMs = within(options.intervalMs ?? 100, 'intervalMs', 1, day)
    super(jobProgress({}), options.signal)
    this.#domain = domain
    this.begin(() => this.#run(file, options, intervalMs))
  }

  /** @internal */
  protected override giveUp(): Promise<void> {
    return abortOwn(this.#domain, DomainJobOperation.SAVE)
  }

  async #run(file: string | undefined, options: SaveOptions, intervalMs: number): Promise<JobProgress> {
    await using connect = await this.#domain.getConnect()
    const poll = new Poll(intervalMs, async () => {
      const now = await runningJob(this.#domain)
      if (now) this.tell(now)
    })
    try {
      const flags = flagsOf(options)
      if (file === undefined) await this.#domain.managedSave(flags)
      else await this.#domain.saveFlags(file, options.xml, flags)
    } catch (error) {
      throw await lostConnection('saving', error, { hypervisor: connect })
    } finally {
      await poll.stop()
    }
    const { totalBytes } = this.progress
    this.tell({ ...this.progress, bytes: Math.max(this.progress.bytes, totalBytes - this.progress.remainingBytes), remainingBytes: 0 })
    return this.progress
  }
}

/** @internal */
export async function restore(connect: Connect, file: string, options: RestoreOptions): Promise<Domain> {
  const { xml, signal } = options
  signal?.throwIfAborted()
  const { uuid, name } = describeDomain(xml ?? (await connect.domainSaveImageGetXMLDesc(file)))
  const find = (): Promise<Domain> =>
    uuid === undefined ? connect.domainLookupByName(name) : connect.domainLookupByUUIDString(uuid)
  if (signal === undefined) {
    await connect.domainRestoreFlags(file, xml, flagsOf(options))
    return find()
  }
  // One that runs already is not what is being restored: libvirt will say so, and it must not be touched.
  const before = await isActive(find)
  signal.throwIfAborted()
  const control = { over: false }
  let givenUp: Promise<boolean> | undefined
  const abort = (): void => {
    if (!before) givenUp = giveUp(find, control)
  }
  signal.addEventListener('abort', abort, { once: true })
  try {
    await connect.domainRestoreFlags(file, xml, flagsOf(options))
  } catch (error) {
    if (givenUp) throw signal.reason
    throw error
  } finally {
    control.over = true
    signal.removeEventListener('abort', abort)
  }
  // Either it was destroyed right at its start, or it was too late for that.
  if (await givenUp) throw signal.reason
  return find()
}

/** Whether a domain runs: a transient one that has ended is not there any more. @internal */
export async function runs(domain: Domain): Promise<boolean> {
  try {
    return await domain.isActive()
  } catch (error) {
    if (isGone(error)) return false
    throw error
  }
}

/** Whether an error tells that there is no such domain. @internal */
export function isGone(error: unknown): boolean {
  return error instanceof LibvirtError && error.number === ErrorNumber.NO_DOMAIN
}

async function isActive(find: () => Promise<Domain>): Promise<boolean> {
  try {
    await using domain = await find()
    return await domain.isActive()
  } catch (error) {
    if (isGone(error)) return false
    throw error
  }
}

/** libvirt aborts no job that starts a domain, but it lets it be destroyed meanwhile. True: it was. */
async function giveUp(find: () => Promise<Domain>, control: { over: boolean }): Promise<boolean> {
  while (!control.over) {
    try {
      await using domain = await find()
      await domain.destroy()
      return true
    } catch {
      // It is not that far yet.
      await sleep(10)
    }
  }
  return false
}
