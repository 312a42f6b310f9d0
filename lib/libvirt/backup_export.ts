// A backup of a running domain's disks that others read over NBD, as of one moment, for as long as it is kept (pull mode).
import { randomUUID } from 'node:crypto'
import { backupEnd, backupXml } from './backup.js'
import { checkDisks, invalid, whole } from './checks.js'
import type { Connect } from './connect.js'
import type { DomainDisk } from './description.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import type { AnyEvent, DroppedEvents, EventStream } from './events.js'
import { ErrorNumber } from './generated/enums.js'
import { lostConnection } from './lost.js'
import { isGone } from './save.js'
import { checkpointXml } from './snapshots.js'
import { all, element, first, parseXml, type XmlElement } from './xml.js'

/**
 * Where disks are offered. Whoever gets there can read them; with `tls` whoever has a certificate that the hypervisor's
 * configuration (`backup_tls_…` in qemu.conf) accepts.
 *
 * @since 0.1.0
 */
export type BackupServer =
  | {
      /** A UNIX socket on the domain's host, to be made: an absolute path. */
      socket: string
    }
  | {
      /** The name or address on which the domain's host listens, `'localhost'`. */
      host: string
      /** 10809 is NBD's own. */
      port: number
      /** Default false. */
      tls?: boolean
    }

interface ExportWords {
  scratch?: string
  device?: boolean
  exportName?: string
}

/**
 * A backup to be that others read (pull mode).
 *
 * @since 0.1.0
 */
export interface ExportBackupOptions {
  /**
   * The target names of the disks; the others are left out. Or with words on each:
   * - `scratch`: where blocks are kept that the guest overwrites meanwhile; default: a file beside the image, removed in
   *   the end. With `device` it is a block device
   * - `exportName`: default the target name
   */
  disks: readonly string[] | Record<string, ExportWords>
  /** Where they are offered. */
  server: BackupServer
  /** The name of a checkpoint: a bitmap tells what was written since ({@link ExportedDisk.bitmap}). */
  since?: string
  /** The name of a checkpoint to begin at the same moment: the next backup can go on from there. */
  checkpoint?: string
  /** Ends it, as end() does; while it begins, exportBackup() then rejects with its reason. */
  signal?: AbortSignal
}

/**
 * A disk that can be read.
 *
 * @since 0.1.0
 */
export interface ExportedDisk {
  /** Its address, as nbdcopy, nbdinfo and qemu-img take it: `'nbd://localhost:10809/vda'`, `'nbd+unix:///vda?socket=/…'`. */
  uri: string
  /** Its name there. */
  exportName: string
  /**
   * With `since`: the NBD metadata context that tells what was written since, `'qemu:dirty-bitmap:backup-vda'`:
   * `nbdinfo --map=…`, or `x-dirty-bitmap` of qemu-img, where what is dirty has `data: false`.
   */
  bitmap: string | undefined
}

/**
 * Disks as of one moment, that can be read over NBD until {@link end}. The domain runs on. No other backup, save or
 * migration of it can begin meanwhile: libvirt lets it wait for half a minute, and then fail.
 *
 * @since 0.1.0
 */
export class BackupExport implements AsyncDisposable {
  /** By their target names. */
  readonly disks: Readonly<Record<string, ExportedDisk>>
  /**
   * Its end. Resolves after {@link end}, or when somebody else ends it; rejects with `BACKUP_FAILED` when the domain has
   * ended before or its blocks could not be kept, with `CONNECTION_LOST` when how it goes on is not known here. A
   * rejection that nobody awaits ends no process.
   */
  readonly ended: Promise<void>
  readonly #domain: Domain
  readonly #signal: AbortSignal | undefined
  readonly #abort = (): void => void this.end().catch(() => undefined)
  #ending: Promise<void> | undefined
  #over = false

  /** @param ended - of the work in libvirt @internal */
  constructor(domain: Domain, disks: Record<string, ExportedDisk>, ended: Promise<void>, signal: AbortSignal | undefined) {
    this.disks = disks
    this.#domain = domain
    this.#signal = signal
    this.ended = ended.finally(() => {
      this.#over = true
      signal?.removeEventListener('abort', this.#abort)
    })
    this.ended.catch(() => undefined)
    signal?.addEventListener('abort', this.#abort, { once: true })
    if (signal?.aborted) this.#abort()
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over
  }

  /**
   * Ends it: its readers are cut off, what was kept for them is removed. Twice is fine.
   *
   * @throws LibvirtError as {@link ended}
   */
  end(): Promise<void> {
    this.#ending ??= this.#end().catch((error: unknown) => {
      if (!this.#over) this.#ending = undefined
      throw error
    })
    return this.#ending
  }

  /** See {@link end}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.end()
  }

  async #end(): Promise<void> {
    if (!this.#over)
      try {
        await this.#domain.abortJob()
      } catch (error) {
        // It has ended by itself, of which the event is to come.
        const isOver = isGone(error) || (error instanceof LibvirtError && error.number === ErrorNumber.OPERATION_INVALID)
        if (!isOver && !this.#over) throw error
      }
    await this.ended
  }
}

/** @internal */
export async function exportBackup(domain: Domain, options: ExportBackupOptions): Promise<BackupExport> {
  const { since, checkpoint, signal } = check(options)
  const words = isList(options.disks) ? options.disks.map((target): [string, ExportWords] => [target, {}]) : Object.entries(options.disks)
  const disks = new Map(words)
  const targets = [...disks.keys()]
  signal?.throwIfAborted()
  const { disks: found } = await domain.describe()
  const known = found.map(({ target }) => target)
  checkDisks(targets, known)
  const server = serverXml(options.server)
  const xml = backupXml('pull', since, server, known, target => {
    const said = disks.get(target)
    if (!said) return undefined
    const { device, exportName, scratch = scratchBeside(found.find(disk => disk.target === target)) } = said
    const [type, attribute] = device ? ['block', 'dev'] : ['file', 'file']
    return element('disk', { name: target, backup: 'yes', type, exportname: exportName }, [element('scratch', { [attribute]: scratch })])
  })
  const point = checkpoint === undefined ? undefined : checkpointXml({ name: checkpoint, disks: targets }, known)
  const connect = await domain.getConnect()
  const events = connect.events(['domain.jobCompleted', 'domain.lifecycle'], { domain })
  let exported
  try {
    await events.ready
    await domain.backupBegin(xml, point)
    const begun = watchEnd(domain, connect, events, targets[0] ?? '')
    begun.catch(() => undefined)
    try {
      exported = new BackupExport(domain, exportedDisks(parseXml(await domain.backupGetXMLDesc())), begun, signal)
    } catch (error) {
      await domain.abortJob().then(() => begun).catch(() => undefined)
      throw error
    }
  } finally {
    if (!exported) {
      await events.return()
      await connect.close()
    }
  }
  if (signal?.aborted) {
    await exported.end()
    signal.throwIfAborted()
  }
  return exported
}

const isList = (disks: ExportBackupOptions['disks']): disks is readonly string[] => Array.isArray(disks)

/** libvirt would find a file by itself, but not of a disk on which there are words, and not in 9.0. */
function scratchBeside(disk: DomainDisk | undefined): string {
  if (disk?.type !== 'file' || disk.source === undefined)
    throw invalid(`the disk '${disk?.target}' is not in a file: say where its overwritten blocks are to be kept, { scratch: '/path' }`)
  return `${disk.source}.backup-${randomUUID()}`
}

function check(options: ExportBackupOptions): ExportBackupOptions {
  if (typeof options !== 'object' || options === null || Object.keys(options.disks ?? {}).length === 0)
    throw invalid("exportBackup() needs disks: ['vda']")
  if (options.signal !== undefined && !(options.signal instanceof AbortSignal)) throw invalid('signal must be an AbortSignal')
  return options
}

function serverXml(server: BackupServer): XmlElement {
  if (typeof server !== 'object' || server === null) throw invalid("exportBackup() needs a server: { socket: '/path' } or { host: 'localhost', port: 10809 }")
  if ('socket' in server) {
    if (typeof server.socket !== 'string' || !server.socket.startsWith('/')) throw invalid('server.socket must be an absolute path')
    return element('server', { transport: 'unix', socket: server.socket })
  }
  const { host, port, tls } = server
  if (typeof host !== 'string' || host === '') throw invalid("server.host must be a name or an address, such as 'localhost'")
  return element('server', {
    transport: 'tcp',
    name: host,
    port: whole(port, 'server.port', 1, 65535),
    tls: tls ? 'yes' : undefined
  })
}

/** Settles when the job does. */
async function watchEnd(
  domain: Domain,
  connect: Connect,
  events: EventStream<AnyEvent | DroppedEvents>,
  disk: string
): Promise<void> {
  try {
    await backupEnd(domain, events, disk)
  } catch (error) {
    throw await lostConnection('the backup', error, { hypervisor: connect })
  } finally {
    await events.return()
    await connect.close()
  }
}

function exportedDisks(backup: XmlElement): Record<string, ExportedDisk> {
  const { transport, socket, name: host = '', port, tls } = first(backup, 'server')?.attributes ?? {}
  const exported = all(backup, 'disks/disk').filter(({ attributes }) => attributes['backup'] !== 'no')
  return Object.fromEntries(
    exported.map(({ attributes }) => {
      const { name: target = '', exportname: exportName = target, exportbitmap } = attributes
      const path = `/${encodeURIComponent(exportName)}`
      const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`
      const uri =
        transport === 'unix'
          ? `nbd+unix://${path}?socket=${encodeURIComponent(socket ?? '').replaceAll('%2F', '/')}`
          : `${tls === 'yes' ? 'nbds' : 'nbd'}://${authority}${path}`
      return [target, { uri, exportName, bitmap: exportbitmap === undefined ? undefined : `qemu:dirty-bitmap:${exportbitmap}` }]
    })
  )
}
