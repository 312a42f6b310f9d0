// The addon's primary and backup, as this layer uses them.
import type { NativeArbiter } from '../arbiter/native.js'
import type { NativeMachine, Notify } from '../machine/addon.js'
import { native } from '../native.js'

/** State, code, message, CLOCK_MONOTONIC in nanoseconds; or a step's name. @internal */
export type NativeHaNews = [state: string, code: string, message: string, at: bigint] | string

/** @internal */
export interface NativeHaView {
  state: string
  session: string
  stats: BigUint64Array
  timeline: { numbers: BigUint64Array; cause: string } | undefined
  progress: { phase: string; numbers: Float64Array }
}

/** @internal */
export interface NativeTls {
  ca: string
  certificate: string
  key: string
  serverName: string
}

interface NativeCommonOptions {
  arbiter: NativeArbiter
  heartbeatUs: number
  minTimeoutUs: number
  maxTimeoutUs: number
}

/** @internal */
export interface NativeProtectOptions extends NativeCommonOptions {
  address: string
  tls: NativeTls | undefined
  connectTimeoutMs: number
  maxLagUs: number
  heldBytes: number
  stopOnLoss: boolean
  compress: boolean
  delta: boolean
  bandwidth: number
  maxBlackoutMs: number
  maxRounds: number
  verifyMemory: boolean
  noOutputRule: boolean
  dropRecord: number | undefined
}

/** @internal */
export interface NativeFollowOptions extends NativeCommonOptions {
  device: string
  /** Undefined: the path that the primary uses. */
  disks: (string | undefined)[]
  diskFolders: string[]
  /** A name; '' for a queue in this process; undefined for what the primary has. */
  taps: (string | undefined)[]
  retainedBytes: number
  announce: boolean
}

interface NativeSide {
  begin(): Promise<void>
  view(): NativeHaView
  take(): NativeHaNews[]
  close(): Promise<void>
}

/** @internal */
export interface NativeProtection extends NativeSide {
  handOver(): Promise<void>
}

/** @internal */
export interface NativeBackup extends NativeSide {
  machine(): NativeMachine
}

/** @internal */
export interface NativeCaller {
  peer(): string
  refuse(code: string, sentence: string): Promise<void>
  follow(options: NativeFollowOptions, notify: Notify, notifyMachine: Notify): NativeBackup
  close(): Promise<void>
}

/** @internal */
export interface NativeListener {
  begin(): Promise<void>
  address(): string
  /** Undefined after close(). */
  accept(): Promise<NativeCaller | undefined>
  take(): NativeHaNews[]
  close(): Promise<void>
}

interface NativeHa {
  /** `notify` is told 0 for news, 1 for progress. */
  protect(machine: object, options: NativeProtectOptions, notify: Notify): NativeProtection
  listen(options: { listen: string; tls: NativeTls | undefined }, notify: Notify): NativeListener
}

/** @internal */
export const nativeHa: NativeHa = (native as { ha: NativeHa }).ha
