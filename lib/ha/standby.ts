// The backup's side: waits for primaries, follows one at a time, and goes on with its machine when that must be.
import { nativeArbiter } from '../arbiter/native.js'
import { toLayerError } from '../errors.js'
import { nativeKvm } from '../kvm/addon.js'
import { Machine } from '../machine/index.js'
import { nativeHa, type NativeBackup, type NativeCaller, type NativeHaView, type NativeListener } from './addon.js'
import { HaError, haErrors } from './errors.js'
import type { HaEvent } from './events.js'
import { noView, progressOf, statsOf, timelineOf, type HaState, type HaStats, type HaTimeline, type SyncProgress } from './figures.js'
import { backupSettings, type BackupOptions, type BackupSettings } from './options.js'
import { protect, type Protection } from './protection.js'
import { ProgressHub, Side, sleep } from './side.js'
import type { HaSource, HaStatus } from './status.js'

/** Who connects must say what it wants within so many milliseconds. */
const HELLO_MS = 10_000
/** A copy that makes no progress for so long is given up. */
const STALL_MS = 60_000
/** Before the next connection is taken when one could not be; twice as long each time, up to the second. */
const ACCEPT_PAUSE_MS = 50
const MOST_ACCEPT_PAUSE_MS = 1000
/** So many callers at once are told why they are not wanted; further ones are cut off. */
const MOST_SENT_AWAY = 32

/**
 * Listens for primaries, and is the backup of one at a time: keeps a copy of its machine, replays its event log, and
 * goes on with the machine at the precise point when the primary is lost. It needs nothing of the machine
 * beforehand: memory, disks and state come from the primary. docs/high-availability.md says what that guarantees.
 *
 * @example
 * ```ts
 * const standby = await backup({
 *   listen: 'tcp://0.0.0.0:7200',
 *   arbiter: new FileArbiter('/mnt/shared/claims'),
 *   disks: ['/var/lib/copy.img'],
 *   pool: ['tcp://10.0.0.3:7200']
 * })
 * const machine = await standby.live
 * ```
 *
 * @throws HaError `EINVAL`, `BAD_ADDRESS`, `EADDRINUSE`, `TLS_FAILED`, `TLS_UNAVAILABLE`; `ENOENT`, `EACCES` of the KVM device
 * @since 0.1.0
 */
export async function backup(options: BackupOptions): Promise<Standby> {
  const settings = backupSettings(options)
  // What cannot run a machine is no backup, and must not be found out at a failover.
  await (await haErrors(() => nativeKvm.open(settings.native.device))).close()
  const made: { standby?: Standby } = {}
  const listener = haErrors(() =>
    nativeHa.listen({ listen: settings.listen, tls: settings.tls }, () => made.standby?.refusals())
  )
  try {
    await haErrors(() => listener.begin())
  } catch (error) {
    await listener.close()
    throw error
  }
  made.standby = new Standby(listener, settings)
  return made.standby
}

/**
 * The backup's side, from {@link backup}.
 *
 * @since 0.1.0
 */
export class Standby implements HaSource, AsyncDisposable {
  /** Where it listens, with the port that it got. */
  readonly listen: string
  /**
   * The machine, once it runs here. It is yours then: closing the standby leaves it alone.
   *
   * Rejects with HaError `CLOSED` when the standby is closed before; `ARBITER_UNREACHABLE` when nobody could say
   * meanwhile whether the machine was to go on here.
   */
  readonly live: Promise<Machine>
  readonly #side: Side
  readonly #settings: BackupSettings
  readonly #listener: NativeListener
  readonly #progress = new ProgressHub()
  #native: NativeBackup | undefined
  #view: NativeHaView = noView
  #timeline: HaTimeline | undefined
  #machine: Machine | undefined
  #protection: Protection | undefined
  #settle!: { resolve: (machine: Machine) => void; reject: (error: unknown) => void }
  #closing: Promise<void> | undefined
  /** The backup is closed. */
  #let = false
  readonly #stop = new AbortController()
  readonly #over: Promise<void>
  readonly #sendingAway = new Set<Promise<void>>()

  /** @internal */
  constructor(listener: NativeListener, settings: BackupSettings) {
    this.#listener = listener
    this.#settings = settings
    this.listen = listener.address()
    this.#side = new Side('backup', 'listening', settings.name)
    this.live = new Promise((resolve, reject) => (this.#settle = { resolve, reject }))
    this.live.catch(() => undefined)
    void this.#side.check(settings.arbiter)
    this.#over = this.#serve()
  }

  get #closed(): boolean {
    return this.#stop.signal.aborted
  }

  /** Where it is; that of {@link protection} once there is one. */
  get state(): HaState {
    return this.#protection?.state ?? this.#side.state
  }

  /** Why: the code of the last state event. */
  get code(): string {
    return this.#protection?.code ?? this.#side.code
  }

  /** Why, as a sentence. */
  get message(): string {
    return this.#protection?.message ?? this.#side.message
  }

  /** The session of the protection that it is part of; empty while there is none. */
  get session(): string {
    return this.#protection?.session ?? this.#side.session
  }

  /** The primary's address; empty while there is none. */
  get primary(): string {
    return this.#side.peer
  }

  /** The machine that runs here; undefined before it is live. */
  get machine(): Machine | undefined {
    return this.#machine
  }

  /** The protection that the live machine got from the pool; undefined when there is no pool, or not yet. */
  get protection(): Protection | undefined {
    return this.#protection
  }

  /**
   * Waits until the standby is in `state`, or in one of several.
   *
   * @throws HaError `CLOSED` when it is closed before; the signal's reason
   */
  async waitFor(state: HaState | readonly HaState[], options: { signal?: AbortSignal } = {}): Promise<HaState> {
    const wanted: readonly HaState[] = typeof state === 'string' ? [state] : state
    const found = await this.#side.until(
      () =>
        wanted.includes(this.state)
          ? this.state
          : this.#machine && wanted.includes('live')
            ? 'live'
            : this.#closed
              ? null
              : undefined,
      options.signal
    )
    if (found) return found
    throw new HaError(`the standby was closed before it was ${wanted.join(' or ')}`, { code: 'CLOSED' })
  }

  /** What was counted and measured, of the present primary or of the last one. */
  stats(): HaStats {
    return this.#protection?.stats() ?? statsOf(this.#look())
  }

  /** Of the last failover to here; undefined before. */
  timeline(): HaTimeline | undefined {
    return this.#timeline ?? timelineOf(this.#look())
  }

  /** How far the copy is, of the present primary or of the last one. */
  progress(): SyncProgress {
    return progressOf(this.#look())
  }

  /** The progress of the present copy, or of the next one, until it is whole or given up. */
  syncProgress(): AsyncIterableIterator<SyncProgress> {
    return this.#progress.iterate(() =>
      this.#closed || !['listening', 'syncing'].includes(this.#side.state) ? undefined : this.progress()
    )
  }

  /**
   * What happens: the present state first, then everything from now on, also of {@link protection}. Ends with close().
   * Each iteration has a buffer of its own; when it is full the oldest are dropped, and a `dropped` event says how many.
   *
   * @param options - `limit`: events that the buffer holds, default 1024; `signal`: ends the iteration with its reason
   */
  events(options: { signal?: AbortSignal; limit?: number } = {}): AsyncIterableIterator<HaEvent> {
    return this.#side.hub.events(options)
  }

  /** All of it as plain data. */
  status(): HaStatus {
    const machine = this.#machine ? { state: this.#machine.state, reason: this.#machine.reason } : null
    const own = this.#side.status(this.#look(), this.timeline(), machine, this.#closed || this.#machine ? '' : this.listen)
    if (!this.#protection) return own
    const { failover, ...status } = this.#protection.status()
    return { ...status, name: own.name, failovers: own.failovers, failover: own.failover ?? failover, events: own.events }
  }

  /**
   * Stops listening. A primary that is followed is told, and goes on unprotected; a machine that is live stays, with
   * its protection. While the arbiter is asked whether the machine goes on here, its answer is waited for, 5 s and a
   * last question: a machine that goes live then is yours, as {@link machine}. Calling it again is fine.
   */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#stop.abort()
      await this.#listener.close()
      if (!this.#machine) await this.#native?.close()
      this.#let = true
      this.#side.wake()
      await this.#over
      await Promise.all(this.#sendingAway)
      if (!this.#machine && this.#side.state !== 'ended') this.#side.enter('ended', 'CLOSED', 'the backup was closed')
      const { code, message } = this.#side
      this.#settle.reject(
        code === 'ARBITER_UNREACHABLE'
          ? new HaError(message, { code })
          : new HaError('the standby was closed before its machine went live', { code: 'CLOSED' })
      )
      this.#progress.wake()
      this.#side.end()
    })()
    return this.#closing
  }

  /** As {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Connections that failed before they were anybody's. @internal */
  refusals(): void {
    for (const one of this.#listener.take())
      if (typeof one !== 'string') this.#side.tell({ type: 'refused', peer: 'somebody', message: one[2] })
  }

  #look(): NativeHaView {
    if (this.#native) this.#view = this.#native.view()
    return this.#view
  }

  /** Takes connections until it is closed or live. */
  async #serve(): Promise<void> {
    let following: Promise<void> | undefined
    let pause = ACCEPT_PAUSE_MS
    for (;;) {
      let caller: NativeCaller | undefined
      try {
        caller = await this.#listener.accept()
      } catch (error) {
        // Descriptors or threads are short: callers wait in the socket meanwhile.
        if (this.#closed || this.#machine) break
        this.#side.tell({ type: 'refused', peer: 'somebody', message: `cannot be taken now: ${error instanceof Error ? error.message : String(error)}` })
        await sleep(pause, this.#stop.signal)
        pause = Math.min(pause * 2, MOST_ACCEPT_PAUSE_MS)
        continue
      }
      pause = ACCEPT_PAUSE_MS
      if (!caller) break
      if (this.#sendingAway.size >= MOST_SENT_AWAY) {
        await caller.close()
        continue
      }
      if (this.#closed || this.#machine || following) {
        const away = this.#sendAway(caller).finally(() => this.#sendingAway.delete(away))
        this.#sendingAway.add(away)
        continue
      }
      following = this.#follow(caller).finally(() => {
        following = undefined
        if (this.#machine) void this.#listener.close()
      })
    }
    await following
  }

  async #sendAway(caller: NativeCaller): Promise<void> {
    const message = this.#machine ? 'this host runs its machine itself now' : 'this host is the backup of another primary'
    this.#side.tell({ type: 'refused', peer: caller.peer(), message })
    const timer = setTimeout(() => void caller.close(), HELLO_MS)
    try {
      await caller.refuse('BUSY', message)
    } catch {
      // It went away by itself.
    } finally {
      clearTimeout(timer)
      await caller.close()
    }
  }

  /** One primary, from its first word to its end or to this side's going live. */
  async #follow(caller: NativeCaller): Promise<void> {
    const side = this.#side
    let end: HaState | undefined
    let begun = false
    const news = (): void => {
      if (!begun) return
      side.session = native.view().session
      for (const one of native.take()) {
        if (typeof one === 'string') {
          side.tell({ type: 'step', step: one })
          continue
        }
        const [state, code, message, ns] = one as [HaState, string, string, bigint]
        if (state === 'live' || state === 'halted' || state === 'ended') end = state
        if (state === 'live') {
          side.failovers++
          this.#timeline = timelineOf(this.#look())
        }
        // The end of this primary is not the end of the standby.
        side.enter(state === 'ended' && !this.#closed ? 'listening' : state, code, message, Number(ns) / 1e6)
      }
      this.#progress.wake()
    }
    let native!: NativeBackup
    const watch = setInterval(() => void stalled(), 200)
    let seen = ''
    let since = performance.now()
    // A caller that says nothing, or a copy that does not get on, must not keep others out.
    const stalled = (): void => {
      if (side.state !== 'syncing' && side.state !== 'listening') return
      const view = this.#look()
      const now = `${view.session} ${view.progress.phase} ${view.progress.numbers.slice(0, 10).join(' ')}`
      this.#progress.wake()
      if (now !== seen) since = performance.now()
      seen = now
      if (performance.now() - since > (view.session === '' ? HELLO_MS : STALL_MS)) void native.close()
    }
    side.peer = caller.peer()
    try {
      const machine = Machine.around(async notifyMachine => {
        native = haErrors(() =>
          caller.follow({ ...this.#settings.native, arbiter: nativeArbiter(this.#settings.arbiter) }, what => {
            if (what === 0) news()
          }, notifyMachine)
        )
        this.#native = native
        await haErrors(() => native.begin())
        begun = true
        side.enter('syncing', 'COPYING', `memory and disks come from ${side.peer}`)
        news()
        await side.until(() => {
          // All that it told is there once it is closed.
          if (this.#let) news()
          return end ?? (this.#let ? 'ended' : undefined)
        })
        return native.machine()
      })
      this.#machine = await machine
    } catch (error) {
      const why = toLayerError(error, HaError)
      // Its end was told of; anything else was not.
      if (!end && !this.#closed) {
        const { code, message } = why instanceof HaError ? why : { code: 'EINTERNAL', message: String(error) }
        side.enter('listening', code, message)
      }
    } finally {
      clearInterval(watch)
    }
    if (this.#machine) return this.#wentLive(this.#machine)
    if (this.#native) {
      await this.#native.close()
      news()
      this.#look()
      this.#native = undefined
    }
    await caller.close()
    side.peer = ''
    side.session = ''
    if (!this.#closed && side.state !== 'listening')
      side.enter('listening', 'NEXT', 'waiting for a primary')
    this.#progress.wake()
  }

  async #wentLive(machine: Machine): Promise<void> {
    this.#settle.resolve(machine)
    if (this.#timeline) this.#side.tell({ type: 'failover', timeline: this.#timeline })
    const { pool, arbiter, protection } = this.#settings
    if (pool.length === 0 || this.#closed) return
    try {
      this.#protection = await protect(machine, { ...protection, backup: pool, arbiter })
      void this.#passOn(this.#protection)
    } catch (error) {
      const { code, message } = toLayerError(error, HaError) as HaError
      this.#side.tell({ type: 'warning', code, message: `the machine cannot be protected again: ${message}` })
    }
  }

  async #passOn(protection: Protection): Promise<void> {
    for await (const event of protection.events()) this.#side.pass(event)
  }
}
