// What a migration of a domain is told, and how libvirt is told it: as flags and typed parameters.
import type { Size } from '../size.js'
import { bytes, day, given, invalid, mebibytes, oneOf, whole, within } from './checks.js'
import { DomainMigrateFlags } from './generated/enums.js'
import type { DomainMigrateParams } from './generated/params.js'
import type { TypedInput } from './typed.js'

/**
 * How {@link migrate} works. What is left out is as the hypervisor has it.
 *
 * @since 0.1.0
 */
export interface DomainMigrateOptions {
  /** False: the domain is paused first. Default true, for one that runs. */
  live?: boolean
  /**
   * Only where the destination is a URI, so that the source's libvirt does it all: memory goes through the connection
   * of the two libvirts, in place of one of the two hypervisors' own. Default false.
   */
  tunnelled?: boolean
  /** Where the hypervisor of the source connects to, `'tcp://10.0.0.2'`. Default: what the destination says. */
  migrateUri?: string
  /** The address on which the destination listens. */
  listenAddress?: string
  /** The domain's name there. Default: the same. */
  name?: string
  /** The domain's XML there, with changes that the guest cannot see. */
  xml?: string
  /** XML for the definition there, with `persist`. */
  persistentXml?: string
  /** Define it there, too. Default false. */
  persist?: boolean
  /** Undefine it here. Default false. */
  undefineSource?: boolean
  /** It stays paused there. Default false: as it was here. */
  paused?: boolean
  /** Move the definition of a domain that does not run; needs `persist`. Default false. */
  offline?: boolean
  /** Though libvirt takes it for unsafe: disks with host caching on shared storage. Default false. */
  unsafe?: boolean
  /** Nobody else may change the domain meanwhile. Default false. */
  changeProtection?: boolean
  /** An I/O error meanwhile ends the migration. Default false. */
  abortOnError?: boolean
  /**
   * - `'shared'` (default): both hosts see the same images
   * - `'copy'`: images are copied
   * - `'incremental'`: images are copied but for their backing files, which both hosts have
   */
  disks?: 'shared' | 'copy' | 'incremental'
  /** Which disks to copy, by target names such as `'vda'`. Default: all that are not read-only or shareable. */
  migrateDisks?: readonly string[]
  /** Where disks are copied to, `'tcp://10.0.0.2:49153'` or `'unix:///path'`. */
  disksUri?: string
  /** The port on which the destination takes disks. */
  disksPort?: number
  /** A write of the guest waits until it is at the destination: copying disks then converges for sure. */
  synchronousWrites?: boolean
  /** Where clients of the graphics console are sent. */
  graphicsUri?: string
  /** Compress pages. True: as the hypervisor likes it. */
  compress?:
    | boolean
    | {
        /** `'xbzrle'`, `'mt'`; with parallel connections `'zlib'`, `'zstd'` (libvirt 9.1); several may be given. */
        methods: readonly string[]
        /** Memory for the last copies of pages. */
        xbzrleCache?: Size
        /** Of `'mt'`: 0 to 9. */
        level?: number
        /** Of `'mt'`: that compress. */
        threads?: number
        /** Of `'mt'`: that decompress. */
        decompressThreads?: number
      }
  /** Slow the guest down when it writes faster than memory can be sent: by so many per cent first, and more each time. */
  autoConverge?: boolean | { initial?: number; increment?: number }
  /**
   * Post-copy may be switched to: the domain moves at once, its memory follows. With `afterRounds` that happens by
   * itself when so many rounds are over, otherwise by {@link DomainMigration.startPostCopy}.
   */
  postCopy?: boolean | { afterRounds?: number; bandwidth?: Size }
  /** Go on with a post-copy migration that ended with `POST_COPY_BROKEN`; with `postCopy`. */
  resumePostCopy?: boolean
  /** Several connections at once (multifd): so many; true: the hypervisor's own number. */
  parallel?: boolean | number
  /** Send without copying in the kernel; with `parallel`. */
  zeroCopy?: boolean
  /** TLS between the two hypervisors; a string: what the destination's certificate must name. */
  tls?: boolean | string
  /** With RDMA (a `migrateUri` of `'rdma://…'`, and a domain whose memory has a hard limit): all memory is pinned. */
  rdmaPinAll?: boolean
  /** Bytes a second, rounded up to MiB. Default: the hypervisor's. */
  bandwidth?: Size
  /** How long the domain may stand still in the end (libvirt's downtime), in milliseconds. Default: the hypervisor's, 300. */
  maxBlackoutMs?: number
  /** How often libvirt is asked how far it is, in milliseconds. Default 100. */
  intervalMs?: number
  /** More of libvirt's parameters. */
  params?: TypedInput<DomainMigrateParams>
  /** More of `DomainMigrateFlags`. */
  flags?: DomainMigrateFlags
  /** Gives it up, as cancel() does; `done` then rejects with the signal's reason. */
  signal?: AbortSignal
}

/** @internal */
export interface MigrateCall {
  flags: number
  params: TypedInput<DomainMigrateParams>
  maxBlackoutMs: number | undefined
  postCopyAfter: number | undefined
  intervalMs: number
}

const compressionNumber = (value: number | undefined, what: string, most: number): number | undefined =>
  value === undefined ? undefined : whole(value, what, 0, most)

/** @internal */
export function migrateCall(options: DomainMigrateOptions, toUri: boolean): MigrateCall {
  if (typeof options !== 'object' || options === null) throw invalid('the options must be an object')
  const F = DomainMigrateFlags
  const { compress, autoConverge, postCopy, parallel, tls } = options
  const disks = oneOf(options.disks ?? 'shared', 'disks', ['shared', 'copy', 'incremental'])
  if (options.tunnelled && !toUri)
    throw invalid('tunnelled needs a URI as the destination: then the libvirt of the source connects to it')
  if (options.offline && !options.persist) throw invalid('offline moves the definition only: it needs persist')
  const compression = typeof compress === 'object' ? compress : undefined
  const converge = typeof autoConverge === 'object' ? autoConverge : undefined
  const copy = typeof postCopy === 'object' ? postCopy : undefined
  const flagOf: [unknown, number][] = [
    [(options.live ?? true) && !options.offline, F.LIVE],
    [toUri, F.PEER2PEER],
    [options.tunnelled, F.TUNNELLED],
    [options.persist, F.PERSIST_DEST],
    [options.undefineSource, F.UNDEFINE_SOURCE],
    [options.paused, F.PAUSED],
    [options.offline, F.OFFLINE],
    [options.unsafe, F.UNSAFE],
    [options.changeProtection, F.CHANGE_PROTECTION],
    [options.abortOnError, F.ABORT_ON_ERROR],
    [disks === 'copy', F.NON_SHARED_DISK],
    [disks === 'incremental', F.NON_SHARED_INC],
    [options.synchronousWrites, F.NON_SHARED_SYNCHRONOUS_WRITES],
    [compress, F.COMPRESSED],
    [autoConverge, F.AUTO_CONVERGE],
    [postCopy, F.POSTCOPY],
    [options.resumePostCopy, F.POSTCOPY_RESUME],
    [parallel, F.PARALLEL],
    [options.zeroCopy, F.ZEROCOPY],
    [tls, F.TLS],
    [options.rdmaPinAll, F.RDMA_PIN_ALL]
  ]
  const flags = flagOf.reduce((sum, [wanted, flag]) => (wanted ? sum | flag : sum), options.flags ?? 0)
  const params = given({
    migrate_uri: options.migrateUri,
    listen_address: options.listenAddress,
    destination_name: options.name,
    destination_xml: options.xml,
    persistent_xml: options.persistentXml,
    migrate_disks: options.migrateDisks,
    disks_uri: options.disksUri,
    disks_port: options.disksPort,
    graphics_uri: options.graphicsUri,
    'tls.destination': typeof tls === 'string' ? tls : undefined,
    'parallel.connections': typeof parallel === 'number' ? whole(parallel, 'parallel', 1, 255) : undefined,
    bandwidth: options.bandwidth === undefined ? undefined : mebibytes(options.bandwidth, 'bandwidth'),
    'bandwidth.postcopy': copy?.bandwidth === undefined ? undefined : mebibytes(copy.bandwidth, 'postCopy.bandwidth'),
    compression: compression?.methods,
    'compression.xbzrle.cache':
      compression?.xbzrleCache === undefined ? undefined : bytes(compression.xbzrleCache, 'compress.xbzrleCache'),
    'compression.mt.level': compressionNumber(compression?.level, 'compress.level', 9),
    'compression.mt.threads': compressionNumber(compression?.threads, 'compress.threads', 255),
    'compression.mt.dthreads': compressionNumber(compression?.decompressThreads, 'compress.decompressThreads', 255),
    'auto_converge.initial': converge?.initial === undefined ? undefined : whole(converge.initial, 'autoConverge.initial', 1, 99),
    'auto_converge.increment':
      converge?.increment === undefined ? undefined : whole(converge.increment, 'autoConverge.increment', 1, 99)
  })
  return {
    flags,
    params: { ...params, ...options.params },
    maxBlackoutMs: options.maxBlackoutMs === undefined ? undefined : whole(options.maxBlackoutMs, 'maxBlackoutMs', 1, day),
    postCopyAfter: copy?.afterRounds === undefined ? undefined : whole(copy.afterRounds, 'postCopy.afterRounds', 0, 1e6),
    intervalMs: within(options.intervalMs ?? 100, 'intervalMs', 1, day)
  }
}
