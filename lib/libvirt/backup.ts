// A backup of a running domain's disks, as of one moment, in files: whole, or what was written since a checkpoint.
import { checkDisks, day, invalid, within } from './checks.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import type { AnyEvent, DroppedEvents } from './events.js'
import { DomainBackupBeginFlags } from './generated/enums.js'
import type { DomainJobStats } from './generated/params.js'
import { DomainJob, notYet, Poll } from './job.js'
import { lostConnection } from './lost.js'
import { jobProgress, runningJob, runs, type JobProgress } from './save.js'
import { checkpointXml } from './snapshots.js'
import type { TypedOutput } from './typed.js'
import { element, xmlText, type XmlElement } from './xml.js'

/**
 * A backup to be, written by the hypervisor to files (push mode).
 *
 * @since 0.1.0
 */
export interface BackupOptions {
  /** By the target names of the disks: the files to write; the other disks are left out. */
  disks: Record<string, string | { file: string; format?: string; device?: boolean }>
  /**
   * The name of a checkpoint: only what was written since goes into the files, and their backing file is to become the
   * backup before. Default: everything.
   */
  since?: string
  /** The name of a checkpoint to begin at the same moment: the next backup can go on from there. */
  checkpoint?: string
  /** The files are there already. Default false. */
  reuse?: boolean
  /** How often libvirt is asked how far it is, in milliseconds. Default 200. */
  intervalMs?: number
  /** Gives it up, as cancel() does; `done` then rejects with the signal's reason. */
  signal?: AbortSignal
}

/**
 * A backup that goes on. It is of the moment at which it began; the domain runs on.
 *
 * @since 0.1.0
 */
export class BackupJob extends DomainJob<JobProgress, JobProgress> {
  readonly #domain: Domain
  #hasBegun = false

  /** @internal */
  constructor(domain: Domain, options: BackupOptions) {
    if (typeof options !== 'object' || options === null || Object.keys(options.disks ?? {}).length === 0)
      throw invalid("backup() needs disks: { vda: '/backup/vda.qcow2' }")
    const intervalMs = within(options.intervalMs ?? 200, 'intervalMs', 1, day)
    super(jobProgress({}), options.signal)
    this.#domain = domain
    this.begin(() => this.#run(options, intervalMs))
  }

  /** @internal */
  protected override async giveUp(): Promise<void> {
    if (!this.#hasBegun) throw notYet()
    await this.#domain.abortJob()
  }

  async #run(options: BackupOptions, intervalMs: number): Promise<JobProgress> {
    const known = (await this.#domain.describe()).disks.map(({ target }) => target)
    const xml = pushed(options, known)
    const { checkpoint } = options
    const point = checkpoint === undefined ? undefined : checkpointXml({ name: checkpoint, disks: Object.keys(options.disks) }, known)
    await using connect = await this.#domain.getConnect()
    const events = connect.events(['domain.jobCompleted', 'domain.lifecycle'], { domain: this.#domain })
    await events.ready
    let poll: Poll | undefined
    try {
      await this.#domain.backupBegin(xml, point, options.reuse ? DomainBackupBeginFlags.REUSE_EXTERNAL : 0)
      this.#hasBegun = true
      poll = new Poll(intervalMs, () => this.#look())
      const stats = await backupEnd(this.#domain, events, Object.keys(options.disks)[0] ?? '')
      await poll.stop()
      this.tell(jobProgress(stats))
      return this.progress
    } catch (error) {
      throw await lostConnection('the backup', error, { hypervisor: connect })
    } finally {
      await poll?.stop()
      await events.return()
    }
  }

  async #look(): Promise<void> {
    const now = await runningJob(this.#domain)
    if (now) this.tell(now)
  }
}

/**
 * Waits for the end of a backup that goes on; resolves with its last figures.
 *
 * @param disk - one that it is of
 * @internal
 */
export async function backupEnd(
  domain: Domain,
  events: AsyncIterable<AnyEvent | DroppedEvents>,
  disk: string
): Promise<TypedOutput<DomainJobStats>> {
  for await (const event of events)
    if (event.kind === 'domain.jobCompleted') {
      const stats = event.args.params
      // libvirt tells it before the hypervisor has let go of the files. Who asks about a block job waits for that. Where
      // there is one still, the event was that of the job before.
      if (await domain.getBlockJobInfo(disk).catch(() => undefined)) continue
      if (stats.success === false)
        throw new LibvirtError(`the backup failed${stats.errmsg === undefined ? '' : `: ${stats.errmsg}`}`, { code: 'BACKUP_FAILED' })
      return stats
    } else if (event.kind === 'domain.lifecycle' && !(await runs(domain)))
      throw new LibvirtError('the domain has ended, and with it the backup', { code: 'BACKUP_FAILED' })
  throw new LibvirtError('its events have ended before the backup', { code: 'BACKUP_FAILED' })
}

/** What libvirt is told. @param disk - one of the domain's; undefined: it is left out @internal */
export function backupXml(
  mode: 'push' | 'pull',
  since: string | undefined,
  server: XmlElement | undefined,
  known: readonly string[],
  disk: (target: string) => XmlElement | undefined
): string {
  const list = known.map(target => disk(target) ?? element('disk', { name: target, backup: 'no' }))
  const incremental = since === undefined ? undefined : element('incremental', {}, [since])
  return xmlText(element('domainbackup', { mode }, [incremental, server, element('disks', {}, list)]))
}

function pushed({ disks, since }: BackupOptions, known: readonly string[]): string {
  checkDisks(Object.keys(disks), known)
  return backupXml('push', since, undefined, known, target => {
    const to = disks[target]
    if (to === undefined) return undefined
    const { file, format = 'qcow2', device } = typeof to === 'string' ? { file: to } : to
    return element('disk', { name: target, backup: 'yes', type: device ? 'block' : 'file' }, [
      element('target', device ? { dev: file } : { file }),
      element('driver', { type: format })
    ])
  })
}
