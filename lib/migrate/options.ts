// What a migration is told, checked and brought into the form that the addon takes.
import type { Arbiter } from '../arbiter/index.js'
import { nativeArbiter } from '../arbiter/native.js'
import { toBytes, type Size } from '../kvm/size.js'
import type { NativeMigrateOptions, NativeReceiveOptions, NativeTls } from './addon.js'
import { invalid } from './errors.js'

/**
 * TLS with mutual authentication: each side shows a certificate, and accepts only one that `ca` signed. There is no
 * other mode. PEM texts, as strings or bytes.
 *
 * @since 0.1.0
 */
export interface MigrateTls {
  /** The authority, or several, that signed the other side's certificate. */
  ca: string | Uint8Array
  /** This side's certificate, with its chain. */
  cert: string | Uint8Array
  /** Its private key. */
  key: string | Uint8Array
  /**
   * What the other side's certificate must name, a DNS name or an IP address. Default when connecting: the address;
   * when listening it is not checked.
   */
  servername?: string
}

/**
 * How {@link migrate} works.
 *
 * @since 0.1.0
 */
export interface MigrateOptions {
  /** Default: without. Everything that the guest has in memory then crosses the network as it is. */
  tls?: MigrateTls
  /**
   * Decides who runs the machine when the connection breaks in the middle of the hand-over; both sides must be given
   * one, and the same one. Without it the source decides until it commits, and a break after that leaves the machine
   * paused (`MIGRATION_IN_DOUBT`).
   */
  arbiter?: Arbiter
  /**
   * - `'shared'` (default): both sides see the same images
   * - `'copy'`: their contents are sent too; the destination's images are overwritten, or made
   */
  disks?: 'shared' | 'copy'
  /** Compress pages (LZ4) where that helps. Default true. */
  compress?: boolean
  /** Send the difference from the last copy where that is smaller. Default true. */
  delta?: boolean
  /** Memory for those last copies. Default `'64MiB'`. */
  deltaCache?: Size
  /** Bytes a second that memory and disks may take, `'50MiB'`. Default: no limit. */
  bandwidth?: Size
  /** Stop and copy when the machine is expected to stand still (the downtime) for so many milliseconds or less. Default 30. */
  maxBlackoutMs?: number
  /** After so many rounds: stop all the same, or give up. Default 30. */
  maxRounds?: number
  /** Give up with `NO_CONVERGENCE` when `maxRounds` do not reach `maxBlackoutMs`. Default false. */
  mustConverge?: boolean
  /** Compare digests of all memory before the machine changes hands. Default true. */
  verifyMemory?: boolean
  /** Milliseconds to connect. Default 10000. */
  connectTimeoutMs?: number
  /** Silence of the other side, in milliseconds, that counts as its loss. Default 10000. */
  patienceMs?: number
  /** After so many milliseconds without an answer of the arbiter the machine is left in doubt. Default 60000. */
  claimPatienceMs?: number
  /** Cancels the migration, as cancel() does; `done` then rejects with the signal's reason. */
  signal?: AbortSignal
  /** Told each step of the protocol. @internal */
  onStep?: (step: string) => void
}

/**
 * What becomes of machines that come in.
 *
 * @since 0.1.0
 */
export interface ReceiveOptions {
  /**
   * This side's image files, in the order of the devices: shared ones, or where copies go. Undefined: the source's
   * path, which must lie in one of `diskFolders`.
   */
  disks?: readonly (string | undefined)[]
  /**
   * Folders in which, and below, the source may choose: any file there is its guest's to read, write and make. Default:
   * none, so a machine with a disk that `disks` does not name is refused (`BAD_CONFIG`).
   */
  diskFolders?: readonly string[]
  /**
   * Tap interfaces to use instead of the source's, in the order of the network devices; `'queue'`: packets go through
   * this process; undefined keeps what the source has.
   */
  taps?: readonly (string | undefined)[]
  /** As {@link MigrateOptions.arbiter}. */
  arbiter?: Arbiter
  /** The machine stays paused though it was running at the source. Default false. */
  startPaused?: boolean
  /** Silence of the source during the hand-over, in milliseconds, that counts as its loss. Default 10000. */
  patienceMs?: number
  /** Told each step of the protocol. @internal */
  onStep?: (step: string) => void
}

/**
 * How {@link listen} works.
 *
 * @since 0.1.0
 */
export interface ListenOptions extends ReceiveOptions {
  /**
   * See {@link MigrateOptions.tls}. Without it, whoever can connect can bring a machine, which runs here with the files
   * and taps that these options let it have.
   */
  tls?: MigrateTls
  /** Told why a peer was turned away before it could say anything: it failed TLS. */
  onRefused?: (reason: string) => void
  /** The KVM device. Default `/dev/kvm`. */
  device?: string
}

// ---- checks

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${what} must be an object`)
  return value as Record<string, unknown>
}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string' || value.includes('\0')) throw invalid(`${what} must be a string`)
  return value
}

function pem(value: unknown, what: string): string {
  const found = value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : value
  if (typeof found !== 'string' || !found.includes('-----BEGIN '))
    throw invalid(`${what} must be a PEM text: a string, or a Uint8Array with one (not a file's name)`)
  return found
}

function flag(value: unknown, otherwise: boolean, what: string): boolean {
  if (value === undefined) return otherwise
  if (typeof value !== 'boolean') throw invalid(`${what} must be true or false`)
  return value
}

function within(value: unknown, otherwise: number, what: string, least: number, most: number): number {
  const found = value === undefined ? otherwise : value
  if (typeof found !== 'number' || !(found >= least && found <= most))
    throw invalid(`${what} must be a number from ${least} to ${most}`)
  return found
}

function whole(value: unknown, otherwise: number, what: string, least: number, most: number): number {
  const found = within(value, otherwise, what, least, most)
  if (!Number.isInteger(found)) throw invalid(`${what} must be a whole number`)
  return found
}

function functionOf<F>(value: unknown, what: string): F | undefined {
  if (value !== undefined && typeof value !== 'function') throw invalid(`${what} must be a function`)
  return value as F | undefined
}

/** @internal */
export function bytesPerSecond(value: unknown): number {
  let found: bigint
  try {
    found = toBytes(value as Size)
  } catch (cause) {
    throw invalid(`bandwidth: ${(cause as Error).message}`)
  }
  if (found > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(`bandwidth: ${String(found)} bytes a second is too much`)
  return Number(found)
}

/** `tcp://host:port` or `unix:/path`. @internal */
export function addressOf(value: unknown): string {
  const found = text(value, 'the address')
  if (!/^(tcp:\/\/.+|unix:.+)$/.test(found))
    throw invalid(`an address is tcp://HOST:PORT or unix:/PATH, not ${JSON.stringify(found)}`)
  return found
}

/** @internal */
export function nativeTls(value: unknown): NativeTls | undefined {
  if (value === undefined) return undefined
  const tls = object(value, 'tls')
  return {
    ca: pem(tls['ca'], 'tls.ca'),
    certificate: pem(tls['cert'], 'tls.cert'),
    key: pem(tls['key'], 'tls.key'),
    serverName: tls['servername'] === undefined ? '' : text(tls['servername'], 'tls.servername')
  }
}

/** Milliseconds that a day has. */
const day = 86_400_000

/** @internal */
export function nativeMigrateOptions(address: string, options: MigrateOptions): NativeMigrateOptions {
  const given = object(options, 'the options')
  const disks = given['disks'] ?? 'shared'
  if (disks !== 'shared' && disks !== 'copy') throw invalid("disks must be 'shared' or 'copy'")
  functionOf(given['onStep'], 'onStep')
  let deltaCache: bigint
  try {
    deltaCache = toBytes((given['deltaCache'] ?? '64MiB') as Size)
  } catch (cause) {
    throw invalid(`deltaCache: ${(cause as Error).message}`)
  }
  return {
    address: addressOf(address),
    tls: nativeTls(given['tls']),
    arbiter: given['arbiter'] === undefined ? undefined : nativeArbiter(given['arbiter'] as Arbiter),
    copyDisks: disks === 'copy',
    compress: flag(given['compress'], true, 'compress'),
    delta: flag(given['delta'], true, 'delta'),
    deltaCache: within(Number(deltaCache), 0, 'deltaCache', 0, 2 ** 40),
    bandwidth: given['bandwidth'] === undefined ? 0 : bytesPerSecond(given['bandwidth']),
    maxBlackoutMs: within(given['maxBlackoutMs'], 30, 'maxBlackoutMs', 0, day),
    maxRounds: whole(given['maxRounds'], 30, 'maxRounds', 1, 1_000_000),
    mustConverge: flag(given['mustConverge'], false, 'mustConverge'),
    verifyMemory: flag(given['verifyMemory'], true, 'verifyMemory'),
    connectTimeoutMs: whole(given['connectTimeoutMs'], 10_000, 'connectTimeoutMs', 1, day),
    patienceMs: whole(given['patienceMs'], 10_000, 'patienceMs', 1, day),
    claimPatienceMs: whole(given['claimPatienceMs'], 60_000, 'claimPatienceMs', 1, day)
  }
}

/** @internal */
export function foldersOf(value: unknown = []): string[] {
  if (!Array.isArray(value)) throw invalid('diskFolders must be an array')
  return Array.from(value as unknown[], (one, i) => {
    const found = text(one, `diskFolders[${i}]`)
    if (found === '') throw invalid(`diskFolders[${i}] must not be empty`)
    return found
  })
}

/** @internal */
export function nativeReceiveOptions(options: ReceiveOptions): NativeReceiveOptions {
  const given = object(options, 'the options')
  const list = (name: string): (string | undefined)[] => {
    const values = given[name] ?? []
    if (!Array.isArray(values)) throw invalid(`${name} must be an array`)
    return Array.from(values as unknown[], (value, i) => {
      const found = value === undefined ? undefined : text(value, `${name}[${i}]`)
      if (found === '') throw invalid(`${name}[${i}] must not be empty`)
      return found
    })
  }
  functionOf(given['onStep'], 'onStep')
  return {
    disks: list('disks'),
    diskFolders: foldersOf(given['diskFolders']),
    taps: list('taps').map(tap => (tap === 'queue' ? '' : tap)),
    arbiter: given['arbiter'] === undefined ? undefined : nativeArbiter(given['arbiter'] as Arbiter),
    startPaused: flag(given['startPaused'], false, 'startPaused'),
    patienceMs: whole(given['patienceMs'], 10_000, 'patienceMs', 1, day)
  }
}

/** @internal */
export function nativeListenOptions(
  address: string,
  options: ListenOptions
): { device: string; address: string; tls: NativeTls | undefined } {
  const given = object(options, 'the options')
  functionOf(given['onRefused'], 'onRefused')
  return {
    device: given['device'] === undefined ? '/dev/kvm' : text(given['device'], 'device'),
    address: addressOf(address),
    tls: nativeTls(given['tls'])
  }
}
