// The door of hypertwin/eventlog: record a machine, read its log, replay it.
export { EventLogError } from './errors.js'
export {
  EventLog,
  type LogBlock,
  type LogHeader,
  type LogRecords,
  type RecordsOptions,
  type VerifyReport
} from './log.js'
export {
  Recording,
  type Recordable,
  type RecordingOptions,
  type RecordingResult,
  type RecordingStats,
  type Suspect
} from './recording.js'
export type {
  BlockCompletionRecord,
  CheckRecord,
  ConsoleRecord,
  EndRecord,
  EntropyRecord,
  EpochRecord,
  ExtensionRecord,
  GapRecord,
  InterruptRecord,
  LifecycleRecord,
  OutputRecord,
  LogDamage,
  LogRecord,
  LogRecordBase,
  MarkerRecord,
  PacketRecord,
  StateDigestRecord,
  TimeRecord
} from './records.js'
export {
  Replay,
  type Divergence,
  type ReplayMachine,
  type ReplayOptions,
  type ReplayProgress,
  type ReplayResult,
  type RunOptions
} from './replay.js'
export type { MemoryView, Registers, StateDigest } from '../state.js'
