// The addon's log, recording and replay part, as this layer uses it.
import { native } from '../native.js'
import type { NativeRegisters, StateDigest } from '../state.js'
import type { LogDamage } from './records.js'
import type { LogBlock, LogHeader, VerifyReport } from './log.js'
import type { RecordingStats, Suspect } from './recording.js'
import type { Divergence } from './replay.js'

/** @internal */
export interface NativeLog {
  header(): LogHeader
  verify(): Promise<VerifyReport>
  index(): Promise<LogBlock[]>
  read(from: bigint, follow: boolean, gaps: boolean, extensions: boolean): NativeReader
  close(): Promise<void>
}

/** @internal */
export interface NativeBatch {
  numbers: BigUint64Array
  bytes: Uint8Array
  /** Each stands before the record of that position in the batch. */
  damages: { before: number; damage: LogDamage }[]
  /** Nothing comes after this batch. */
  stop: 'end' | 'data-ends' | 'gap' | 'cancelled' | undefined
  /** What it failed with, after this batch. */
  error: Error | undefined
}

/** @internal */
export interface NativeReader {
  take(): NativeBatch | undefined
  /** Resolves when take() gives something. */
  wait(): Promise<void>
  close(): Promise<void>
}

/** @internal */
export interface NativeRecordingOptions {
  sync: number
  syncIntervalMs: number
  commitLatencyUs: number
  commitBytes: number
  bufferBytes: number
  failWhenFull: boolean
  segmentBytes: number
  faults: (number | undefined)[]
}

/** @internal */
export interface NativeRecording {
  stop(): Promise<{
    firstBoundary: bigint
    lastBoundary: bigint
    state: StateDigest | undefined
    stats: RecordingStats
  }>
  checkpoint(): Promise<StateDigest>
  retry(): Promise<void>
  stats(): RecordingStats
  failure(): Error | undefined
  firstBoundary(): bigint
  suspects(): Suspect[]
  close(): Promise<void>
}

/** @internal */
export interface NativeReplay {
  run(to: bigint | undefined, back: boolean): Promise<NativeReplayResult>
  cancel(): Promise<void>
  boundary(): bigint
  firstBoundary(): bigint
  lastBoundary(): bigint | undefined
  header(): LogHeader
  console(): Uint8Array
  memorySize(): number
  readMemory(address: bigint, into: Uint8Array): void
  registers(): Promise<NativeRegisters>
  stateDigest(): Promise<StateDigest>
  close(): Promise<void>
}

/** @internal */
export interface NativeReplayResult {
  stop: string
  boundary: bigint
  state: StateDigest
  complete: boolean
  checks: bigint
  stateChecks: bigint
  divergence: Divergence | undefined
  damages: LogDamage[]
  message: string
}

/** @internal */
export interface NativeLogWriter {
  append(kind: number, boundary: number, bytes: Uint8Array): void
  flush(): Promise<void>
  /** Appends the end record and writes all. */
  finish(boundary: number): Promise<void>
  failure(): Error | undefined
  close(): Promise<void>
}

interface NativeEventLog {
  open(directory: string): Promise<NativeLog>
  record(
    machine: object,
    directory: string,
    options: NativeRecordingOptions,
    onFailure: () => void
  ): Promise<NativeRecording>
  write(
    directory: string,
    subject: string,
    version: number,
    configuration: string,
    onFailure: () => void
  ): Promise<NativeLogWriter>
  replay(device: string, directory: string, follow: boolean, stallMs: number): Promise<NativeReplay>
}

/** @internal */
export const nativeEventLog: NativeEventLog = (native as { eventlog: NativeEventLog }).eventlog
