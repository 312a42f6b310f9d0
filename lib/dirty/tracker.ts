// Tracks the dirty pages of a VM or a machine. All work is done on the native thread `ht-dirty`.
import { setTimeout as delay } from 'node:timers/promises'
import type { DirtyRateSource } from '../dirty_rate.js'
import { nativeHandle } from '../state.js'
import { nativeDirty, type NativeTarget, type NativeTracker } from './addon.js'
import { chooseDirtyMode, type DirtyMode, type DirtyModeChoice } from './choose.js'
import { DirtyError, dirtyErrors, invalid } from './errors.js'
import { DirtyHarvest } from './harvest.js'
import { DirtyStats, type DirtySample } from './stats.js'

/**
 * What can be tracked: a `Vm` of hypertwin/kvm, or a `Machine` of hypertwin/machine.
 *
 * @since 0.1.0
 */
export type DirtyTrackable =
  | {
      /** @internal */
      readonly native: NativeTarget
    }
  | {
      /** @internal */
      readonly [nativeHandle]: object
    }

/**
 * How to track.
 *
 * @since 0.1.0
 */
export interface DirtyTrackerOptions {
  /**
   * `'auto'` (default) tries on this host which modes work and takes the best that the VM can still be tracked in: see
   * {@link chooseDirtyMode}. Any other is taken without trying.
   */
  mode?: DirtyMode | 'auto'
  /** Numbers of the memory slots to track. Default: every writable one there is now. */
  slots?: number[]
  /** The first harvest reports every page, as the first round of a migration wants it. Default false. */
  everythingFirst?: boolean
}

function nativeOf(trackable: DirtyTrackable): NativeTarget {
  const handle = (nativeHandle in trackable ? trackable[nativeHandle] : trackable.native) as NativeTarget
  if (typeof handle?.dirtyTarget !== 'function') throw invalid('only a Vm or a Machine can be tracked')
  return handle
}

/**
 * The pages that the guest, the devices and the host write, from {@link DirtyTracker.attach} on. One tracker a VM at a
 * time.
 *
 * Exact: a page written while a harvest is made is in that one or in the next, and never in none. So a copy that is
 * brought up to date with the pages of each harvest, read after that harvest, equals the memory once a last harvest was
 * made of a VM that does not run. While it runs, a CPU may not have told all yet: what it has not is in a later harvest.
 *
 * Close it before the VM: until then it keeps the VM's descriptors open.
 *
 * @since 0.1.0
 */
export class DirtyTracker implements DirtyRateSource, AsyncDisposable {
  readonly #native: NativeTracker
  #closing: Promise<void> | undefined
  /** The mode that it works in. */
  readonly mode: DirtyMode
  /** Why. */
  readonly choice: DirtyModeChoice

  private constructor(native: NativeTracker, choice: DirtyModeChoice) {
    this.#native = native
    this.mode = choice.mode
    this.choice = choice
  }

  /**
   * Starts to track. When it resolves every later write is noticed. The vCPUs may run; in ring mode they all exist
   * already.
   *
   * @throws DirtyError `DIRTY_BUSY`, `DIRTY_MODE`, `DIRTY_RING`, `DIRTY_SLOT`, `DIRTY_UNUSABLE`, `CLOSED`
   * @since 0.1.0
   */
  static async attach(target: DirtyTrackable, options: DirtyTrackerOptions = {}): Promise<DirtyTracker> {
    return dirtyErrors(async () => {
      const native = nativeOf(target)
      const asked = options.mode ?? 'auto'
      let choice: DirtyModeChoice = { mode: asked as DirtyMode, reason: `${asked}: asked for`, verdicts: [] }
      if (asked === 'auto') {
        const ring = nativeDirty.ringBytes(native.dirtyTarget()) > 0
        choice = await chooseDirtyMode({ modes: ring ? ['ring'] : ['manual', 'bitmap'] })
        choice.reason += ring
          ? '; the VM has its dirty ring turned on, so only the ring is possible'
          : '; ring is not possible, the VM was created without one'
      }
      const tracker = await nativeDirty.attach(
        native.dirtyTarget(),
        choice.mode,
        options.slots ?? [],
        options.everythingFirst ?? false
      )
      return new DirtyTracker(tracker, choice)
    })
  }

  /** Whether it was closed. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /** @internal */
  get native(): NativeTracker {
    if (this.closed) throw new DirtyError('the tracker is closed: attach a new one', { code: 'CLOSED' })
    return this.#native
  }

  /**
   * The pages written since the harvest before (or since attach). KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
   * KVM_RESET_DIRTY_RINGS (api.rst 4.8, 4.117, 8.29) and the marks of devices and host.
   *
   * @throws DirtyError `CLOSED`, `DIRTY_SLOT`, or the failed ioctl's errno
   * @since 0.1.0
   */
  async harvest(): Promise<DirtyHarvest> {
    return dirtyErrors(async () => new DirtyHarvest(await this.native.harvest()))
  }

  /**
   * Reports memory that this process wrote by other means than the machine's devices and `machine.memory`: KVM notices
   * only the guest's writes. Call it after the bytes were written.
   *
   * @throws DirtyError `ERANGE`, `CLOSED`
   * @since 0.1.0
   */
  markWritten(address: bigint, size: number | bigint): void {
    dirtyErrors(() => {
      this.native.markWritten(address, size)
    })
  }

  /**
   * Harvests once an interval and yields the figures; ends when the tracker is closed.
   *
   * Nothing is buffered and nothing is dropped: a harvest is made when the consumer asks for it, at the earliest at the
   * interval's end. For a consumer that is too slow the intervals grow longer, with all their pages in them.
   *
   * @param options - `intervalMs` (default 1000); `window` and `decay` as of {@link DirtyStats}; `signal`: rejects with
   * its reason
   * @throws DirtyError `EINVAL`, and as {@link DirtyTracker.harvest}
   * @since 0.1.0
   */
  async *samples(
    options: { intervalMs?: number; window?: number; decay?: number; signal?: AbortSignal } = {}
  ): AsyncGenerator<DirtySample, void, void> {
    const { intervalMs = 1000, signal, ...figures } = options
    if (!(intervalMs > 0)) throw invalid('intervalMs must be above 0')
    const stats = new DirtyStats(figures)
    let due = performance.now() + intervalMs
    while (!this.closed) {
      const wait = due - performance.now()
      try {
        if (wait > 0) await delay(wait, undefined, signal ? { signal } : {})
      } catch (error) {
        signal?.throwIfAborted()
        throw error
      }
      signal?.throwIfAborted()
      if (this.closed) return
      due = Math.max(due + intervalMs, performance.now())
      yield stats.add(await this.harvest())
    }
  }

  /**
   * Stops to track and lets go of the VM. Twice is fine.
   *
   * @since 0.1.0
   */
  close(): Promise<void> {
    return (this.#closing ??= dirtyErrors(() => this.#native.close()))
  }

  /** As close(). */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
