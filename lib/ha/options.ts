// What protect() and backup() are told, checked and brought into the form that the addon takes.
import type { Arbiter } from '../arbiter/index.js'
import { toBytes, type Size } from '../kvm/size.js'
import type { NativeFollowOptions, NativeProtectOptions, NativeTls } from './addon.js'
import { HaError, invalid } from './errors.js'

/**
 * TLS of the connection between primary and backup: PEM texts. Both sides show a certificate and check the other's;
 * there is no other mode.
 *
 * @since 0.1.0
 */
export interface HaTlsOptions {
  /** Checks the other side's certificate. */
  ca: string | Uint8Array
  /** This side's, and its chain. */
  cert: string | Uint8Array
  /** Its private key. */
  key: string | Uint8Array
  /**
   * What the other side's certificate must name: a DNS name or an IP address. Default, where it connects: the host
   * that is connected to; where it listens: not checked.
   */
  servername?: string
}

/**
 * How death is told from silence.
 *
 * @since 0.1.0
 */
export interface HeartbeatOptions {
  /** Milliseconds between two signs of life. Default 2. */
  intervalMs?: number
  /**
   * Milliseconds of silence that count as death, at least: adapted between this and `maxTimeoutMs` to what the
   * connection shows. At least three times `intervalMs`; default six times, and at least 12.
   */
  minTimeoutMs?: number
  /** See `minTimeoutMs`; equal values: a fixed time. Default 1000, or `minTimeoutMs` if that is more. */
  maxTimeoutMs?: number
}

/**
 * How memory and disks are copied before there is protection.
 *
 * @since 0.1.0
 */
export interface SyncOptions {
  /** Compress pages and blocks. Default true. */
  compress?: boolean
  /** Send what changed of a page that was sent before. Default true. */
  delta?: boolean
  /** Bytes a second at most, for example `'100MiB'`; default without a limit. */
  bandwidth?: Size
  /** The machine is stopped for the rest when that takes less than so many milliseconds. Default 30. */
  maxBlackoutMs?: number
  /** … or after so many rounds. Default 30. */
  maxRounds?: number
  /** Compare a digest of all memory and disks before the machine counts as protected. Default true. */
  verify?: boolean
}

/**
 * How a machine is protected.
 *
 * @since 0.1.0
 */
export interface ProtectOptions {
  /** The backup's address, `'tcp://host:port'` or `'unix:/path'`; or a pool of them, tried in that order. */
  backup: string | readonly string[]
  /** Decides who goes on when the connection is lost; both sides must ask the same one. See `hypertwin/arbiter`. */
  arbiter: Arbiter
  /** Default: in the clear. */
  tls?: HaTlsOptions
  /** The machine waits while the backup's replay is further behind than so many milliseconds. Default 20. */
  maxLagMs?: number
  /** … or while outputs of so many bytes wait for the backup. Default `'16MiB'`. */
  heldOutputs?: Size
  /** See {@link HeartbeatOptions}. */
  heartbeat?: HeartbeatOptions
  /**
   * What the machine does when its backup is lost: goes on unprotected (default), or stops: it pauses, with reason
   * `'unprotected'`, and goes on when it is protected again.
   */
  onLoss?: 'continue' | 'stop'
  /** See {@link SyncOptions}. */
  sync?: SyncOptions
  /** When the backup is lost, look for another one in the pool, the same one included. Default true. */
  reprotect?: boolean
  /**
   * What protect() does when nobody in the pool can be reached at first: reject (default, false), or go on looking
   * as it does later.
   */
  wait?: boolean
  /** Milliseconds before the pool is tried again: `firstMs`, then twice as many each time, up to `mostMs`. Default 250, 10000. */
  retry?: { firstMs?: number; mostMs?: number }
  /** Milliseconds for one connection. Default 5000. */
  connectTimeoutMs?: number
  /** Names it on the page and in metrics. Default: host name and process. */
  name?: string
  /**
   * Errors planted on purpose, to show that they are caught.
   *
   * @internal
   */
  plantedFaults?: { noOutputRule?: boolean; dropRecord?: number }
}

/**
 * How a machine is protected, but by whom.
 *
 * @since 0.1.0
 */
export type ProtectionDetails = Omit<ProtectOptions, 'backup' | 'arbiter' | 'wait' | 'name'>

/**
 * How a backup works.
 *
 * @since 0.1.0
 */
export interface BackupOptions {
  /** Where primaries connect: `'tcp://0.0.0.0:7200'` (port 0: any), or `'unix:/path'`. */
  listen: string
  /** See {@link ProtectOptions.arbiter}. */
  arbiter: Arbiter
  /** Default: in the clear. */
  tls?: HaTlsOptions
  /**
   * Image files of this side's copies, in the order of the devices; those that are not there are created. Undefined:
   * the primary's path, which must then be another file here, in one of `diskFolders`.
   */
  disks?: (string | undefined)[]
  /**
   * Folders in which, and below, the primary may choose: any file there is its guest's to read, write and make. Default:
   * none, so a machine with a disk that `disks` does not name is refused.
   */
  diskFolders?: readonly string[]
  /** Tap interfaces of this host, in the order of the devices; null: a queue in this process; undefined: the primary's name. */
  taps?: (string | null | undefined)[]
  /** See {@link HeartbeatOptions}. */
  heartbeat?: HeartbeatOptions
  /** Outputs kept to be sent again at go-live. Default `'16MiB'`. */
  retainedOutputs?: Size
  /** At go-live, tell the network where the machine is now (gratuitous ARP, RARP). Default true. */
  announce?: boolean
  /** Once live: where this side looks for a backup of its own, by itself. */
  pool?: string | readonly string[]
  /** … and how it is protected then. */
  protection?: ProtectionDetails
  /** The KVM device. Default `/dev/kvm`. */
  device?: string
  /** Names it on the page and in metrics. Default: host name and process. */
  name?: string
}

type Native<T> = Omit<T, 'arbiter' | 'address'>

/** What of the options is settled for every backup that is tried. @internal */
export interface ProtectSettings {
  addresses: readonly string[]
  native: Native<NativeProtectOptions>
  arbiter: Arbiter
  reprotect: boolean
  wait: boolean
  firstRetryMs: number
  mostRetryMs: number
  name: string | undefined
}

/** @internal */
export interface BackupSettings {
  listen: string
  tls: NativeTls | undefined
  native: Native<NativeFollowOptions>
  arbiter: Arbiter
  pool: readonly string[]
  protection: Omit<ProtectOptions, 'backup' | 'arbiter'>
  name: string | undefined
}

// ---- checks

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${what} must be an object`)
  return value as Record<string, unknown>
}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '' || value.includes('\0')) throw invalid(`${what} must be a text`)
  return value
}

function boolean(value: unknown, normal: boolean, what: string): boolean {
  if (value === undefined) return normal
  if (typeof value !== 'boolean') throw invalid(`${what} must be true or false`)
  return value
}

function milliseconds(value: unknown, normal: number, what: string, least: number, most: number): number {
  if (value === undefined) return normal
  if (typeof value !== 'number' || !(value >= least && value <= most))
    throw invalid(`${what} must be a number of milliseconds from ${least} to ${most}`)
  return value
}

function bytes(value: unknown, normal: number, what: string): number {
  if (value === undefined) return normal
  try {
    const size = toBytes(value as Size)
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid('it is too much')
    return Number(size)
  } catch (error) {
    throw new HaError(`${what}: ${error instanceof Error ? error.message : String(error)}`, { code: 'EINVAL', cause: error })
  }
}

function pem(value: unknown, what: string): string {
  const found = value instanceof Uint8Array ? Buffer.from(value).toString('utf8') : value
  if (typeof found !== 'string' || !found.includes('-----BEGIN ')) throw invalid(`${what} must be a PEM text`)
  return found
}

function tlsOf(value: unknown): NativeTls | undefined {
  if (value === undefined) return undefined
  const { ca, cert, key, servername } = object(value, 'tls')
  return {
    ca: pem(ca, 'tls.ca'),
    certificate: pem(cert, 'tls.cert'),
    key: pem(key, 'tls.key'),
    serverName: servername === undefined ? '' : text(servername, 'tls.servername')
  }
}

function arbiterOf(value: unknown): Arbiter {
  if (typeof value !== 'object' || value === null || typeof (value as Partial<Arbiter>).claim !== 'function')
    throw invalid('arbiter must be given: a FileArbiter, an EtcdArbiter, or one of your own')
  return value as Arbiter
}

function heartbeatOf(value: unknown): { heartbeatUs: number; minTimeoutUs: number; maxTimeoutUs: number } {
  const { intervalMs, minTimeoutMs, maxTimeoutMs } = object(value ?? {}, 'heartbeat')
  const every = milliseconds(intervalMs, 2, 'heartbeat.intervalMs', 0.1, 60_000)
  const least = milliseconds(minTimeoutMs, Math.max(12, every * 6), 'heartbeat.minTimeoutMs', 1, 600_000)
  const most = milliseconds(maxTimeoutMs, Math.max(1000, least), 'heartbeat.maxTimeoutMs', 1, 600_000)
  if (least < 3 * every) throw invalid('heartbeat.minTimeoutMs must be at least three times heartbeat.intervalMs')
  if (most < least) throw invalid('heartbeat.maxTimeoutMs must be at least heartbeat.minTimeoutMs')
  return { heartbeatUs: Math.round(every * 1000), minTimeoutUs: Math.round(least * 1000), maxTimeoutUs: Math.round(most * 1000) }
}

/** @internal */
export function addressOf(value: unknown, what: string): string {
  const found = text(value, what)
  if (!/^(tcp:\/\/.+:\d{1,5}|unix:.+)$/.test(found))
    throw new HaError(`${what} must be 'tcp://host:port' or 'unix:/path', not ${JSON.stringify(found)}`, {
      code: 'BAD_ADDRESS'
    })
  return found
}

function poolOf(value: unknown, what: string): readonly string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (list.length === 0) throw invalid(`${what} must name at least one address`)
  return list.map(one => addressOf(one, what))
}

/** @internal */
export function protectSettings(options: ProtectOptions): ProtectSettings {
  const given = object(options, 'the options')
  const sync = object(given['sync'] ?? {}, 'sync')
  const retry = object(given['retry'] ?? {}, 'retry')
  const faults = (given['plantedFaults'] ?? {}) as NonNullable<ProtectOptions['plantedFaults']>
  const onLoss = given['onLoss'] ?? 'continue'
  if (onLoss !== 'continue' && onLoss !== 'stop') throw invalid("onLoss must be 'continue' or 'stop'")
  const rounds = sync['maxRounds'] ?? 30
  if (!Number.isInteger(rounds) || (rounds as number) < 1 || (rounds as number) > 10_000)
    throw invalid('sync.maxRounds must be an integer from 1 to 10000')
  const first = milliseconds(retry['firstMs'], 250, 'retry.firstMs', 1, 3_600_000)
  return {
    addresses: poolOf(given['backup'], 'backup'),
    arbiter: arbiterOf(given['arbiter']),
    native: {
      ...heartbeatOf(given['heartbeat']),
      tls: tlsOf(given['tls']),
      connectTimeoutMs: Math.ceil(milliseconds(given['connectTimeoutMs'], 5000, 'connectTimeoutMs', 1, 600_000)),
      maxLagUs: Math.round(milliseconds(given['maxLagMs'], 20, 'maxLagMs', 1, 600_000) * 1000),
      heldBytes: bytes(given['heldOutputs'], 16 << 20, 'heldOutputs'),
      stopOnLoss: onLoss === 'stop',
      compress: boolean(sync['compress'], true, 'sync.compress'),
      delta: boolean(sync['delta'], true, 'sync.delta'),
      bandwidth: bytes(sync['bandwidth'], 0, 'sync.bandwidth'),
      maxBlackoutMs: milliseconds(sync['maxBlackoutMs'], 30, 'sync.maxBlackoutMs', 1, 600_000),
      maxRounds: rounds as number,
      verifyMemory: boolean(sync['verify'], true, 'sync.verify'),
      noOutputRule: faults.noOutputRule === true,
      dropRecord: faults.dropRecord
    },
    reprotect: boolean(given['reprotect'], true, 'reprotect'),
    wait: boolean(given['wait'], false, 'wait'),
    firstRetryMs: first,
    mostRetryMs: Math.max(first, milliseconds(retry['mostMs'], 10_000, 'retry.mostMs', 1, 3_600_000)),
    name: given['name'] === undefined ? undefined : text(given['name'], 'name')
  }
}

/** @internal */
export function backupSettings(options: BackupOptions): BackupSettings {
  const given = object(options, 'the options')
  const list = (name: 'disks' | 'diskFolders' | 'taps'): unknown[] => {
    const value = given[name] ?? []
    if (!Array.isArray(value)) throw invalid(`${name} must be an array`)
    return value as unknown[]
  }
  const settings: BackupSettings = {
    listen: addressOf(given['listen'], 'listen'),
    tls: tlsOf(given['tls']),
    arbiter: arbiterOf(given['arbiter']),
    native: {
      ...heartbeatOf(given['heartbeat']),
      device: given['device'] === undefined ? '/dev/kvm' : text(given['device'], 'device'),
      disks: list('disks').map((path, i) => (path === undefined ? undefined : text(path, `disks[${i}]`))),
      diskFolders: list('diskFolders').map((folder, i) => text(folder, `diskFolders[${i}]`)),
      taps: list('taps').map((tap, i) => (tap === null ? '' : tap === undefined ? undefined : text(tap, `taps[${i}]`))),
      retainedBytes: bytes(given['retainedOutputs'], 16 << 20, 'retainedOutputs'),
      announce: boolean(given['announce'], true, 'announce')
    },
    pool: given['pool'] === undefined ? [] : poolOf(given['pool'], 'pool'),
    protection: {
      ...(object(given['protection'] ?? {}, 'protection') as ProtectionDetails),
      ...(given['tls'] === undefined ? {} : { tls: given['tls'] as HaTlsOptions }),
      ...((given['protection'] as ProtectionDetails | undefined)?.heartbeat === undefined && given['heartbeat'] !== undefined
        ? { heartbeat: given['heartbeat'] as HeartbeatOptions }
        : {}),
      wait: true
    },
    name: given['name'] === undefined ? undefined : text(given['name'], 'name')
  }
  // What is wrong in it is said now, not at go-live.
  if (settings.pool.length > 0)
    protectSettings({ ...settings.protection, backup: settings.pool, arbiter: settings.arbiter })
  return settings
}
