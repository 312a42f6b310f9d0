// A domain in a few words, and the XML that libvirt makes it of.
import type { Size } from '../size.js'
import { bytes, invalid, whole } from './checks.js'
import { element, parseXml, xmlText, type XmlElement } from './xml.js'

/**
 * A disk to be.
 *
 * @since 0.1.0
 */
export interface DiskSpec {
  /** The path of an image. Left out: an empty drive, of a `'cdrom'`. */
  file?: string
  /** The path of a block device, in place of `file`. */
  block?: string
  /** The format of the image. Default `'qcow2'`; `'raw'` of block devices and CDs. */
  format?: string
  /** Default `'disk'`. */
  device?: 'disk' | 'cdrom' | 'lun'
  /** Default `'virtio'`; `'sata'` of CDs. */
  bus?: string
  /** Its name in libvirt. Default: the next that is free, `'vda'`. */
  target?: string
  /** `'none'`, `'writeback'`… Default: the hypervisor's. */
  cache?: string
  /** `'unmap'`: what the guest discards is given back. */
  discard?: 'unmap' | 'ignore'
  /** Default false; true of CDs. */
  readOnly?: boolean
  /** Several domains may use it at once. Default false. */
  shareable?: boolean
  /** Shown to the guest. */
  serial?: string
}

/**
 * A network interface to be: connected to one of a virtual network of libvirt's, a bridge of the host, or through
 * the hypervisor's own user-mode network.
 *
 * @since 0.1.0
 */
export interface InterfaceSpec {
  /** A virtual network of libvirt's, `'default'`. */
  network?: string
  /** A bridge of the host. */
  bridge?: string
  /** The hypervisor's user-mode network. */
  user?: true
  /** With colons. Default: libvirt makes one. */
  mac?: string
  /** Default `'virtio'`. */
  model?: string
}

/**
 * A domain in a few words. What is left out is as the hypervisor has it; what there are no words for is said in XML.
 *
 * @since 0.1.0
 */
export interface DomainSpec {
  /** Its name. */
  name: string
  /** Default: libvirt makes one. */
  uuid?: string
  /** For people. */
  title?: string
  /** For people. */
  description?: string
  /** `'kvm'` (default), `'qemu'` without hardware, `'test'`… */
  type?: string
  /** `'512MiB'`. */
  memory: Size
  /** Default 1. */
  vcpus?: number
  /** Default `'x86_64'`. */
  arch?: string
  /** The board, `'q35'`. */
  machine?: string
  /** `'host-passthrough'`, `'host-model'`, or the name of a model. */
  cpu?: string
  /** `'efi'`: the hypervisor finds an image. Default: a BIOS. */
  firmware?: 'bios' | 'efi'
  /** A kernel on the host, or the order of devices. */
  boot?:
    | { kernel: string; initrd?: string; commandLine?: string }
    | readonly ('hd' | 'cdrom' | 'network' | 'fd')[]
  /** Its disks. */
  disks?: readonly DiskSpec[]
  /** Its network interfaces. */
  interfaces?: readonly InterfaceSpec[]
  /** A serial console. Default true. With `log` all that it says is appended to a file. */
  console?: boolean | { log: string }
  /** A channel for the guest agent. Default true. */
  agent?: boolean
  /** A display. Default none. */
  graphics?: 'vnc' | 'spice'
  /** The program that runs it. */
  emulator?: string
  /** More devices, as XML each. */
  devices?: readonly string[]
}

const names = { virtio: 'vd', scsi: 'sd', sata: 'sd', usb: 'sd', ide: 'hd', fdc: 'fd' } as Record<string, string>

/** vda, …, vdz, vdaa, … */
function targetName(prefix: string, number: number): string {
  let name = ''
  for (let at = number; at >= 0; at = Math.floor(at / 26) - 1) name = String.fromCharCode(97 + (at % 26)) + name
  return prefix + name
}

/** @internal */
export function diskXml(spec: DiskSpec, taken: Set<string>): XmlElement {
  const { file, block, device = 'disk', cache, discard, shareable, serial } = spec
  const cd = device === 'cdrom'
  if (file !== undefined && block !== undefined) throw invalid('a disk is either a file or a block device')
  if (file === undefined && block === undefined && !cd) throw invalid('a disk needs a file or a block device')
  const format = spec.format ?? (cd || block !== undefined ? 'raw' : 'qcow2')
  const bus = spec.bus ?? (cd ? 'sata' : 'virtio')
  let { target } = spec
  if (target !== undefined && taken.has(target)) throw invalid(`there are two disks '${target}'`)
  for (let number = 0; target === undefined; number++) {
    const name = targetName(names[bus] ?? 'vd', number)
    if (!taken.has(name)) target = name
  }
  taken.add(target)
  return element('disk', { type: block === undefined ? 'file' : 'block', device }, [
    element('driver', { name: 'qemu', type: format, cache, discard }),
    block === undefined && file === undefined ? undefined : element('source', block === undefined ? { file } : { dev: block }),
    element('target', { dev: target, bus }),
    serial === undefined ? undefined : element('serial', {}, [serial]),
    (spec.readOnly ?? cd) ? element('readonly') : undefined,
    shareable ? element('shareable') : undefined
  ])
}

/** @internal */
export function interfaceXml(spec: InterfaceSpec): XmlElement {
  const { network, bridge, user, mac, model = 'virtio' } = spec
  const type = network !== undefined ? 'network' : bridge !== undefined ? 'bridge' : user ? 'user' : undefined
  if (type === undefined) throw invalid('an interface needs a network, a bridge, or user: true')
  if ([network, bridge, user].filter(one => one !== undefined).length > 1)
    throw invalid('an interface has one of network, bridge and user')
  return element('interface', { type }, [
    mac === undefined ? undefined : element('mac', { address: mac }),
    type === 'user' ? undefined : element('source', { network, bridge }),
    element('model', { type: model })
  ])
}

function osXml({ arch = 'x86_64', machine, firmware, boot }: DomainSpec): XmlElement {
  const kernel = boot !== undefined && 'kernel' in boot ? boot : undefined
  const order = boot !== undefined && !('kernel' in boot) ? boot : []
  return element('os', { firmware: firmware === 'efi' ? 'efi' : undefined }, [
    element('type', { arch, machine }, ['hvm']),
    kernel && element('kernel', {}, [kernel.kernel]),
    kernel?.initrd === undefined ? undefined : element('initrd', {}, [kernel.initrd]),
    kernel?.commandLine === undefined ? undefined : element('cmdline', {}, [kernel.commandLine]),
    ...order.map(dev => element('boot', { dev }))
  ])
}

function cpuXml(cpu: string | undefined): XmlElement | undefined {
  if (cpu === undefined) return undefined
  if (cpu === 'host-passthrough' || cpu === 'host-model') return element('cpu', { mode: cpu })
  return element('cpu', { mode: 'custom', match: 'exact' }, [element('model', {}, [cpu])])
}

function consoleXml(console: DomainSpec['console']): XmlElement[] {
  if (console === false) return []
  const log = typeof console === 'object' ? element('log', { file: console.log, append: 'on' }) : undefined
  return [
    element('serial', { type: 'pty' }, [log, element('target', { port: 0 })]),
    element('console', { type: 'pty' }, [element('target', { type: 'serial', port: 0 })])
  ]
}

/**
 * The XML of a domain.
 *
 * @throws LibvirtError `EINVAL` when it cannot be
 * @since 0.1.0
 */
export function domainXml(spec: DomainSpec): string {
  if (typeof spec !== 'object' || spec === null) throw invalid('a domain is given as XML, or as an object')
  const { type = 'kvm', name, uuid, title, description, graphics, emulator } = spec
  if (typeof name !== 'string' || name === '') throw invalid('a domain needs a name')
  const taken = new Set<string>()
  const said = (tag: string, value: string | undefined): XmlElement | undefined =>
    value === undefined ? undefined : element(tag, {}, [value])
  // Disks that have a name take it before those that do not care.
  const disks = spec.disks ?? []
  const own = disks.map(disk => disk.target).filter(target => target !== undefined)
  const made = new Map(
    [...disks].sort((a, b) => Number(b.target !== undefined) - Number(a.target !== undefined)).map(disk => [disk, diskXml(disk, taken)])
  )
  if (new Set(own).size < own.length) throw invalid('two disks have the same target')
  const root = element('domain', { type }, [
    element('name', {}, [name]),
    said('uuid', uuid),
    said('title', title),
    said('description', description),
    element('memory', { unit: 'b' }, [bytes(spec.memory, 'memory')]),
    element('vcpu', {}, [whole(spec.vcpus ?? 1, 'vcpus', 1, 65535)]),
    osXml(spec),
    type === 'kvm' || type === 'qemu' ? element('features', {}, [element('acpi')]) : undefined,
    cpuXml(spec.cpu),
    element('devices', {}, [
      said('emulator', emulator),
      ...disks.map(disk => made.get(disk)),
      ...(spec.interfaces ?? []).map(interfaceXml),
      ...consoleXml(spec.console),
      (spec.agent ?? true) && type !== 'test'
        ? element('channel', { type: 'unix' }, [element('target', { type: 'virtio', name: 'org.qemu.guest_agent.0' })])
        : undefined,
      graphics === undefined ? undefined : element('graphics', { type: graphics }),
      ...(spec.devices ?? []).map(parseXml)
    ])
  ])
  return xmlText(root)
}
