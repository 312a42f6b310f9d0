// The door of hypertwin/libvirt: all of libvirt, under its own names.
import { addon } from './addon.js'
import { toLibvirtError } from './errors.js'

export { BackupJob, type BackupOptions } from './backup.js'
export { BackupExport, type BackupServer, type ExportBackupOptions, type ExportedDisk } from './backup_export.js'
export {
  BlockJob,
  type BlockJobOptions,
  type BlockJobProgress,
  type CommitDiskOptions,
  type CopyDiskOptions,
  type PullDiskOptions
} from './block_jobs.js'
export * from './classes.js'
export { type ConnectOptions, type CredentialRequest } from './connect.js'
export { type ConsoleOptions } from './console.js'
export { CpuSet } from './cpu_set.js'
export {
  describeDomain,
  type DomainCharacterDevice,
  type DomainDescription,
  type DomainDisk,
  type DomainNetworkInterface
} from './description.js'
export { type DetachOptions, type DeviceOptions, type DeviceSpec } from './devices.js'
export { DomainDirtyRate, type DomainDirtyRateMode, type DomainDirtyRateSample } from './dirty_rate.js'
export { LibvirtError, type LibvirtErrorDetails } from './errors.js'
export { type DomainEvent, type NetworkEvent, type StoragePoolEvent, type NodeDeviceEvent, type SecretEvent, type QemuMonitorEvent, type AnyEvent, type EventKind, type DroppedEvents, type EventOptions, EventStream, watchEvents, type WatchOpen, type WatchGap, type WatchOptions } from './events.js'
export * from './generated/enums.js'
export * from './generated/events.js'
export { admGetVersion, domainListGetStats, getVersion } from './generated/functions.js'
export * from './generated/params.js'
export * from './generated/structs.js'
export {
  GuestAgent,
  type GuestAgentCommands,
  type GuestAgentOptions,
  type GuestExecOptions,
  type GuestExecution
} from './guest_agent.js'
export { Handle } from './handle.js'
export { DomainJob } from './job.js'
export { type CreateDomainOptions, type StopOptions, type WaitOptions } from './lifecycle.js'
export { DomainMigration, migrate, type DomainMigrationResult } from './migration.js'
export { type DomainMigrateOptions } from './migration_options.js'
export { type DomainMigrationProgress } from './migration_progress.js'
export { type LibvirtEvent } from './registration.js'
export { SaveJob, type JobProgress, type RestoreOptions, type SaveOptions } from './save.js'
export {
  describeSnapshot,
  type CheckpointOptions,
  type SnapshotDescription,
  type SnapshotDisk,
  type SnapshotOptions
} from './snapshots.js'
export { domainXml, type DiskSpec, type DomainSpec, type InterfaceSpec } from './spec.js'
export { type DomainSample, type StatsGroup, type StatsOptions, type StatsSample } from './stats.js'
export { type StreamHole, type StreamDuplexOptions } from './stream.js'
export { type TypedInput, type TypedOutput, type TypedValue } from './typed.js'
export { parseXml, xmlText, type XmlElement } from './xml.js'
export type { DirtyRateSample, DirtyRateSource } from '../dirty_rate.js'
export type { MigrationRound } from '../migration_round.js'
export type { Size } from '../size.js'

/**
 * Whether the installed libvirt has a function. False as well when there is no libvirt.
 *
 * @param name - libvirt's name of it, for example `'virDomainFDAssociate'`
 * @since 0.1.0
 */
export function supports(name: string): boolean {
  return addon.libvirtSupports(name)
}

/**
 * The version of the installed libvirt: major * 1,000,000 + minor * 1,000 + release.
 *
 * @throws LibvirtError `LIBVIRT_MISSING` when there is none
 * @since 0.1.0
 */
export function libraryVersion(): number {
  const site = {}
  Error.captureStackTrace(site, libraryVersion)
  try {
    return addon.libvirtVersion()
  } catch (error) {
    throw toLibvirtError(error, site)
  }
}
