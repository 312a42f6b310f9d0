// What a side of a protection measures, in the form that people and programs read.
import { performance } from 'node:perf_hooks'
import process from 'node:process'
import type { NativeHaView } from './addon.js'

/**
 * Where a side is.
 * - `'connecting'`: a primary looks for its first backup
 * - `'listening'`: a backup waits for a primary
 * - `'syncing'`: memory and disks are being sent
 * - `'protected'`: the log is streamed; outputs wait for the backup
 * - `'suspecting'`: the other side is silent or gone, and the arbiter is being asked
 * - `'unprotected'`: the primary's backup is lost or let go; the machine goes on without, or has stopped if that is
 *   the policy
 * - `'live'`: the backup won; the machine runs here now
 * - `'halted'`: this side lost the claim, or handed over: the machine must not run here
 * - `'waiting'`: the arbiter does not answer, so nobody takes a risk: the machine is paused, and it is asked again
 * - `'ended'`: closed, or the machine ended
 *
 * @since 0.1.0
 */
export type HaState =
  | 'connecting'
  | 'listening'
  | 'syncing'
  | 'protected'
  | 'suspecting'
  | 'unprotected'
  | 'live'
  | 'halted'
  | 'waiting'
  | 'ended'

/** All states, in the order of a life. @internal */
export const haStates: readonly HaState[] = [
  'connecting',
  'listening',
  'syncing',
  'protected',
  'suspecting',
  'unprotected',
  'live',
  'halted',
  'waiting',
  'ended'
]

/**
 * What a side has counted and measured since the present protection began.
 *
 * @since 0.1.0
 */
export interface HaStats {
  /** Bytes of log, sent or received. */
  logBytes: bigint
  /** Records in it. */
  logRecords: bigint
  /** Bytes from outside in the records: what no log can do without. */
  inputBytes: bigint
  /** Log blocks; the records of one travel together. */
  logBlocks: bigint
  /** Records that the backup has acknowledged. */
  ackedRecords: bigint
  /** Of this side's machine. */
  boundary: bigint
  /** Boundary that the backup had replayed when it was last heard of. */
  peerBoundary: bigint
  /**
   * Milliseconds by which the backup's replay is behind: the age of the oldest block of the log that is not replayed,
   * at a protection since it was sent, at a standby since it came. 0 when there is none.
   */
  lagMs: number
  /** Quantiles of {@link lagMs}, of all blocks of this protection that were replayed. */
  lagP50Ms: number
  /** See {@link lagP50Ms}. */
  lagP99Ms: number
  /** See {@link lagP50Ms}. */
  lagMaxMs: number
  /** Log sent to its acknowledgement, in milliseconds, smoothed. */
  roundTripMs: number
  /** Packets and console writes that wait for the backup now. */
  heldOutputs: bigint
  /** Bytes in them. */
  heldBytes: bigint
  /** Those let out so far. */
  releasedOutputs: bigint
  /** Those thrown away, because the other side runs the machine. */
  droppedOutputs: bigint
  /** How long an output waited, in milliseconds. */
  holdP50Ms: number
  /** See {@link holdP50Ms}. */
  holdP99Ms: number
  /** Milliseconds that the primary was made to wait because the backup was too far behind. */
  pacedMs: number
  /** Silence of the other side that counts as its death, in milliseconds, as adapted to the connection. */
  heartbeatTimeoutMs: number
}

/**
 * One failover's moments: milliseconds of CLOCK_MONOTONIC, the clock of `process.hrtime`, which all processes of a
 * host share; undefined for what did not happen.
 *
 * @since 0.1.0
 */
export interface HaTimeline {
  /** Why the other side was taken for dead. */
  cause: string
  /** The last frame from the other side arrived. */
  lastHeard: number | undefined
  /** The other side was taken for dead. */
  detected: number | undefined
  /** The arbiter said yes. */
  claimed: number | undefined
  /** The end of the received log was reached. */
  replayed: number | undefined
  /** The machine's inputs and outputs are open. */
  live: number | undefined
  /** The network was told where the machine is now. */
  announced: number | undefined
  /** Where the machine went live. */
  boundary: bigint
  /** Packets and console writes sent again because nobody knows whether they went out. */
  reissuedPackets: number
  /** Disk requests submitted again. */
  reissuedRequests: number
}

/**
 * How far memory and disks are copied, before there is protection.
 *
 * @since 0.1.0
 */
export interface SyncProgress {
  /** What goes on: pre-copy of memory and disks, the stop for the rest, the agreement, done. */
  phase: 'connect' | 'memory' | 'stop' | 'commit' | 'done'
  /** Round of pre-copy, from 1. */
  round: number
  /** In all rounds. */
  pagesSent: number
  /** Of {@link pagesSent}. */
  pagesZero: number
  /** Of {@link pagesSent}. */
  pagesRaw: number
  /** Of {@link pagesSent}. */
  pagesCompressed: number
  /** Of {@link pagesSent}: as a difference from the copy sent before. */
  pagesDelta: number
  /** Blocks of disks. */
  diskBlocksSent: number
  /** On the wire. */
  bytesSent: number
  /** Of this round. */
  remainingPages: number
  /** Memory and disks, uncompressed. */
  remainingBytes: number
  /** How fast the guest dirties its memory. */
  dirtyPagesPerSecond: number
  /** On the wire, of late. */
  bytesPerSecond: number
  /** How long the machine would stand still if it were stopped now. */
  expectedBlackoutMs: number
  /** Since it began. */
  elapsedMs: number
}

const ms = (ns: bigint | undefined): number => Number(ns ?? 0n) / 1e6

/** @internal */
export function statsOf(view: NativeHaView): HaStats {
  const at = (i: number): bigint => view.stats[i] ?? 0n
  return {
    logBytes: at(0),
    logRecords: at(1),
    inputBytes: at(2),
    logBlocks: at(3),
    ackedRecords: at(4),
    boundary: at(5),
    peerBoundary: at(6),
    lagMs: ms(at(7)),
    lagP50Ms: ms(at(8)),
    lagP99Ms: ms(at(9)),
    lagMaxMs: ms(at(10)),
    roundTripMs: ms(at(11)),
    heldOutputs: at(12),
    heldBytes: at(13),
    releasedOutputs: at(14),
    droppedOutputs: at(15),
    holdP50Ms: ms(at(16)),
    holdP99Ms: ms(at(17)),
    pacedMs: ms(at(18)),
    heartbeatTimeoutMs: ms(at(19))
  }
}

/** @internal */
export const noView: NativeHaView = {
  state: 'syncing',
  session: '',
  stats: new BigUint64Array(20),
  timeline: undefined,
  progress: { phase: 'connect', numbers: new Float64Array(14) }
}

/** @internal */
export function timelineOf(view: NativeHaView): HaTimeline | undefined {
  if (!view.timeline) return undefined
  const { numbers, cause } = view.timeline
  const moment = (i: number): number | undefined => ((numbers[i] ?? 0n) === 0n ? undefined : ms(numbers[i]))
  return {
    cause,
    lastHeard: moment(0),
    detected: moment(1),
    claimed: moment(2),
    replayed: moment(3),
    live: moment(4),
    announced: moment(5),
    boundary: numbers[6] ?? 0n,
    reissuedPackets: Number(numbers[7] ?? 0n),
    reissuedRequests: Number(numbers[8] ?? 0n)
  }
}

/** @internal */
export function progressOf(view: NativeHaView): SyncProgress {
  const { phase, numbers } = view.progress
  const at = (i: number): number => numbers[i] ?? 0
  return {
    phase: phase as SyncProgress['phase'],
    round: at(0),
    pagesSent: at(1),
    pagesZero: at(2),
    pagesRaw: at(3),
    pagesCompressed: at(4),
    pagesDelta: at(5),
    diskBlocksSent: at(6),
    bytesSent: at(7),
    remainingPages: at(8),
    remainingBytes: at(9),
    dirtyPagesPerSecond: at(10),
    bytesPerSecond: at(11),
    expectedBlackoutMs: at(12),
    elapsedMs: at(13) / 1e6
  }
}

/** Milliseconds of CLOCK_MONOTONIC. @internal */
export function monotonic(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

// Once: a moment must not be two by the wall clock.
const offset = performance.timeOrigin + performance.now() - monotonic()

/** When that was by the wall clock. @internal */
export function wallClock(moment: number): Date {
  return new Date(offset + moment)
}
