// A machine's protection from the primary's side: a backup that follows, and another one when it is lost.
import { nativeArbiter } from '../arbiter/native.js'
import { toLayerError } from '../errors.js'
import { Machine } from '../machine/index.js'
import { nativeHandle } from '../state.js'
import { nativeHa, type NativeHaView, type NativeProtection } from './addon.js'
import { HaError, haErrors, invalid } from './errors.js'
import type { HaEvent } from './events.js'
import { monotonic, noView, progressOf, statsOf, timelineOf, type HaState, type HaStats, type HaTimeline, type SyncProgress } from './figures.js'
import { protectSettings, type ProtectOptions, type ProtectSettings } from './options.js'
import { ProgressHub, Side, sleep } from './side.js'
import type { HaSource, HaStatus } from './status.js'

/** Protected machines: as active as a server, and so not collected. */
const active = new Map<Machine, Protection>()

const finalStates: readonly string[] = ['stopped', 'failed']

/** With these another backup would be no better. */
const hopeless = new Set(['BAD_STATE', 'BAD_CONFIG', 'EINVAL', 'CLOSED', 'TLS_UNAVAILABLE'])

/** A protection that is lost sooner counts as a failed attempt: nobody is served by trying again at once. */
const SHORT_MS = 1000
/** How long the end of a machine may take to reach the backup. */
const END_MS = 5000

/** How a session with one backup came to its end. */
interface SessionEnd {
  state: HaState
  code: string
  message: string
}

/**
 * Protects a machine: copies it to a backup while it runs, then streams its event log there, and holds back everything
 * that leaves the machine until the backup has the log up to it. When this process, its host or the connection dies,
 * the backup goes on where the machine was. docs/high-availability.md says what that guarantees.
 *
 * Resolves when a backup has answered; the machine is protected from {@link Protection.ready} on. Closing the machine
 * closes its protection.
 *
 * @example
 * ```ts
 * const protection = await protect(machine, {
 *   backup: ['tcp://10.0.0.2:7200', 'tcp://10.0.0.3:7200'],
 *   arbiter: new FileArbiter('/mnt/shared/claims')
 * })
 * await protection.ready
 * ```
 *
 * @param machine - running or paused; not recorded
 * @throws HaError `EINVAL`, `BAD_ADDRESS`, `BAD_STATE`, `BAD_BOARD`, `CLOSED`; and unless `options.wait`, when nobody in the pool
 *   can be reached: `PEER_UNREACHABLE`, `TIMEOUT`, `TLS_FAILED`
 * @since 0.1.0
 */
export async function protect(machine: Machine, options: ProtectOptions): Promise<Protection> {
  if (!(machine instanceof Machine)) throw invalid('what is protected must be a Machine')
  const settings = protectSettings(options)
  if (machine.closed) throw new HaError('the machine is closed', { code: 'CLOSED' })
  if (finalStates.includes(machine.state))
    throw new HaError(`the machine is ${machine.state} (${machine.reason}): nothing is left to protect`, { code: 'BAD_STATE' })
  if (machine.board !== 'deterministic')
    throw new HaError(`a machine of the ${machine.board} board cannot be protected, for its inputs are in no log: give it the deterministic one`, {
      code: 'BAD_BOARD'
    })
  if (active.has(machine))
    throw new HaError('the machine is protected already: close that protection first', { code: 'BAD_STATE' })
  const protection = new Protection(machine, settings)
  active.set(machine, protection)
  await protection.begun
  return protection
}

/**
 * A machine's protection, from {@link protect}. It lives until close(), or until the machine has ended or must not run
 * here any more.
 *
 * @since 0.1.0
 */
export class Protection implements HaSource, AsyncDisposable {
  /** The machine that is protected. */
  readonly machine: Machine
  /** Settles when the first backup has answered. @internal */
  readonly begun: Promise<void>
  readonly #side: Side
  readonly #settings: ProtectSettings
  readonly #progress = new ProgressHub()
  readonly #stop = new AbortController()
  #native: NativeProtection | undefined
  #view: NativeHaView = noView
  #timeline: HaTimeline | undefined
  #begin!: () => void
  #failed!: (error: HaError) => void
  /** Somebody in the pool has answered. */
  #answered = false
  #wasProtected = false
  #closing: Promise<void> | undefined
  readonly #over: Promise<void>

  /** @internal */
  constructor(machine: Machine, settings: ProtectSettings) {
    this.machine = machine
    this.#settings = settings
    this.#side = new Side('primary', 'connecting', settings.name)
    this.begun = new Promise((resolve, reject) => ([this.#begin, this.#failed] = [resolve, reject]))
    this.begun.catch(() => undefined)
    if (settings.wait) this.#begin()
    void this.#side.check(settings.arbiter)
    this.#over = this.#run().finally(() => this.#finish())
    const ended = (): void => void this.#machineEnded()
    machine.waitFor(['stopped', 'failed']).then(ended, ended)
  }

  /** Where it is. */
  get state(): HaState {
    return this.#side.state
  }

  /** Why: the code of the last state event. */
  get code(): string {
    return this.#side.code
  }

  /** Why, as a sentence. */
  get message(): string {
    return this.#side.message
  }

  /** The present protection's session, the arbiter's key; empty while there is none. */
  get session(): string {
    return this.#side.session
  }

  /** The present backup's address; empty while there is none. */
  get backup(): string {
    return this.#side.peer
  }

  /**
   * Resolves while the machine is protected: at once, or when it is so next.
   *
   * @throws HaError `ENDED` when the protection ends before, with the reason
   */
  get ready(): Promise<void> {
    const ready = this.waitFor('protected').then(() => undefined)
    ready.catch(() => undefined)
    return ready
  }

  /**
   * Waits until the protection is in `state`, or in one of several.
   *
   * @throws HaError `ENDED` when it ends before, with the reason; the signal's reason
   */
  async waitFor(state: HaState | readonly HaState[], options: { signal?: AbortSignal } = {}): Promise<HaState> {
    const wanted: readonly HaState[] = typeof state === 'string' ? [state] : state
    const found = await this.#side.until(
      () => (wanted.includes(this.state) ? this.state : this.#overNow ? null : undefined),
      options.signal
    )
    if (found) return found
    throw new HaError(
      `the protection has ended (${this.code}) and will not be ${wanted.join(' or ')}` +
        (this.message === '' ? '' : `: ${this.message}`),
      { code: 'ENDED' }
    )
  }

  /** What was counted and measured, of the present protection or of the last one. */
  stats(): HaStats {
    return statsOf(this.#look())
  }

  /** Of the last loss of a backup; undefined when none was lost. */
  timeline(): HaTimeline | undefined {
    return timelineOf(this.#look()) ?? this.#timeline
  }

  /** How far the copy is, of the present protection or of the last one. */
  progress(): SyncProgress {
    return progressOf(this.#look())
  }

  /**
   * The progress of the copy until there is protection, or none any more; a slow consumer misses some of it.
   */
  syncProgress(): AsyncIterableIterator<SyncProgress> {
    return this.#progress.iterate(() =>
      this.#overNow || !['connecting', 'syncing', 'unprotected'].includes(this.state) ? undefined : this.progress()
    )
  }

  /**
   * What happens: the present state first, then everything from now on. Ends with the protection. Each iteration has a
   * buffer of its own; when it is full the oldest are dropped, and a `dropped` event says how many.
   *
   * @param options - `limit`: events that the buffer holds, default 1024; `signal`: ends the iteration with its reason
   */
  events(options: { signal?: AbortSignal; limit?: number } = {}): AsyncIterableIterator<HaEvent> {
    return this.#side.hub.events(options)
  }

  /** All of it as plain data. */
  status(): HaStatus {
    const { state, reason } = this.machine
    return this.#side.status(this.#look(), this.timeline(), { state, reason }, '')
  }

  /**
   * Lets the backup go on in the machine's place, as planned: nothing is lost and nothing is repeated. The machine is
   * stopped here afterwards, with reason `'handed-over'`.
   *
   * @throws HaError `BAD_STATE` when it is not protected, `HAND_OVER_FAILED`
   */
  async handOver(): Promise<void> {
    const native = this.#native
    if (!native || this.state !== 'protected')
      throw new HaError(`only a protected machine can be handed over; this one is ${this.state}`, { code: 'BAD_STATE' })
    await haErrors(() => native.handOver())
  }

  /** Ends the protection in peace: the backup is let go, the machine goes on unprotected. Calling it again is fine. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#stop.abort()
      await this.#native?.close()
      await this.#over
    })()
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  get #overNow(): boolean {
    return this.state === 'ended' || this.state === 'halted'
  }

  #look(): NativeHaView {
    if (this.#native) this.#view = this.#native.view()
    return this.#view
  }

  /** The backup is to learn how the machine ended; when it does not, it is let go. */
  async #machineEnded(): Promise<void> {
    const native = this.#native
    if (native && !this.#stop.signal.aborted) {
      const over = new AbortController()
      const timer = setTimeout(() => over.abort(), END_MS)
      await this.#side.until(() => (this.#native !== native ? true : undefined), AbortSignal.any([over.signal, this.#stop.signal])).catch(() => undefined)
      clearTimeout(timer)
    }
    this.#stop.abort()
  }

  async #run(): Promise<void> {
    const { addresses, wait, reprotect, firstRetryMs, mostRetryMs } = this.#settings
    let pause = firstRetryMs
    let tried = 0
    for (let next = 0; !this.#stop.signal.aborted; next++) {
      const address = addresses[next % addresses.length] as string
      this.#side.tell({ type: 'attempt', address })
      const begun = monotonic()
      const error = await this.#session(address)
      if (this.#stop.signal.aborted || this.#overNow) return
      if (finalStates.includes(this.machine.state)) return
      if (error) {
        this.#side.tell({ type: 'attempt-failed', address, code: error.code, message: error.message })
        tried++
        const goOn = this.#wasProtected ? reprotect : wait || (this.#answered && reprotect)
        if (hopeless.has(error.code) || (!goOn && tried === addresses.length)) {
          this.#failed(error)
          return this.#side.enter('ended', error.code, error.message)
        }
      } else {
        if (!reprotect) return
        if (monotonic() - begun > SHORT_MS) {
          pause = firstRetryMs
          tried = 0
        } else tried++
      }
      if (tried < addresses.length) continue
      this.#side.tell({ type: 'retry', inMs: pause })
      await sleep(pause, this.#stop.signal)
      pause = Math.min(pause * 2, mostRetryMs)
      tried = 0
    }
  }

  /** One backup, from its address to its loss; why it never protected the machine, if it did not. */
  async #session(address: string): Promise<HaError | undefined> {
    const { native: options, arbiter } = this.#settings
    let end: SessionEnd | undefined
    let isProtected = false
    let connected = false
    const news = (): void => {
      if (!connected) return
      this.#side.session = native.view().session
      for (const one of native.take()) {
        if (typeof one === 'string') {
          this.#side.tell({ type: 'step', step: one })
          continue
        }
        const [state, code, message, ns] = one as [HaState, string, string, bigint]
        const at = Number(ns) / 1e6
        if (state === 'protected') {
          this.#wasProtected = isProtected = true
          void this.#goOn()
        }
        if (state === 'unprotected' || state === 'ended' || state === 'halted') end = { state, code, message }
        if (state === 'ended') continue
        this.#side.enter(state, code, message, at)
      }
      this.#progress.wake()
      this.#side.wake()
    }
    let native!: NativeProtection
    try {
      native = haErrors(() =>
        nativeHa.protect(
          this.machine[nativeHandle],
          { ...options, address, arbiter: nativeArbiter(arbiter) },
          what => (what === 0 ? news() : this.#progress.wake())
        )
      )
      this.#native = native
      await haErrors(() => native.begin())
      connected = true
      this.#side.peer = address
      this.#answered = true
      this.#side.enter('syncing', 'COPYING', `memory and disks go to ${address}`)
      news()
      this.#begin()
      await this.#side.until(() => end, this.#stop.signal).catch(() => undefined)
    } catch (error) {
      const failed = toLayerError(error, HaError)
      return failed instanceof HaError ? failed : new HaError(String(error), { code: 'EINTERNAL', cause: error })
    } finally {
      if (this.#native) {
        await native.close()
        news()
        this.#look()
        this.#native = undefined
        this.#side.wake()
      }
      this.#side.peer = ''
      this.#side.session = ''
    }
    const last = end
    const timeline = timelineOf(this.#view)
    if (timeline) {
      this.#timeline = timeline
      this.#side.tell({ type: 'failover', timeline })
    }
    if (last && last.state !== 'halted') {
      if (!isProtected) {
        if (this.state === 'syncing')
          this.#side.enter(this.#wasProtected ? 'unprotected' : 'connecting', last.code, last.message)
        return new HaError(last.message || `the copy ended: ${last.code}`, { code: last.code })
      }
      if (finalStates.includes(this.machine.state)) this.#side.enter('ended', last.code, last.message)
      else if (this.state !== 'unprotected') this.#side.enter('unprotected', last.code, last.message)
    }
    return undefined
  }

  /** With `onLoss: 'stop'` it stood still until now. */
  async #goOn(): Promise<void> {
    if (this.machine.state !== 'paused' || this.machine.reason !== 'unprotected') return
    // It may be closed meanwhile, or resumed by its owner.
    await this.machine.resume().catch(() => undefined)
  }

  #finish(): void {
    active.delete(this.machine)
    if (!this.#overNow) {
      const { state, reason, message } = this.machine
      if (finalStates.includes(state))
        this.#side.enter('ended', 'MACHINE_ENDED', message || `the machine is ${state} (${reason})`)
      else this.#side.enter('ended', 'CLOSED', 'the protection was closed; the machine goes on without')
    }
    this.#failed(new HaError(this.message, { code: this.code }))
    this.#progress.wake()
    this.#side.end()
  }
}
