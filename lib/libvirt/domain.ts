// A virtual machine, running or not.
import type { Duplex } from 'node:stream'
import { BackupJob, type BackupOptions } from './backup.js'
import { exportBackup, type BackupExport, type ExportBackupOptions } from './backup_export.js'
import type {
  BlockJob} from './block_jobs.js';
import {
  commitDisk,
  copyDisk,
  pullDisk,
  type CommitDiskOptions,
  type CopyDiskOptions,
  type PullDiskOptions
} from './block_jobs.js'
import { openConsole, type ConsoleOptions } from './console.js'
import { describeDomain, type DomainDescription } from './description.js'
import { attachDevice, detachDevice, type DetachOptions, type DeviceOptions, type DeviceSpec } from './devices.js'
import { DomainDirtyRate, type DomainDirtyRateMode } from './dirty_rate.js'
import type { DomainCheckpoint } from './domain_checkpoint.js'
import type { DomainSnapshot } from './domain_snapshot.js'
import { DomainApi } from './generated/domain.js'
import type { DomainState, DomainXMLFlags } from './generated/enums.js'
import { GuestAgent } from './guest_agent.js'
import { stop, waitForState, type StopOptions, type WaitOptions } from './lifecycle.js'
import { SaveJob, type SaveOptions } from './save.js'
import { takeCheckpoint, takeSnapshot, type CheckpointOptions, type SnapshotOptions } from './snapshots.js'

/**
 * A virtual machine, running or not. Most methods are libvirt's, under its names; beside them stand those that do
 * whole tasks: they wait, tell how far they are, and can be given up. {@link migrate} is a function of its own.
 *
 * @since 0.1.0
 */
export class Domain extends DomainApi {
  /**
   * What it is made of, read from its XML.
   *
   * @param flags - an OR of `DomainXMLFlags`
   * @throws LibvirtError
   * @since 0.1.0
   */
  async describe(flags: DomainXMLFlags = 0): Promise<DomainDescription> {
    return describeDomain(await this.getXMLDesc(flags))
  }

  /**
   * Waits until it is in one of these states.
   *
   * @returns the state; undefined when it is off and, not being persistent, gone
   * @throws LibvirtError; `TIMEOUT`; `DOMAIN_GONE` when it ended and is not persistent
   * @since 0.1.0
   */
  waitForState(states: DomainState | readonly DomainState[], options: WaitOptions = {}): Promise<DomainState | undefined> {
    return waitForState(this, typeof states === 'number' ? [states] : states, options)
  }

  /**
   * Asks the guest to shut down and waits for it; when it does not, destroys the domain. One that is off is fine.
   *
   * @returns whether the guest has shut down by itself
   * @throws LibvirtError; `TIMEOUT` with `then: 'fail'`
   * @since 0.1.0
   */
  stop(options: StopOptions = {}): Promise<boolean> {
    return stop(this, options)
  }

  /**
   * Saves its memory to a file, after which it is off. {@link Connect.restoreFrom} goes on with it.
   *
   * @param file - on the host; undefined: libvirt keeps it, and the next start goes on with it (a managed save)
   * @throws LibvirtError `EINVAL`; everything else comes by the job's `done`
   * @see [virDomainSaveFlags](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSaveFlags),
   * [virDomainManagedSave](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainManagedSave)
   * @since 0.1.0
   */
  saveTo(file: string | undefined, options: SaveOptions = {}): SaveJob {
    return new SaveJob(this, file, options)
  }

  /**
   * Takes a snapshot.
   *
   * @throws LibvirtError
   * @see [virDomainSnapshotCreateXML](https://libvirt.org/html/libvirt-libvirt-domain-snapshot.html#virDomainSnapshotCreateXML)
   * @since 0.1.0
   */
  async takeSnapshot(options: SnapshotOptions = {}): Promise<DomainSnapshot> {
    return takeSnapshot(this, options)
  }

  /**
   * Begins to note which blocks of the disks are written, for incremental backups.
   *
   * @throws LibvirtError
   * @see [virDomainCheckpointCreateXML](https://libvirt.org/html/libvirt-libvirt-domain-checkpoint.html#virDomainCheckpointCreateXML)
   * @since 0.1.0; libvirt 5.6.0
   */
  takeCheckpoint(options: CheckpointOptions = {}): Promise<DomainCheckpoint> {
    return takeCheckpoint(this, options)
  }

  /**
   * Writes a backup of its disks while it runs.
   *
   * @throws LibvirtError `EINVAL`; everything else comes by the job's `done`
   * @see [virDomainBackupBegin](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBackupBegin)
   * @since 0.1.0; libvirt 6.0.0
   */
  backup(options: BackupOptions): BackupJob {
    return new BackupJob(this, options)
  }

  /**
   * Offers its disks as of this moment over NBD while it runs (a backup in pull mode), until the export is ended.
   *
   * ```ts
   * await using backup = await domain.exportBackup({ disks: ['vda'], server: { socket: '/run/backup.sock' } })
   * execFileSync('nbdcopy', [backup.disks.vda.uri, 'vda.raw'])
   * ```
   *
   * @throws LibvirtError
   * @see [virDomainBackupBegin](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBackupBegin)
   * @since 0.1.0; libvirt 6.0.0
   */
  exportBackup(options: ExportBackupOptions): Promise<BackupExport> {
    return exportBackup(this, options)
  }

  /**
   * Merges a disk's images downwards, while it runs.
   *
   * @param disk - its target name, `'vda'`, or path
   * @throws LibvirtError `EINVAL`; everything else comes by the job's `done`
   * @see [virDomainBlockCommit](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockCommit)
   * @since 0.1.0
   */
  commitDisk(disk: string, options: CommitDiskOptions = {}): BlockJob {
    return commitDisk(this, disk, options)
  }

  /**
   * Merges a disk's images upwards, into the one that it uses, while it runs.
   *
   * @param disk - its target name, `'vda'`, or path
   * @throws LibvirtError `EINVAL`; everything else comes by the job's `done`
   * @see [virDomainBlockRebase](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockRebase)
   * @since 0.1.0
   */
  pullDisk(disk: string, options: PullDiskOptions = {}): BlockJob {
    return pullDisk(this, disk, options)
  }

  /**
   * Copies a disk while it runs, and moves over to the copy.
   *
   * @param disk - its target name, `'vda'`
   * @param target - the path to copy to
   * @throws LibvirtError `EINVAL`; everything else comes by the job's `done`
   * @see [virDomainBlockCopy](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockCopy)
   * @since 0.1.0; libvirt 1.2.8
   */
  copyDisk(disk: string, target: string, options: CopyDiskOptions = {}): BlockJob {
    return copyDisk(this, disk, target, options)
  }

  /**
   * Attaches a device: to the running domain, and to its definition.
   *
   * @throws LibvirtError
   * @see [virDomainAttachDeviceFlags](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainAttachDeviceFlags)
   * @since 0.1.0
   */
  attach(device: DeviceSpec, options: DeviceOptions = {}): Promise<void> {
    return attachDevice(this, device, options)
  }

  /**
   * Detaches a device, and waits until the guest has let go of it.
   *
   * @param device - its alias, a disk's target name, or an interface's MAC or target
   * @throws LibvirtError; `TIMEOUT`, `DEVICE_BUSY` when the guest keeps it
   * @see [virDomainDetachDeviceFlags](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainDetachDeviceFlags)
   * @since 0.1.0
   */
  detach(device: string, options: DetachOptions = {}): Promise<void> {
    return detachDevice(this, device, options)
  }

  /**
   * Its console, to read and write.
   *
   * @throws LibvirtError
   * @see [virDomainOpenConsole](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainOpenConsole)
   * @since 0.1.0
   */
  console(options: ConsoleOptions = {}): Promise<Duplex> {
    return openConsole(this, options)
  }

  /**
   * The agent in its guest.
   *
   * @since 0.1.0
   */
  get agent(): GuestAgent {
    return new GuestAgent(this)
  }

  /**
   * How fast it writes its memory.
   *
   * @param mode - how to measure; `'page-sampling'` if left out
   * @since 0.1.0; libvirt 7.2.0
   */
  dirtyRate(mode: DomainDirtyRateMode = 'page-sampling'): DomainDirtyRate {
    return new DomainDirtyRate(this, mode)
  }
}
