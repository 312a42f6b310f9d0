// Snapshots and checkpoints of a domain, in a few words.
import { checkDisks, invalid, oneOf } from './checks.js'
import type { Domain } from './domain.js'
import type { DomainCheckpoint } from './domain_checkpoint.js'
import type { DomainSnapshot } from './domain_snapshot.js'
import { DomainCheckpointCreateFlags, DomainSnapshotCreateFlags } from './generated/enums.js'
import { all, element, first, parseXml, textIn, xmlText } from './xml.js'

/**
 * What becomes of a domain's disk in a snapshot:
 * - `'none'`: it is left out
 * - `'internal'`: in its image
 * - `{ file }`: an image of its own above it, which the domain goes on with; without `file` libvirt finds a name
 *
 * @since 0.1.0
 */
export type SnapshotDisk = 'none' | 'internal' | { file?: string; format?: string }

/**
 * A snapshot to be.
 *
 * @since 0.1.0
 */
export interface SnapshotOptions {
  /** Default: libvirt makes one. */
  name?: string
  /** For people. */
  description?: string
  /**
   * - `'internal'` (default): within the images, with the memory of a domain that runs
   * - `'external'`: each disk goes on in an image of its own; the memory only with `memory`
   */
  kind?: 'internal' | 'external'
  /** Of an external one: the file for the memory. */
  memory?: string
  /** By their target names; the others as `kind` says. */
  disks?: Record<string, SnapshotDisk>
  /** The guest's file systems are at rest, by the guest agent. Default false. */
  quiesce?: boolean
  /** Either all disks or none. Default true of external ones. */
  atomic?: boolean
  /** The guest runs on while its memory is saved. Default false. */
  live?: boolean
  /** The domain is off afterwards. Default false. */
  halt?: boolean
  /** The files are there already. Default false. */
  reuse?: boolean
  /** libvirt does not keep it in mind. Default false. */
  noMetadata?: boolean
}

/** @internal */
export function takeSnapshot(domain: Domain, options: SnapshotOptions): Promise<DomainSnapshot> {
  const { name, description, memory, disks = {} } = options
  const kind = oneOf(options.kind ?? 'internal', 'kind', ['internal', 'external'])
  const external = kind === 'external'
  if (memory !== undefined && !external) throw invalid("an internal snapshot keeps the memory in an image: 'memory' is of external ones")
  const F = DomainSnapshotCreateFlags
  const flags =
    (external && memory === undefined ? F.DISK_ONLY : 0) |
    ((options.atomic ?? external) ? F.ATOMIC : 0) |
    (options.quiesce ? F.QUIESCE : 0) |
    (options.live ? F.LIVE : 0) |
    (options.halt ? F.HALT : 0) |
    (options.reuse ? F.REUSE_EXT : 0) |
    (options.noMetadata ? F.NO_METADATA : 0)
  const disk = ([target, how]: [string, SnapshotDisk]): ReturnType<typeof element> => {
    if (how === 'none') return element('disk', { name: target, snapshot: 'no' })
    if (how === 'internal') return element('disk', { name: target, snapshot: 'internal' })
    const { file, format } = how
    return element('disk', { name: target, snapshot: 'external' }, [
      format === undefined ? undefined : element('driver', { type: format }),
      file === undefined ? undefined : element('source', { file })
    ])
  }
  const xml = element('domainsnapshot', {}, [
    name === undefined ? undefined : element('name', {}, [name]),
    description === undefined ? undefined : element('description', {}, [description]),
    memory === undefined ? undefined : element('memory', { snapshot: 'external', file: memory }),
    Object.keys(disks).length === 0 ? undefined : element('disks', {}, Object.entries(disks).map(disk))
  ])
  return domain.snapshotCreateXML(xmlText(xml), flags)
}

/**
 * A checkpoint to be: from here on the blocks are noted that the guest writes.
 *
 * @since 0.1.0
 */
export interface CheckpointOptions {
  /** Default: libvirt makes one. */
  name?: string
  /** For people. */
  description?: string
  /** The target names of the disks. Default: all that can. */
  disks?: readonly string[]
  /** The guest's file systems are at rest, by the guest agent. Default false. */
  quiesce?: boolean
}

/** @param known - target names of all disks of the domain @internal */
export function checkpointXml(options: CheckpointOptions, known: readonly string[]): string {
  const { name, description, disks } = options
  const listed = disks && known.map(target => element('disk', { name: target, checkpoint: disks.includes(target) ? 'bitmap' : 'no' }))
  checkDisks(disks ?? [], known)
  return xmlText(
    element('domaincheckpoint', {}, [
      name === undefined ? undefined : element('name', {}, [name]),
      description === undefined ? undefined : element('description', {}, [description]),
      listed && element('disks', {}, listed)
    ])
  )
}

/** @internal */
export async function takeCheckpoint(domain: Domain, options: CheckpointOptions): Promise<DomainCheckpoint> {
  const known = options.disks ? (await domain.describe()).disks.map(({ target }) => target) : []
  return domain.checkpointCreateXML(checkpointXml(options, known), options.quiesce ? DomainCheckpointCreateFlags.QUIESCE : 0)
}

/**
 * What libvirt knows of a snapshot.
 *
 * @since 0.1.0
 */
export interface SnapshotDescription {
  /** Its name. */
  name: string
  /** For people. */
  description: string | undefined
  /** The name of the one that it is based on. */
  parent: string | undefined
  /** `'running'`, `'shutoff'`, `'disk-snapshot'`…: of the domain at that moment. */
  state: string
  /** When, in ms since 1970. */
  time: number
  /** Where the memory is. */
  memory: 'none' | 'internal' | 'external'
  /** The file of the memory. */
  memoryFile: string | undefined
  /** Its disks. */
  disks: { target: string; snapshot: 'none' | 'internal' | 'external'; file: string | undefined }[]
}

type Where = SnapshotDescription['memory']
const where = (value: string | undefined): Where => (value === undefined || value === 'no' ? 'none' : (value as Where))

/**
 * Reads a snapshot's XML.
 *
 * @throws LibvirtError `EINVAL` when it is not well-formed, or of something else
 * @since 0.1.0
 */
export function describeSnapshot(xml: string): SnapshotDescription {
  const root = parseXml(xml)
  if (root.name !== 'domainsnapshot') throw invalid(`this is the XML of a <${root.name}>, and not of a <domainsnapshot>`)
  const memory = first(root, 'memory')?.attributes
  return {
    name: textIn(root, 'name') ?? '',
    description: textIn(root, 'description'),
    parent: textIn(root, 'parent/name'),
    state: textIn(root, 'state') ?? '',
    time: Number(textIn(root, 'creationTime') ?? 0) * 1000,
    memory: where(memory?.['snapshot']),
    memoryFile: memory?.['file'],
    disks: all(root, 'disks/disk').map(disk => ({
      target: disk.attributes['name'] ?? '',
      snapshot: where(disk.attributes['snapshot']),
      file: first(disk, 'source')?.attributes['file']
    }))
  }
}
