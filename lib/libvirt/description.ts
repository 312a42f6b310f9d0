// What a domain is made of, read from its XML.
import { invalid } from './checks.js'
import { first, parseXml, textIn, type XmlElement } from './xml.js'

/**
 * A disk of a domain.
 *
 * @since 0.1.0
 */
export interface DomainDisk {
  /** Its name in libvirt, `'vda'`. */
  target: string
  /** `'disk'`, `'cdrom'`, `'floppy'`, `'lun'`. */
  device: string
  /** Where its data comes from: `'file'`, `'block'`, `'network'`, `'volume'`… */
  type: string
  /** The path, device, volume or name there; undefined for a drive that is empty. */
  source: string | undefined
  /** Of the uppermost image, `'qcow2'`. */
  format: string | undefined
  /** The images below, downwards, as far as libvirt tells: of a running domain. */
  backing: { source: string | undefined; format: string | undefined }[]
  /** `'virtio'`, `'scsi'`, `'ide'`… */
  bus: string | undefined
  /** The guest cannot write. */
  readOnly: boolean
  /** libvirt's name of the device, of a running domain. */
  alias: string | undefined
}

/**
 * A network interface of a domain.
 *
 * @since 0.1.0
 */
export interface DomainNetworkInterface {
  /** `'network'`, `'bridge'`, `'user'`… */
  type: string
  /** The network, bridge or device that it is connected to. */
  source: string | undefined
  /** With colons. */
  mac: string | undefined
  /** `'virtio'`, `'e1000'`… */
  model: string | undefined
  /** The interface on the host, `'vnet0'`, of a running domain. */
  target: string | undefined
  /** libvirt's name of the device, of a running domain. */
  alias: string | undefined
}

/**
 * A console, serial port or channel of a domain.
 *
 * @since 0.1.0
 */
export interface DomainCharacterDevice {
  /** How it is reached: `'pty'`, `'unix'`, `'tcp'`… */
  type: string
  /** The path of the terminal or socket on the host. */
  source: string | undefined
  /** Of a channel: its name in the guest, `'org.qemu.guest_agent.0'`. */
  name: string | undefined
  /** Of a channel: whether the guest has opened it; undefined where that is not known. */
  connected: boolean | undefined
  /** libvirt's name of the device, of a running domain: what openConsole() takes. */
  alias: string | undefined
}

/**
 * What a domain is made of.
 *
 * @since 0.1.0
 */
export interface DomainDescription {
  /** `'kvm'`, `'qemu'`, `'test'`… */
  type: string
  /** Its name. */
  name: string
  /** Its UUID. */
  uuid: string | undefined
  /** Memory, in bytes. */
  memory: bigint
  /** Virtual CPUs. */
  vcpus: number
  /** `'x86_64'`… */
  arch: string | undefined
  /** The board, `'pc-i440fx-7.2'`. */
  machine: string | undefined
  /** Its disks. */
  disks: DomainDisk[]
  /** Its network interfaces. */
  interfaces: DomainNetworkInterface[]
  /** Serial ports. */
  serials: DomainCharacterDevice[]
  /** Consoles. */
  consoles: DomainCharacterDevice[]
  /** Channels to programs in the guest. */
  channels: DomainCharacterDevice[]
  /** All devices, as XML: `name` says what each is. */
  devices: XmlElement[]
  /** All of it. */
  xml: XmlElement
}

const sourceNames = ['file', 'dev', 'name', 'volume', 'dir', 'network', 'bridge', 'path']

function sourceOf(source: XmlElement | undefined): string | undefined {
  const name = sourceNames.find(key => source?.attributes[key] !== undefined)
  return name === undefined ? undefined : source?.attributes[name]
}

const aliasOf = (device: XmlElement): string | undefined => first(device, 'alias')?.attributes['name']

function backingOf(device: XmlElement): DomainDisk['backing'] {
  const list: DomainDisk['backing'] = []
  for (let at = first(device, 'backingStore'); at; at = first(at, 'backingStore')) {
    const source = sourceOf(first(at, 'source'))
    if (source !== undefined) list.push({ source, format: first(at, 'format')?.attributes['type'] })
  }
  return list
}

function disk(device: XmlElement): DomainDisk {
  const target = first(device, 'target')?.attributes
  return {
    target: target?.['dev'] ?? '',
    device: device.attributes['device'] ?? 'disk',
    type: device.attributes['type'] ?? 'file',
    source: sourceOf(first(device, 'source')),
    format: first(device, 'driver')?.attributes['type'],
    backing: backingOf(device),
    bus: target?.['bus'],
    readOnly: first(device, 'readonly') !== undefined,
    alias: aliasOf(device)
  }
}

function networkInterface(device: XmlElement): DomainNetworkInterface {
  return {
    type: device.attributes['type'] ?? '',
    source: sourceOf(first(device, 'source')),
    mac: first(device, 'mac')?.attributes['address'],
    model: first(device, 'model')?.attributes['type'],
    target: first(device, 'target')?.attributes['dev'],
    alias: aliasOf(device)
  }
}

function characterDevice(device: XmlElement): DomainCharacterDevice {
  const target = first(device, 'target')?.attributes
  const state = target?.['state']
  return {
    type: device.attributes['type'] ?? '',
    source: sourceOf(first(device, 'source')),
    name: target?.['name'],
    connected: state === undefined ? undefined : state === 'connected',
    alias: aliasOf(device)
  }
}

/** How many bytes libvirt's units have. */
const units: Record<string, bigint> = { b: 1n, bytes: 1n, KB: 1000n, MB: 1000n ** 2n, GB: 1000n ** 3n, TB: 1000n ** 4n }
const binary = ['k', 'm', 'g', 't', 'p']

function memoryOf(parent: XmlElement): bigint {
  const memory = first(parent, 'memory')
  const unit = memory?.attributes['unit'] ?? 'KiB'
  const power = binary.indexOf(unit.toLowerCase().replace(/ib$/, ''))
  const size = units[unit] ?? (power >= 0 ? 1024n ** BigInt(power + 1) : 1024n)
  const text = textIn(parent, 'memory') ?? ''
  return /^\d+$/.test(text) ? BigInt(text) * size : 0n
}

/**
 * Reads a domain's XML.
 *
 * @throws LibvirtError `EINVAL` when it is not well-formed, or of something else
 * @since 0.1.0
 */
export function describeDomain(xml: string): DomainDescription {
  const root = parseXml(xml)
  if (root.name !== 'domain') throw invalid(`this is the XML of a <${root.name}>, and not of a <domain>`)
  const devices = (first(root, 'devices')?.children ?? []).filter(child => typeof child === 'object')
  const of = (name: string): XmlElement[] => devices.filter(device => device.name === name)
  const system = first(root, 'os/type')
  return {
    type: root.attributes['type'] ?? '',
    name: textIn(root, 'name') ?? '',
    uuid: textIn(root, 'uuid'),
    memory: memoryOf(root),
    vcpus: Number(textIn(root, 'vcpu') ?? 1),
    arch: system?.attributes['arch'],
    machine: system?.attributes['machine'],
    disks: of('disk').map(disk),
    interfaces: of('interface').map(networkInterface),
    serials: of('serial').map(characterDevice),
    consoles: of('console').map(characterDevice),
    channels: of('channel').map(characterDevice),
    devices,
    xml: root
  }
}
