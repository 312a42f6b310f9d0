// How far a migration of a domain is: libvirt's job statistics, as the figures that hypertwin/migrate has, too.
import type { DomainJobStats } from './generated/params.js'
import type { TypedOutput } from './typed.js'

/**
 * How far a migration is.
 *
 * @since 0.1.0
 */
export interface DomainMigrationProgress {
  /**
   * - `'connect'`: the two sides agree
   * - `'disks'`: images are copied
   * - `'memory'`: rounds, while the domain runs
   * - `'stop'`: it stands still, the rest is sent
   * - `'post-copy'`: it runs at the destination, its memory follows
   * - `'done'`: all is there
   */
  phase: 'connect' | 'disks' | 'memory' | 'stop' | 'post-copy' | 'done'
  /** From 1; 0 before the first. */
  round: number
  /** Pages sent so far, in all rounds: one sent twice counts twice. */
  pages: number
  /** Of these: nothing but zeros. */
  zeroPages: number
  /** Of these: with their bytes. */
  rawPages: number
  /** Of these: as the difference from the last copy sent. */
  deltaPages: number
  /** Bytes of a page. */
  pageSize: number
  /** Sent so far, memory and disks. */
  bytes: number
  /** Of disks, in units of 64 KiB, sent so far. */
  diskBlocks: number
  /** Pages that are still to be sent. */
  remainingPages: number
  /** Bytes of memory and disks that are still to be sent. */
  remainingBytes: number
  /** Bytes of memory and disks in all. */
  totalBytes: number
  /** Pages that the guest wrote a second in the round before; 0 while that is not known. */
  dirtyPagesPerSecond: number
  /** Of late. */
  bytesPerSecond: number
  /** How long the domain would stand still if it stopped now, in milliseconds; 0 while that is not known. */
  expectedBlackoutMs: number
  /** By how many per cent the guest is slowed down. */
  throttlePercent: number
  /** Pages that the guest has waited for at the destination. */
  postCopyRequests: number
  /** Since the beginning, in milliseconds. */
  elapsedMs: number
  /** All that libvirt says. */
  stats: TypedOutput<DomainJobStats>
}

/** @internal */
export function progressOf(
  stats: TypedOutput<DomainJobStats>,
  phase: DomainMigrationProgress['phase']
): DomainMigrationProgress {
  const at = (value: bigint | number | undefined): number => Number(value ?? 0)
  const pageSize = at(stats.memory_page_size) || 4096
  return {
    phase,
    round: at(stats.memory_iteration),
    pages: at(stats.memory_constant) + at(stats.memory_normal) + at(stats.compression_pages),
    zeroPages: at(stats.memory_constant),
    rawPages: at(stats.memory_normal),
    deltaPages: at(stats.compression_pages),
    pageSize,
    bytes: at(stats.memory_processed) + at(stats.disk_processed),
    diskBlocks: Math.ceil(at(stats.disk_processed) / 65536),
    remainingPages: Math.ceil(at(stats.memory_remaining) / pageSize),
    remainingBytes: at(stats.memory_remaining) + at(stats.disk_remaining),
    totalBytes: at(stats.memory_total) + at(stats.disk_total),
    dirtyPagesPerSecond: at(stats.memory_dirty_rate),
    bytesPerSecond: at(stats.memory_bps) + at(stats.disk_bps),
    expectedBlackoutMs: at(stats.downtime),
    throttlePercent: at(stats.auto_converge_throttle),
    postCopyRequests: at(stats.memory_postcopy_requests),
    elapsedMs: at(stats.time_elapsed),
    stats
  }
}
