// What a protection or a standby tells, and who listens.
import { Broadcast } from '../queue.js'
import { invalid } from './errors.js'
import { monotonic, wallClock, type HaState, type HaTimeline } from './figures.js'

/**
 * What happens to a protection or a standby.
 *
 * @since 0.1.0
 */
export type HaEvent = {
  /** Milliseconds of CLOCK_MONOTONIC, as in {@link HaTimeline}. */
  at: number
  /** The same by the wall clock. */
  time: Date
  /** Of the side that tells; a standby that went live and protects its machine again tells of that as a primary. */
  role: 'primary' | 'backup'
} & (
  | {
      /** The state changed, or what there is to say about it. */
      type: 'state'
      state: HaState
      /** Why, as a word: `'PEER_LOST'`, `'HEARTBEAT'`, `'HAND_OVER'`, `'LOST_CLAIM'`, `'ARBITER_UNREACHABLE'`, … */
      code: string
      /** Why, as a sentence. */
      message: string
      /** Of the protection; empty while there is none. */
      session: string
      /** The other side's address; empty while there is none. */
      peer: string
    }
  | {
      /** A backup is tried. */
      type: 'attempt'
      address: string
    }
  | {
      /** … and could not be had. */
      type: 'attempt-failed'
      address: string
      code: string
      message: string
    }
  | {
      /** Nobody in the pool can be had now; it is tried again so many milliseconds later. */
      type: 'retry'
      inMs: number
    }
  | {
      /** A backup sent somebody away. */
      type: 'refused'
      peer: string
      message: string
    }
  | {
      /** Something should be mended before it matters. */
      type: 'warning'
      code: string
      message: string
    }
  | {
      /** A failover is over. */
      type: 'failover'
      timeline: HaTimeline
    }
  | {
      /** A step of the protocol was taken; for tests. */
      type: 'step'
      step: string
    }
  | {
      /** So many events were lost here because they were not taken in time. */
      type: 'dropped'
      count: number
    }
)

/** An event without what every one has. @internal */
export type HaNews = HaEvent extends infer E ? (E extends HaEvent ? Omit<E, 'at' | 'time' | 'role'> : never) : never

/** An event as a sentence; undefined for one that only programs want to know. @internal */
export function sentence(event: HaEvent): string | undefined {
  switch (event.type) {
    case 'state':
      return `${event.state}: ${event.message || event.code.toLowerCase().replaceAll('_', ' ') || 'so it began'}`
    case 'attempt':
      return `asking ${event.address} to be the backup`
    case 'attempt-failed':
      return `${event.address} cannot be the backup now: ${event.message}`
    case 'retry':
      return `no backup can be had: trying again in ${Math.round(event.inMs)} ms`
    case 'refused':
      return `${event.peer} was sent away: ${event.message}`
    case 'warning':
      return event.message
    case 'failover':
      return `failover: ${describe(event.timeline)}`
    case 'dropped':
      return `${event.count} events were lost`
    case 'step':
      return undefined
  }
}

function describe(timeline: HaTimeline): string {
  const { lastHeard, detected, live, boundary } = timeline
  const from = lastHeard ?? detected
  const took = from === undefined || live === undefined ? '' : ` ${(live - from).toFixed(1)} ms after the last sign of life`
  return live === undefined ? `the machine did not move (${timeline.cause})` : `live at boundary ${boundary}${took}`
}

/** Gives each event to everybody who iterates, and remembers the last ones. @internal */
export class EventHub {
  readonly #streams = new Broadcast<HaEvent>()
  readonly #recent: HaEvent[] = []
  #over = false

  /** @param present - the event that a new iteration begins with */
  constructor(readonly present: () => HaEvent) {}

  get recent(): readonly HaEvent[] {
    return this.#recent
  }

  tell(event: HaEvent): void {
    if (this.#over) return
    if (this.#isNew(event)) {
      this.#recent.push(event)
      if (this.#recent.length > 100) this.#recent.shift()
    }
    this.#streams.push(event)
  }

  /** Who looks for a backup for hours has one thing to say, not thousands. */
  #isNew(event: HaEvent): boolean {
    if (event.type === 'step' || event.type === 'attempt' || event.type === 'retry') return false
    if (event.type !== 'attempt-failed') return true
    const text = sentence(event)
    return !this.#recent.slice(-16).some(before => sentence(before) === text)
  }

  events(options: { signal?: AbortSignal; limit?: number } = {}): AsyncIterableIterator<HaEvent> {
    const limit = options.limit ?? 1024
    if (!Number.isSafeInteger(limit) || limit < 1) throw invalid('limit must be a positive integer')
    return this.#streams.iterate({ limit, onFull: dropOldest, signal: options.signal }, this.present())
  }

  end(): void {
    this.#over = true
    this.#streams.end()
  }
}

/** Makes room for `item` by the oldest events, and keeps count of them in front. */
function dropOldest(items: HaEvent[], item: HaEvent): HaEvent[] {
  const first = items[0]
  const before = first?.type === 'dropped' ? first.count : 0
  // The notice takes a place of its own.
  const lost = before === 0 ? 2 : 1
  return [stamped(item.role, { type: 'dropped', count: before + lost }), ...items.slice(2), item]
}

/** @internal */
export function stamped(role: HaEvent['role'], news: HaNews, at = monotonic()): HaEvent {
  return { at, time: wallClock(at), role, ...news }
}
