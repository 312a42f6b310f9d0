// A side's status: plain data, the same in a process, in /state.json and on the page.
import { wallClock, type HaState, type HaStats, type HaTimeline, type SyncProgress } from './figures.js'
import type { HaEvent } from './events.js'

/** With every bigint as a number. */
type Plain<T> = { [K in keyof T]: T[K] extends bigint ? number : T[K] }

/**
 * A failover as plain data: moments in milliseconds after {@link at}, null for what did not happen.
 *
 * @since 0.1.0
 */
export interface FailoverStatus {
  /** When the other side was last heard of, ISO 8601. */
  at: string
  /** See {@link HaTimeline}. */
  cause: string
  /** See {@link HaTimeline}. */
  detected: number | null
  /** See {@link HaTimeline}. */
  claimed: number | null
  /** See {@link HaTimeline}. */
  replayed: number | null
  /** See {@link HaTimeline}. */
  live: number | null
  /** See {@link HaTimeline}. */
  announced: number | null
  /** See {@link HaTimeline}. */
  boundary: number
  /** See {@link HaTimeline}. */
  reissuedPackets: number
  /** See {@link HaTimeline}. */
  reissuedRequests: number
}

/**
 * What a side is at, as JSON can hold it.
 *
 * @since 0.1.0
 */
export interface HaStatus {
  /** Names the source among others. */
  name: string
  /** Who it is; a backup that went live and is protected again is a primary. */
  role: 'primary' | 'backup'
  state: HaState
  /** Why: the code of the last state event. */
  code: string
  /** The same as a sentence. */
  message: string
  /** Since when it is in this state, ISO 8601. */
  since: string
  /** When this was written, ISO 8601. */
  at: string
  /** The protection's session: 32 hexadecimal digits, or empty. */
  session: string
  /** The other side's address, or empty. */
  peer: string
  /** Where a backup listens, or empty. */
  listen: string
  /** Of the machine here, when there is one. */
  machine: { state: string; reason: string } | null
  stats: Plain<HaStats>
  /** While memory and disks are copied. */
  sync: SyncProgress | null
  /** How often a machine went live here. */
  failovers: number
  /** Of the last failover that this side took part in. */
  failover: FailoverStatus | null
  /** What else the application measures, for example `{ 'operations/s': 1234 }`. */
  figures: Record<string, number>
  /** What happened last, oldest first. */
  events: { at: string; text: string; state: string | null }[]
}

/**
 * What can be observed: a {@link Protection} or a {@link Standby}.
 *
 * @since 0.1.0
 */
export interface HaSource {
  /** What it is at. */
  status(): HaStatus
  /** What happens, as it happens. */
  events(options?: { signal?: AbortSignal; limit?: number }): AsyncIterableIterator<HaEvent>
}

/** Of a source that tells nothing more than this. @internal */
export function blankStatus(said: Pick<HaStatus, 'name' | 'role' | 'state' | 'code' | 'message'>): HaStatus {
  const at = new Date().toISOString()
  return {
    ...said,
    since: at,
    at,
    session: '',
    peer: '',
    listen: '',
    machine: null,
    stats: {
      logBytes: 0,
      logRecords: 0,
      inputBytes: 0,
      logBlocks: 0,
      ackedRecords: 0,
      boundary: 0,
      peerBoundary: 0,
      lagMs: 0,
      lagP50Ms: 0,
      lagP99Ms: 0,
      lagMaxMs: 0,
      roundTripMs: 0,
      heldOutputs: 0,
      heldBytes: 0,
      releasedOutputs: 0,
      droppedOutputs: 0,
      holdP50Ms: 0,
      holdP99Ms: 0,
      pacedMs: 0,
      heartbeatTimeoutMs: 0
    },
    sync: null,
    failovers: 0,
    failover: null,
    figures: {},
    events: []
  }
}

/** @internal */
export function plainStats(stats: HaStats): Plain<HaStats> {
  return Object.fromEntries(Object.entries(stats).map(([key, value]) => [key, Number(value)])) as Plain<HaStats>
}

/** @internal */
export function plainFailover(timeline: HaTimeline | undefined): FailoverStatus | null {
  if (!timeline) return null
  const { cause, lastHeard, detected, claimed, replayed, live, announced, boundary, ...counts } = timeline
  const first = lastHeard ?? detected ?? claimed ?? live
  if (first === undefined) return null
  const after = (moment: number | undefined): number | null => (moment === undefined ? null : round(moment - first))
  return {
    at: wallClock(first).toISOString(),
    cause,
    detected: after(detected),
    claimed: after(claimed),
    replayed: after(replayed),
    live: after(live),
    announced: after(announced),
    boundary: Number(boundary),
    ...counts
  }
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000
}
