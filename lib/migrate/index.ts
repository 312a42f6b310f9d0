// The door of hypertwin/migrate: a machine goes from one process to another while it runs.
export { MigrateError } from './errors.js'
export { IncomingMigration, listen, MigrationListener, type ReceivedMachine } from './listen.js'
export { Migration, migrate, type Migratable, type MigrationResult } from './migration.js'
export type { ListenOptions, MigrateOptions, MigrateTls, ReceiveOptions } from './options.js'
export type { MigrationProgress } from './progress.js'
export type { MigrationRound } from '../migration_round.js'
export type { Arbiter, Claim } from '../arbiter/arbiter.js'
export type { StateDigest } from '../state.js'
