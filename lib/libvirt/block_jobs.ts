// Block jobs of a running domain: its disks' images are merged, or copied, while it uses them.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Size } from '../size.js'
import { bytes, day, given, invalid, oneOf, within } from './checks.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import {
  ConnectDomainEventBlockJobStatus as Status,
  DomainBlockCommitFlags,
  DomainBlockCopyFlags,
  DomainBlockJobAbortFlags,
  DomainBlockJobInfoFlags,
  DomainBlockJobSetSpeedFlags,
  DomainBlockJobType,
  DomainBlockRebaseFlags,
  ErrorNumber
} from './generated/enums.js'
import type { DomainBlockCopyParams } from './generated/params.js'
import { DomainJob, notYet, Poll } from './job.js'
import { lostConnection } from './lost.js'
import type { TypedInput } from './typed.js'
import { element, xmlText } from './xml.js'

/**
 * How far a block job is.
 *
 * @since 0.1.0
 */
export interface BlockJobProgress {
  /** What it does; `UNKNOWN` before libvirt has told. */
  type: DomainBlockJobType
  /** What is done, in a unit of the hypervisor's, usually bytes. */
  current: bigint
  /** What is to be done; it grows when the guest writes. */
  end: bigint
  /** The share that is done, 0 to 1. */
  share: number
  /** The limit in bytes a second; 0: none. */
  bandwidth: bigint
  /** Both sides are the same, and every write goes to both. */
  ready: boolean
}

/**
 * What all block jobs are told.
 *
 * @since 0.1.0
 */
export interface BlockJobOptions {
  /** Bytes a second. Default: no limit. */
  bandwidth?: Size
  /** How often libvirt is asked how far it is, in milliseconds. Default 200. */
  intervalMs?: number
  /** Gives it up, as cancel() does; `done` then rejects with the signal's reason. */
  signal?: AbortSignal
}

/**
 * How a disk's images are merged downwards.
 *
 * @since 0.1.0
 */
export interface CommitDiskOptions extends BlockJobOptions {
  /** The image to work down to: its path, or `'vda[2]'`. Default: the lowest. */
  base?: string
  /** The image to begin at. Default: the one that the domain uses, which is then no more its own. */
  top?: string
  /** Only one level down. Default false. */
  shallow?: boolean
  /** Delete the images that are not needed any more. Default false. */
  delete?: boolean
  /** Names of backing files stay relative. Default false. */
  relative?: boolean
  /** As {@link CopyDiskOptions.then}, where the domain's own image is merged. */
  then?: 'pivot' | 'wait'
}

/**
 * How a disk's images are merged upwards.
 *
 * @since 0.1.0
 */
export interface PullDiskOptions extends BlockJobOptions {
  /** The image that stays below. Default: none; the uppermost holds all in the end. */
  base?: string
  /** Names of backing files stay relative. Default false. */
  relative?: boolean
}

/**
 * Where a disk is copied to.
 *
 * @since 0.1.0
 */
export interface CopyDiskOptions extends BlockJobOptions {
  /** Its format. Default: that of the disk. */
  format?: string
  /** True: it is a block device. Default false. */
  device?: boolean
  /** Only the uppermost image. Default false. */
  shallow?: boolean
  /** The file is there already. Default false. */
  reuse?: boolean
  /** Every write of the guest waits for the copy. Default false. */
  synchronousWrites?: boolean
  /** Bytes that are copied together. */
  granularity?: number
  /** Memory that it may use. */
  bufferSize?: Size
  /**
   * When both are the same:
   * - `'pivot'` (default): the domain goes on with the copy
   * - `'finish'`: the domain goes on with what it had, the copy is of that moment
   * - `'wait'`: both are kept the same, until {@link BlockJob.pivot} or {@link BlockJob.finish}
   */
  then?: 'pivot' | 'finish' | 'wait'
}

interface Work {
  start: () => Promise<void>
  /** Undefined: it ends by itself. */
  then: 'pivot' | 'finish' | 'wait' | undefined
}

const none: BlockJobProgress = {
  type: DomainBlockJobType.UNKNOWN,
  current: 0n,
  end: 0n,
  share: 0,
  bandwidth: 0n,
  ready: false
}

/**
 * A block job that goes on.
 *
 * @since 0.1.0
 */
export class BlockJob extends DomainJob<BlockJobProgress, BlockJobProgress> {
  /** The disk's target name or path, as it was given. */
  readonly disk: string
  /** Both sides are the same. Rejects, as `done`, when the job ends before that. Not of a job that ends by itself. */
  readonly ready: Promise<void>
  readonly #domain: Domain
  readonly #intervalMs: number
  #isReady: () => void = () => undefined
  #end: { resolve: () => void; reject: (error: unknown) => void } | undefined
  /** That of pivot() and finish(), and whether it is finish(). */
  #ending: Promise<void> | undefined
  #finishes = false
  /** What was heard before it began: of it, or of the job before. */
  #early: number[] | undefined = []

  /** @internal */
  constructor(domain: Domain, disk: string, work: Work, options: BlockJobOptions) {
    if (typeof disk !== 'string' || disk === '') throw invalid("a disk is given by its target name, such as 'vda', or its path")
    const intervalMs = within(options.intervalMs ?? 200, 'intervalMs', 1, day)
    super(none, options.signal)
    this.disk = disk
    this.#domain = domain
    this.#intervalMs = intervalMs
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve
      this.done.then(() => resolve(), reject)
    })
    this.ready.catch(() => undefined)
    this.begin(() => this.#run(work))
  }

  /**
   * The domain goes on with the other side. Once it is {@link ready}.
   *
   * @throws LibvirtError
   */
  pivot(): Promise<void> {
    return this.#endBy(DomainBlockJobAbortFlags.PIVOT)
  }

  /**
   * The domain goes on with the image that it had: of a copy the other side is then as it was at that moment. Once it
   * is {@link ready}.
   *
   * @throws LibvirtError
   */
  finish(): Promise<void> {
    return this.#endBy(0)
  }

  /**
   * Limits how fast it works, from now on.
   *
   * @param limit - bytes a second; 0: not at all
   * @throws LibvirtError
   */
  async setBandwidth(limit: Size): Promise<void> {
    await this.#domain.blockJobSetSpeed(this.disk, bytes(limit, 'the bandwidth'), DomainBlockJobSetSpeedFlags.BANDWIDTH_BYTES)
  }

  /** @internal */
  protected override async giveUp(): Promise<void> {
    if (this.#early) throw notYet()
    await this.#domain.blockJobAbort(this.disk)
  }

  #endBy(flags: number): Promise<void> {
    if (this.#ending) return this.#ending
    this.#finishes = flags === 0
    this.#ending = this.#domain.blockJobAbort(this.disk, flags).catch((error: unknown) => {
      this.#ending = undefined
      throw error
    })
    return this.#ending
  }

  async #run(work: Work): Promise<BlockJobProgress> {
    await using connect = await this.#domain.getConnect()
    const events = connect.events('domain.blockJob2', { domain: this.#domain })
    await events.ready
    const name = await targetOf(this.#domain, this.disk)
    const ended = new Promise<void>((resolve, reject) => (this.#end = { resolve, reject }))
    ended.catch(() => undefined)
    const listening = (async () => {
      for await (const event of events)
        if (event.kind === 'domain.blockJob2' && event.args.disk === name)
          if (this.#early) this.#early.push(event.args.status)
          else this.#hear(event.args.status, work)
    })().catch((error: unknown) => this.#end?.reject(error))
    let poll: Poll | undefined
    try {
      await work.start()
      const runs = (await this.#domain.getBlockJobInfo(this.disk).catch(() => undefined)) !== undefined
      const heard = ownEvents(this.#early ?? [], runs)
      this.#early = undefined
      for (const status of heard) this.#hear(status, work)
      poll = new Poll(this.#intervalMs, () => this.#look())
      await ended
    } catch (error) {
      throw await lostConnection(`the block job of ${this.disk}`, error, { hypervisor: connect })
    } finally {
      await poll?.stop()
      await events.return()
      await listening
    }
    const { end } = this.progress
    this.tell({ ...this.progress, current: end, share: 1 })
    return this.progress
  }

  #hear(status: number, { then }: Work): void {
    if (status === Status.COMPLETED) {
      // A copy that is ended without moving over has done what was wanted, and so libvirt says that it was cancelled.
      this.#end?.resolve()
    } else if (status === Status.READY) {
      this.tell({ ...this.progress, share: 1, ready: true })
      this.#isReady()
      if (this.cancelled || then === undefined || then === 'wait') return
      void this.#endWhenFree(then === 'pivot' ? DomainBlockJobAbortFlags.PIVOT : 0)
    } else if (status === Status.CANCELED && this.#ending && this.#finishes && !this.cancelled) this.#end?.resolve()
    else this.#end?.reject(failed(this.disk, status))
  }

  async #endWhenFree(flags: number): Promise<void> {
    while (!this.over && !this.cancelled)
      try {
        return await this.#endBy(flags)
      } catch (error) {
        if (!isBusy(error)) return this.#end?.reject(error)
        await sleep(this.#intervalMs)
      }
  }

  async #look(): Promise<void> {
    let info
    try {
      info = await this.#domain.getBlockJobInfo(this.disk, DomainBlockJobInfoFlags.BANDWIDTH_BYTES)
    } catch (error) {
      // The domain has stopped, or the connection is gone: no event will come. Where libvirt is busy with it, one will.
      if (!isBusy(error)) this.#end?.reject(error)
      return
    }
    // Over; the event says how.
    if (!info) return
    const { type, bandwidth, cur: current, end } = info
    const share = this.progress.ready ? 1 : end > 0n ? Number((current * 10000n) / end) / 10000 : 0
    this.tell({ ...this.progress, type, bandwidth, current, end, share })
  }
}

/** libvirt does something else with the domain, for longer than it lets others wait. */
const isBusy = (error: unknown): boolean => error instanceof LibvirtError && error.number === ErrorNumber.OPERATION_TIMEOUT

/** Of what was heard of a disk's jobs up to a job's beginning: what is of that job. @param runs - it has not ended */
function ownEvents(heard: readonly number[], runs: boolean): readonly number[] {
  const ends = heard.flatMap((status, i) => (status === Status.READY ? [] : [i]))
  const before = runs ? ends.at(-1) : ends.at(-2)
  return before === undefined ? heard : heard.slice(before + 1)
}

function failed(disk: string, status: number): LibvirtError {
  const cancelled = status === Status.CANCELED
  return new LibvirtError(
    cancelled
      ? `the block job of ${disk} was cancelled by somebody else`
      : `the block job of ${disk} failed: the hypervisor's log of the domain says why`,
    { code: cancelled ? 'CANCELLED' : 'BLOCK_JOB_FAILED' }
  )
}

/** Events name a disk by its target. */
async function targetOf(domain: Domain, disk: string): Promise<string> {
  const { disks } = await domain.describe()
  const found = disks.find(({ target, source }) => target === disk || source === disk)
  if (!found)
    throw invalid(`the domain has no disk '${disk}'; it has ${disks.map(({ target }) => `'${target}'`).join(', ') || 'none'}`)
  return found.target
}

const limit = (options: BlockJobOptions): bigint => bytes(options.bandwidth ?? 0, 'bandwidth')

/** @internal */
export function commitDisk(domain: Domain, disk: string, options: CommitDiskOptions): BlockJob {
  const F = DomainBlockCommitFlags
  const bandwidth = limit(options)
  const then = oneOf(options.then ?? 'pivot', 'then', ['pivot', 'wait'])
  const active = options.top === undefined
  const flags =
    F.BANDWIDTH_BYTES |
    (active ? F.ACTIVE : 0) |
    (options.shallow ? F.SHALLOW : 0) |
    (options.delete ? F.DELETE : 0) |
    (options.relative ? F.RELATIVE : 0)
  const start = (): Promise<void> => domain.blockCommit(disk, options.base, options.top, bandwidth, flags)
  return new BlockJob(domain, disk, { start, then: active ? then : undefined }, options)
}

/** @internal */
export function pullDisk(domain: Domain, disk: string, options: PullDiskOptions): BlockJob {
  const F = DomainBlockRebaseFlags
  const bandwidth = limit(options)
  const flags = F.BANDWIDTH_BYTES | (options.relative ? F.RELATIVE : 0)
  const start = (): Promise<void> => domain.blockRebase(disk, options.base, bandwidth, flags)
  return new BlockJob(domain, disk, { start, then: undefined }, options)
}

/** @internal */
export function copyDisk(domain: Domain, disk: string, target: string, options: CopyDiskOptions): BlockJob {
  const F = DomainBlockCopyFlags
  if (typeof target !== 'string' || target === '') throw invalid('copyDisk() needs the path to copy to')
  const then = oneOf(options.then ?? 'pivot', 'then', ['pivot', 'finish', 'wait'])
  const params: TypedInput<DomainBlockCopyParams> = given({
    bandwidth: options.bandwidth === undefined ? undefined : limit(options),
    granularity: options.granularity,
    'buf-size': options.bufferSize === undefined ? undefined : bytes(options.bufferSize, 'bufferSize')
  })
  const flags =
    F.TRANSIENT_JOB |
    (options.shallow ? F.SHALLOW : 0) |
    (options.reuse ? F.REUSE_EXT : 0) |
    (options.synchronousWrites ? F.SYNCHRONOUS_WRITES : 0)
  const [type, attribute] = options.device ? ['block', 'dev'] : ['file', 'file']
  const start = async (): Promise<void> => {
    const format = options.format ?? (await domain.describe()).disks.find(found => found.target === disk)?.format
    const xml = element('disk', { type }, [
      element('source', { [attribute]: target }),
      format === undefined ? undefined : element('driver', { type: format })
    ])
    await domain.blockCopy(disk, xmlText(xml), params, flags)
  }
  return new BlockJob(domain, disk, { start, then }, options)
}
