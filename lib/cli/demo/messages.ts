// What the demo's processes tell each other over Node's IPC channels. Times are CLOCK_MONOTONIC in milliseconds,
// which all processes of a host share.
import process from 'node:process'
import type { HaStatus } from '../../ha/index.js'
import type { LoadStats, Verdict } from '../mailroom/load.js'

/** How a process of the demo reaches the users' network. */
export type Wire = { kind: 'tap'; tap: string } | { kind: 'hub'; socket: string }

/** What a client process is started with. */
export interface ClientConfig {
  users: number
  think: number
  seed: number
  /** Where the mailroom answers; the hub's socket when there are no namespaces. */
  guest: { kind: 'udp'; address: string } | { kind: 'hub'; socket: string }
}

/** To the client process. */
export type ClientOrder =
  /** Log in and begin. */
  | { do: 'start' }
  /** Finish what is under way, and tell of it. */
  | { do: 'stop' }
  /** Compare everything that was acknowledged with what is there. */
  | { do: 'verify' }

/** The longest time without an acknowledgement to anybody. */
export interface Gap {
  from: number
  to: number
}

/** What the users have done since the last report. */
export interface Progress {
  is: 'progress'
  at: number
  operations: number
  p50: number
  p99: number
  /** The longest gap, in milliseconds. */
  gap: number
  /** Users that are still at it. */
  users: number
}

/** What the users saw from first to last. */
export interface Seen {
  stats: LoadStats
  /** When the first request was made, and the last was answered. */
  begun: number
  ended: number
  /** Acknowledged operations in each {@link BIN_MS} from `begun` on. */
  bins: number[]
  /** Every gap of at least {@link GAP_MS}. */
  gaps: Gap[]
  /** 99th percentile of all gaps, in milliseconds. */
  gapP99: number
  /** Users that had to log in again or gave up. */
  broken: number
  /** Share of the time that the JavaScript thread worked, 0 to 1. */
  busy: number
}

/** From the client process. */
export type ClientReport =
  | { is: 'ready' }
  | { is: 'started'; at: number }
  | Progress
  | { is: 'stopped'; seen: Seen }
  | { is: 'verified'; verdict: Verdict; mailroom: { digest: string; operations: string } }
  | { is: 'failed'; message: string }

/** Between two reports, in milliseconds. */
export const REPORT_MS = 250
/** Width of a bin, in milliseconds. */
export const BIN_MS = 1
/** Later operations are in no bin. */
export const BINS_MAX = 1_000_000
/** Shorter gaps are only counted. */
export const GAP_MS = 2

/** Milliseconds on the clock that all processes share. */
export function clock(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** In a child process: sends to the parent. */
export function tell(message: object): void {
  if (process.connected) process.send?.(message)
}

/** In a child process: ends with its parent, however that ended. */
export function dieWithParent(): void {
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
  // Ctrl-C reaches the whole group; the parent decides what becomes of us.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
}

/** What a host process is started with. */
export interface HostConfig {
  /** Its number, from 1 on. */
  host: number
  wire: Wire
  /** Its own copy of the mailroom's disk. */
  disk: string
  memory: string | number
  device: string
  /** Silence that counts as death, at least, in milliseconds. */
  silence: number | undefined
  /** As {@link openArbiter} takes it. */
  arbiter: string
  /** Where it takes in a primary's machine; undefined for the host that boots it. */
  listen: string | undefined
  /** Hosts that may become its backup once it runs the machine, in that order. */
  pool: string[]
  /** Tell of the status too, for the live page. */
  status: boolean
}

/** To a host process. */
export type HostOrder =
  /** Let the backup take over at a planned point, and tell of the digests there. */
  { do: 'handOver' }

/** A failover's moments. */
export interface Moments {
  detected: number
  claimed: number
  replayed: number
  live: number
  /** Boundary at which the machine went on. */
  boundary: bigint
  /** Why the primary was taken for dead. */
  cause: string
}

/** From a host process. */
export type HostReport =
  /** It waits for a primary. */
  | { is: 'listening' }
  /** The mailroom runs here. */
  | { is: 'up' }
  /** Its machine has a backup. */
  | { is: 'protected'; at: number; by: string; syncMs: number }
  /** Of a protected machine, a few times a second. */
  | { is: 'channel'; lagMs: number; logBytes: number; held: number }
  /** All of it, for the live page. */
  | { is: 'status'; status: HaStatus }
  /** What happens otherwise. */
  | { is: 'state'; at: number; state: string; code: string; message: string }
  /** It was a backup, and runs the machine now. */
  | { is: 'live'; moments: Moments }
  /** The machine's state where it was handed over, as this side has it. */
  | { is: 'digest'; boundary: bigint; combined: string }
  | { is: 'failed'; message: string }
