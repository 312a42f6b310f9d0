// The addon's migration part, as this layer uses it.
import type { NativeArbiter } from '../arbiter/native.js'
import type { NativeMachine, Notify } from '../machine/addon.js'
import { native } from '../native.js'
import type { StateDigest } from '../state.js'
import type { NativeProgress } from './progress.js'

/** @internal */
export interface NativeTls {
  ca: string
  certificate: string
  key: string
  serverName: string
}

/** @internal */
export interface NativeMigrateOptions {
  address: string
  tls: NativeTls | undefined
  arbiter: NativeArbiter | undefined
  copyDisks: boolean
  compress: boolean
  delta: boolean
  deltaCache: number
  bandwidth: number
  maxBlackoutMs: number
  maxRounds: number
  mustConverge: boolean
  verifyMemory: boolean
  connectTimeoutMs: number
  patienceMs: number
  claimPatienceMs: number
}

/** @internal */
export interface NativeMigrateResult {
  session: string
  digest: StateDigest
  blackoutNs: number
  totalNs: number
  progress: NativeProgress
}

/** A step's name, or a progress. @internal */
export type NativeNews = string | NativeProgress

/** @internal */
export interface NativeMigration {
  run(machine: object, options: NativeMigrateOptions): Promise<NativeMigrateResult>
  take(): NativeNews[]
  cancel(): void
  /** Bytes a second; 0: none. */
  limit(bytes: number): void
  close(): Promise<void>
}

/** @internal */
export interface NativeReceiveOptions {
  disks: (string | undefined)[]
  diskFolders: string[]
  /** `''`: a queue in this process. */
  taps: (string | undefined)[]
  arbiter: NativeArbiter | undefined
  startPaused: boolean
  patienceMs: number
}

/** @internal */
export interface NativeReceiveResult {
  machine: NativeMachine
  session: string
  digest: StateDigest
  progress: NativeProgress
}

/** @internal */
export interface NativeIncoming {
  peer(): string
  receive(options: NativeReceiveOptions, notify: Notify, notifyMachine: Notify): Promise<NativeReceiveResult>
  take(): NativeNews[]
  cancel(): void
  close(): Promise<void>
}

/** @internal */
export interface NativeListener {
  begin(options: { device: string; address: string; tls: NativeTls | undefined }): Promise<void>
  address(): string
  /** Undefined once it is closed. */
  accept(): Promise<NativeIncoming | undefined>
  takeRefused(): string[]
  close(): Promise<void>
}

interface NativeMigrations {
  migration(notify: Notify): NativeMigration
  listener(notify: Notify): NativeListener
}

/** @internal */
export const nativeMigrations: NativeMigrations = (native as { migrate: NativeMigrations }).migrate
