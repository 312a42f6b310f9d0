// The door of hypertwin/ha: primary and backup of one machine, what they measure, and a page that shows it.
export { HaError } from './errors.js'
export type { HaEvent } from './events.js'
export type { HaState, HaStats, HaTimeline, SyncProgress } from './figures.js'
export type {
  BackupOptions,
  HaTlsOptions,
  HeartbeatOptions,
  ProtectOptions,
  ProtectionDetails,
  SyncOptions
} from './options.js'
export { protect, Protection } from './protection.js'
export { backup, Standby } from './standby.js'
export type { FailoverStatus, HaSource, HaStatus } from './status.js'
export { HaMetrics } from './metrics.js'
export { HaServer, servePage, statusServer, type PageOptions, type StatusServerOptions } from './server.js'
