// What a protection and a standby have in common: a state with its why, listeners, a status.
import { hostname } from 'node:os'
import process from 'node:process'
import type { Arbiter } from '../arbiter/index.js'
import { EventHub, sentence, stamped, type HaEvent, type HaNews } from './events.js'
import { monotonic, progressOf, statsOf, wallClock, type HaState, type HaTimeline, type SyncProgress } from './figures.js'
import type { NativeHaView } from './addon.js'
import { plainFailover, plainStats, type HaStatus } from './status.js'

/** @internal */
export class Side {
  readonly hub: EventHub
  readonly name: string
  state: HaState
  code = ''
  message = ''
  peer = ''
  session = ''
  failovers = 0
  #since = monotonic()
  readonly #waiting = new Set<() => void>()

  constructor(
    readonly role: 'primary' | 'backup',
    state: HaState,
    name: string | undefined
  ) {
    this.state = state
    this.name = name ?? `${hostname()}:${process.pid}`
    this.hub = new EventHub(() => stamped(this.role, this.#stateNews(), this.#since))
  }

  #stateNews(): HaNews {
    const { state, code, message, session, peer } = this
    return { type: 'state', state, code, message, session, peer }
  }

  enter(state: HaState, code: string, message: string, at = monotonic()): void {
    if (state !== this.state) this.#since = at
    Object.assign(this, { state, code, message })
    this.tell(this.#stateNews(), at)
  }

  tell(news: HaNews, at?: number): void {
    this.pass(stamped(this.role, news, at))
  }

  pass(event: HaEvent): void {
    this.hub.tell(event)
    this.wake()
  }

  /** Whoever waits in until() looks again. */
  wake(): void {
    for (const wake of [...this.#waiting]) wake()
  }

  end(): void {
    this.hub.end()
    this.wake()
  }

  /** Settles once `look` gives something other than undefined; it is asked whenever something happens. */
  async until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T> {
    for (;;) {
      signal?.throwIfAborted()
      const found = look()
      if (found !== undefined) return found
      await new Promise<void>(resolve => {
        const wake = (): void => {
          this.#waiting.delete(wake)
          signal?.removeEventListener('abort', wake)
          resolve()
        }
        this.#waiting.add(wake)
        signal?.addEventListener('abort', wake, { once: true })
      })
    }
  }

  status(view: NativeHaView, timeline: HaTimeline | undefined, machine: HaStatus['machine'], listen: string): HaStatus {
    const { name, role, state, code, message, session, peer, failovers } = this
    return {
      name,
      role,
      state,
      code,
      message,
      since: wallClock(this.#since).toISOString(),
      at: new Date().toISOString(),
      session,
      peer,
      listen,
      machine,
      stats: plainStats(statsOf(view)),
      sync: state === 'syncing' ? progressOf(view) : null,
      failovers,
      failover: plainFailover(timeline),
      figures: {},
      events: this.hub.recent.flatMap(event => {
        const text = sentence(event)
        return text === undefined
          ? []
          : [{ at: event.time.toISOString(), text, state: event.type === 'state' ? event.state : null }]
      })
    }
  }

  /** Whether the arbiter can be asked at all is said before it matters. */
  async check(arbiter: Arbiter): Promise<void> {
    let answers = false
    try {
      answers = (await arbiter.prepare?.()) ?? true
    } catch {
      // As if it had said so.
    }
    if (!answers)
      this.tell({
        type: 'warning',
        code: 'ARBITER_UNREACHABLE',
        message: 'the arbiter does not answer: while that lasts, a failure stops the machine on both sides'
      })
  }
}

/** The progress of a copy: whenever there is news, and at the end. @internal */
export class ProgressHub {
  readonly #waiting = new Set<() => void>()
  #count = 0

  wake(): void {
    this.#count++
    for (const wake of [...this.#waiting]) wake()
    this.#waiting.clear()
  }

  /** @param present - undefined when there is no copy any more */
  async *iterate(present: () => SyncProgress | undefined): AsyncGenerator<SyncProgress, undefined> {
    for (;;) {
      const count = this.#count
      const now = present()
      if (!now) return undefined
      yield now
      if (this.#count === count) await new Promise<void>(resolve => this.#waiting.add(resolve))
    }
  }
}

/** After so many milliseconds, or as soon as the signal is aborted. @internal */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    if (signal.aborted) done()
    else signal.addEventListener('abort', done, { once: true })
  })
}
