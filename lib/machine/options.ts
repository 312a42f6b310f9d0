// What a machine is built from, checked and brought into the form that the addon takes.
import { readFile } from 'node:fs/promises'
import { toBytes, type Size } from '../kvm/size.js'
import { toLayerError } from '../errors.js'
import { MachineError, invalid } from './errors.js'

/**
 * A block device: virtio-blk on a raw image file, a block device, or what an NBD server exports.
 *
 * @since 0.1.0
 */
export interface DiskOptions {
  /**
   * A raw image file, a block device, or the URI of an NBD server's export: `nbd://host:port/export`,
   * `nbd+unix:///export?socket=/path`, `nbds://host/export?tls-certificates=/folder` (TLS), `nbd+vsock://…`, as libnbd knows
   * them (Debian: libnbd0).
   */
  path: string
  /** The guest may not write it. Default false. An NBD server that allows no writing is refused (`EROFS`) without it. */
  readOnly?: boolean
  /** Bytes that the guest sees, at most the file's; default all, in whole sectors of 512. */
  size?: Size
  /**
   * How long an NBD server that is gone is sought, in seconds, while requests wait; after that they fail, until it is
   * back. No part of a snapshot: a restored machine has the default. Default 60. @since 0.1.0
   */
  reconnectSeconds?: number
}

/**
 * A network device: virtio-net.
 *
 * @since 0.1.0
 */
export interface NetOptions {
  /** Six hexadecimal bytes, `'52:54:00:68:74:01'`. Default: that one, its last byte the device's number plus 1. */
  mac?: string
  /**
   * Where packets come from and go to: `'queue'` (default), the {@link NetPort} in this process, or a tap
   * interface of the host.
   *
   * With `vhost` the kernel itself moves a tap's packets (vhost-net), which is faster: true demands it (the error says
   * why it cannot be had), false forbids it, undefined takes it where `/dev/vhost-net` can be opened. It is for the
   * standard board, and for machines that are not restored: of those, what leaves is looked at first.
   */
  backend?: 'queue' | { tap: string; vhost?: boolean }
}

/**
 * What a machine's parts are, and what can be done with it.
 * - `'deterministic'`: one vCPU; interrupt controllers and timers in this process. Can be recorded, replayed, migrated
 *   and protected.
 * - `'standard'`: up to 254 vCPUs; interrupt controllers and timers in the kernel, ACPI, kvmclock, MSI-X, ioeventfd and
 *   irqfd. Faster; runs unmodified Linux without special options; cannot be recorded.
 *
 * @since 0.1.0
 */
export type MachineBoard = 'deterministic' | 'standard'

/**
 * virtio-vsock. Who connects to the UNIX socket at `path` and writes `CONNECT <port>` and a line feed reaches that port
 * of the guest, and reads `OK <host port>` first; a guest that connects to port P of CID 2 reaches who listens at
 * `<path>_P`.
 *
 * @since 0.1.0
 */
export interface VsockOptions {
  /** The guest's context id, from 3 to 4294967294. Default 3; of a machine that is restored what it was. */
  cid?: number
  /** The UNIX socket, which must not exist; it is removed when the machine is closed. */
  path: string
}

/**
 * What a machine is built from.
 *
 * @since 0.1.0
 */
export interface MachineOptions {
  /** Default `'deterministic'`. @since 0.1.0 */
  board?: MachineBoard
  /** Virtual CPUs: 1 on the deterministic board, up to 254 on the standard one. Default 1. @since 0.1.0 */
  vcpus?: number
  /**
   * RAM: whole pages of 4 KiB, from 2 MiB to 3 GiB on the deterministic board, to 1 TiB on the standard one. Default
   * `'64MiB'`.
   */
  memory?: Size
  /** A Linux bzImage, or an ELF file with a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY): its path, or its bytes. */
  kernel: string | Uint8Array
  /** An initial RAM disk: its path, or its bytes. */
  initrd?: string | Uint8Array
  /** The kernel's command line, at most 4095 bytes. */
  commandLine?: string
  /** Block devices, at most 8. */
  disks?: DiskOptions[]
  /** Network devices, at most 8. */
  nets?: NetOptions[]
  /**
   * What {@link Machine.console} types to: the serial port (default), or a virtio-console (`hvc0` in Linux; standard
   * board). What the guest writes to either is read there. @since 0.1.0
   */
  console?: 'serial' | 'virtio'
  /** A virtio-balloon (standard board). Default false. @since 0.1.0 */
  balloon?: boolean
  /** A virtio-vsock device (standard board). Default none. @since 0.1.0 */
  vsock?: VsockOptions
  /** What the real-time clock starts from; default now. */
  wallClock?: Date
  /**
   * Creates the VM with a dirty ring of so many entries (a power of two from 1024; `true`: 4096), for a
   * DirtyTracker in ring mode. Default false. See KVM_CAP_DIRTY_LOG_RING.
   */
  dirtyRing?: boolean | number
  /** The KVM device. Default `/dev/kvm`. */
  device?: string
}

/**
 * What may differ from the machine that the snapshot was taken of.
 *
 * @since 0.1.0
 */
export interface RestoreOptions {
  /** Image files, or URIs of NBD servers, to use instead, in the order of the devices; undefined keeps the snapshot's. */
  disks?: (string | undefined)[]
  /**
   * Backends and addresses to use instead, in the order of the devices; undefined keeps the snapshot's. A guest
   * learns of a new address when its driver is bound anew.
   */
  nets?: (NetOptions | undefined)[]
  /** Another socket, or number, for the vsock device; where two go on from one snapshot each needs its own. */
  vsock?: VsockOptions
  /** See {@link MachineOptions.dirtyRing}. */
  dirtyRing?: boolean | number
  /**
   * When the file's memory is checked against its checksums: `'behind'` (default) while the machine runs already,
   * which fails with the reason `'error'` when something is wrong; `'before'` reads all of it first. What an
   * incremental snapshot adds is always checked before.
   */
  verify?: 'before' | 'behind'
  /** The KVM device. Default `/dev/kvm`. */
  device?: string
}

/**
 * How a snapshot is written.
 *
 * @since 0.1.0
 */
export interface SnapshotOptions {
  /**
   * Writes only the memory that has changed since the base: the latest snapshot that was written with `track`, or
   * else the full one that the machine was restored from. Restoring it needs the files that it adds to, with the
   * names and in the folders that they have now, as seen from it. Default false.
   */
  incremental?: boolean
  /**
   * This snapshot is the base of the incremental ones that come. From now on KVM tells which pages the guest writes:
   * a DirtyTracker of the machine is then refused; a migration ends it. Default false.
   */
  track?: boolean
}

/**
 * What was written.
 *
 * @since 0.1.0
 */
export interface SnapshotInfo {
  /** Pages of memory in the file, of 4 KiB each. */
  pages: number
  /** Bytes that were written; the file has holes, and looks larger. */
  bytes: number
  /** The snapshot that it adds to; undefined for a full one. */
  parent: string | undefined
}

interface NativeBackend {
  tap: string | undefined
  vhost: boolean | undefined
}

/** @internal */
export interface NativeConfig {
  device: string
  board: MachineBoard
  vcpus: number
  console: boolean
  balloon: boolean
  vsock: { cid: number; path: string } | undefined
  memory: number
  kernel: Uint8Array
  initrd: Uint8Array
  commandLine: string
  wallClock: number
  dirtyRingEntries: number
  disks: { path: string; size: number; readOnly: boolean; reconnectSeconds: number }[]
  nets: ({ mac: Uint8Array } & NativeBackend)[]
}

/** @internal */
export interface NativeAdjust {
  device: string
  dirtyRingEntries: number
  disks: (string | undefined)[]
  /** An empty tap: a queue. */
  nets: (({ mac: Uint8Array | undefined } & NativeBackend) | undefined)[]
  /** Number 0: it stays. */
  vsock: NativeConfig['vsock']
  verifyBefore: boolean
  /** The snapshot chooses nothing of this host. */
  foreign: boolean
  stream?: NativePaging
}

/** Memory that comes while the machine runs. @internal */
export interface NativePaging {
  /** Of the snapshot's file, in the order in which they are brought. */
  chunks: Uint32Array
  /** Then all others. */
  all: boolean
  /** 0: for ever. */
  waitSeconds: number
}

/** @internal */
export function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(`${what} must be an object, not ${describe(value)}`)
  return value as Record<string, unknown>
}

/** @internal */
export function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw invalid(`${what} must be a string, not ${describe(value)}`)
  if (value.includes('\0')) throw invalid(`${what} must not contain a NUL character`)
  return value
}

/** @internal */
export function describe(value: unknown): string {
  return value === null
    ? 'null'
    : typeof value === 'string'
      ? JSON.stringify(value)
      : typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean'
        ? String(value)
        : Array.isArray(value)
          ? 'an array'
          : typeof value === 'undefined'
            ? 'undefined'
            : `a value of type ${typeof value}`
}

export function boolean(value: unknown, what: string): boolean {
  if (typeof value !== 'boolean') throw invalid(`${what} must be true or false, not ${describe(value)}`)
  return value
}

function list(value: unknown, what: string): unknown[] {
  if (!Array.isArray(value)) throw invalid(`${what} must be an array, not ${describe(value)}`)
  return value as unknown[]
}

/** @internal */
export function bytesOf(size: unknown, what: string): number {
  try {
    const bytes = toBytes(size as Size)
    if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(`${String(size)} is too much`)
    return Number(bytes)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new MachineError(`${what}: ${reason}`, { code: 'EINVAL', cause: error })
  }
}

async function contents(value: unknown, what: string): Promise<Uint8Array> {
  if (value instanceof Uint8Array) return value
  if (typeof value !== 'string') throw invalid(`${what} must be a path or a Uint8Array, not ${describe(value)}`)
  try {
    return await readFile(value)
  } catch (error) {
    const cause = error as NodeJS.ErrnoException
    throw new MachineError(`reading the ${what} ${value}: ${cause.message}`, {
      code: cause.code ?? 'EIO',
      errno: cause.errno === undefined ? undefined : Math.abs(cause.errno),
      call: cause.syscall,
      cause: toLayerError(error, MachineError)
    })
  }
}

/** Six hexadecimal bytes. @internal */
export const macAddress = /^([0-9a-f]{2})(:[0-9a-f]{2}){5}$/i

function macOf(value: unknown, what: string): Uint8Array {
  const match = macAddress.exec(text(value, what))
  if (!match) throw invalid(`${what} must be six hexadecimal bytes with colons between, not ${describe(value)}`)
  return Uint8Array.from(match[0].split(':'), byte => parseInt(byte, 16))
}

function backendOf(value: unknown, what: string): NativeBackend {
  if (value === undefined || value === 'queue') return { tap: undefined, vhost: undefined }
  if (typeof value === 'string') throw invalid(`${what} must be 'queue' or { tap: name }, not ${describe(value)}`)
  const { tap, vhost } = object(value, what)
  return { tap: text(tap, `${what}.tap`), vhost: vhost === undefined ? undefined : boolean(vhost, `${what}.vhost`) }
}

function oneOf<T extends string>(value: unknown, choices: readonly T[], what: string): T {
  const found = choices.find(choice => choice === value)
  if (found === undefined)
    throw invalid(`${what} must be ${choices.map(choice => `'${choice}'`).join(' or ')}, not ${describe(value)}`)
  return found
}

/** @internal */
export function whole(value: unknown, lowest: number, highest: number, what: string): number {
  if (!Number.isInteger(value) || (value as number) < lowest || (value as number) > highest)
    throw invalid(`${what} must be a whole number from ${lowest} to ${highest}, not ${describe(value)}`)
  return value as number
}

function vsockOf(value: unknown, otherwise: number): NativeConfig['vsock'] {
  if (value === undefined) return undefined
  const { cid, path } = object(value, 'vsock')
  return {
    cid: cid === undefined ? otherwise : whole(cid, 3, 0xfffffffe, 'vsock.cid'),
    path: text(path, 'vsock.path')
  }
}

function ringOf(value: unknown): number {
  if (value === undefined || value === false) return 0
  if (value === true) return 4096
  if (!Number.isInteger(value) || (value as number) < 1024 || (value as number) > 65536)
    throw invalid(`dirtyRing must be true, false or a number of entries from 1024 to 65536, not ${describe(value)}`)
  return value as number
}

/** @internal */
export async function nativeConfig(options: MachineOptions): Promise<NativeConfig> {
  const given = object(options, 'the options')
  const wallClock = given['wallClock']
  if (wallClock !== undefined && !(wallClock instanceof Date && wallClock.getTime() >= 0))
    throw invalid(`wallClock must be a Date from 1970 on`)
  return {
    device: given['device'] === undefined ? '/dev/kvm' : text(given['device'], 'device'),
    board: oneOf(given['board'] ?? 'deterministic', ['deterministic', 'standard'], 'board'),
    vcpus: whole(given['vcpus'] ?? 1, 1, 254, 'vcpus'),
    console: oneOf(given['console'] ?? 'serial', ['serial', 'virtio'], 'console') === 'virtio',
    balloon: given['balloon'] === undefined ? false : boolean(given['balloon'], 'balloon'),
    vsock: vsockOf(given['vsock'], 3),
    memory: bytesOf(given['memory'] ?? '64MiB', 'memory'),
    commandLine: given['commandLine'] === undefined ? '' : text(given['commandLine'], 'commandLine'),
    wallClock: wallClock instanceof Date ? Math.floor(wallClock.getTime() / 1000) : 0,
    dirtyRingEntries: ringOf(given['dirtyRing']),
    disks: list(given['disks'] ?? [], 'disks').map((disk, i) => {
      const { path, size, readOnly, reconnectSeconds } = object(disk, `disks[${i}]`)
      return {
        path: text(path, `disks[${i}].path`),
        size: size === undefined ? 0 : bytesOf(size, `disks[${i}].size`),
        readOnly: readOnly === undefined ? false : boolean(readOnly, `disks[${i}].readOnly`),
        reconnectSeconds: whole(reconnectSeconds ?? 60, 0, 86400, `disks[${i}].reconnectSeconds`)
      }
    }),
    nets: list(given['nets'] ?? [], 'nets').map((net, i) => {
      const { mac, backend } = object(net, `nets[${i}]`)
      return {
        mac:
          mac === undefined
            ? Uint8Array.of(0x52, 0x54, 0x00, 0x68, 0x74, (i + 1) & 0xff)
            : macOf(mac, `nets[${i}].mac`),
        ...backendOf(backend, `nets[${i}].backend`)
      }
    }),
    kernel: await contents(given['kernel'], 'kernel'),
    initrd: given['initrd'] === undefined ? new Uint8Array() : await contents(given['initrd'], 'initrd')
  }
}

/** @internal */
export function nativeAdjust(options: RestoreOptions): NativeAdjust {
  const given = object(options, 'the options')
  return {
    device: given['device'] === undefined ? '/dev/kvm' : text(given['device'], 'device'),
    dirtyRingEntries: ringOf(given['dirtyRing']),
    disks: list(given['disks'] ?? [], 'disks').map((path, i) =>
      path === undefined ? undefined : text(path, `disks[${i}]`)
    ),
    nets: list(given['nets'] ?? [], 'nets').map((net, i) => {
      if (net === undefined) return undefined
      const { mac, backend } = object(net, `nets[${i}]`)
      const { tap, vhost } = backendOf(backend, `nets[${i}].backend`)
      return {
        tap: backend === undefined ? undefined : (tap ?? ''),
        vhost,
        mac: mac === undefined ? undefined : macOf(mac, `nets[${i}].mac`)
      }
    }),
    vsock: vsockOf(given['vsock'], 0),
    verifyBefore: oneOf(given['verify'] ?? 'behind', ['before', 'behind'], 'verify') === 'before',
    foreign: false
  }
}
