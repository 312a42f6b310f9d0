// Devices of a domain: attached, and detached for good.
import { day, invalid, within } from './checks.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import { DomainDeviceModifyFlags as Flags } from './generated/enums.js'
import { runs } from './save.js'
import { diskXml, interfaceXml, type DiskSpec, type InterfaceSpec } from './spec.js'
import { first, xmlText, type XmlElement } from './xml.js'

/**
 * Where a device is changed.
 *
 * @since 0.1.0
 */
export interface DeviceOptions {
  /** In the domain that runs. Default: if it runs. */
  live?: boolean
  /** In its definition. Default: if it is persistent. */
  config?: boolean
}

/**
 * How a device is detached.
 *
 * @since 0.1.0
 */
export interface DetachOptions extends DeviceOptions {
  /** How long the guest may take to let go of it, in milliseconds; then `TIMEOUT`. Default 30,000. */
  timeoutMs?: number
  /** Gives up waiting, with its reason. */
  signal?: AbortSignal
}

/**
 * A device to attach: its XML, a disk or a network interface.
 *
 * @since 0.1.0
 */
export type DeviceSpec = string | { disk: DiskSpec } | { interface: InterfaceSpec }

async function impact(domain: Domain, { live, config }: DeviceOptions): Promise<number> {
  const [isActive, isPersistent] = await Promise.all([domain.isActive(), domain.isPersistent()])
  const flags = ((live ?? isActive) ? Flags.LIVE : 0) | ((config ?? isPersistent) ? Flags.CONFIG : 0)
  if (flags === 0) throw invalid('a device is changed in the running domain (live), in its definition (config), or in both')
  return flags
}

/** @internal */
export async function attachDevice(domain: Domain, device: DeviceSpec, options: DeviceOptions): Promise<void> {
  const flags = await impact(domain, options)
  let xml
  if (typeof device === 'string') xml = device
  else if ('disk' in device) {
    const { disks } = await domain.describe()
    xml = xmlText(diskXml(device.disk, new Set(disks.map(({ target }) => target))))
  } else xml = xmlText(interfaceXml(device.interface))
  await domain.attachDeviceFlags(xml, flags)
}

/** By its alias, a disk's target, an interface's MAC or target. */
function isNamed(device: XmlElement, name: string): boolean {
  const target = first(device, 'target')?.attributes['dev']
  const mac = first(device, 'mac')?.attributes['address']
  return first(device, 'alias')?.attributes['name'] === name || target === name || mac === name.toLowerCase()
}

/** @internal */
export async function detachDevice(domain: Domain, name: string, options: DetachOptions): Promise<void> {
  const { timeoutMs = 30_000, signal } = options
  within(timeoutMs, 'timeoutMs', 1, day)
  signal?.throwIfAborted()
  const flags = await impact(domain, options)
  const find = async (): Promise<XmlElement | undefined> =>
    (await domain.describe()).devices.find(device => isNamed(device, name))
  const device = await find()
  if (!device) throw invalid(`the domain has no device '${name}': give an alias, a disk's target, or an interface's MAC or target`)
  if (!(flags & Flags.LIVE)) return domain.detachDeviceFlags(xmlText(device), flags)
  // libvirt says that it has asked; the guest says when it is gone.
  const limit = AbortSignal.timeout(timeoutMs)
  await using connect = await domain.getConnect()
  const events = connect.events(['domain.deviceRemoved', 'domain.deviceRemovalFailed', 'domain.lifecycle'], {
    domain,
    signal: signal ? AbortSignal.any([signal, limit]) : limit
  })
  try {
    await events.ready
    await domain.detachDeviceFlags(xmlText(device), flags)
    const alias = first(device, 'alias')?.attributes['name']
    while ((await runs(domain)) && (await find())) {
      const { value } = (await events.next()) as { value: { kind: string; args?: { devAlias?: string } } | undefined }
      if (value?.kind === 'domain.deviceRemovalFailed' && value.args?.devAlias === alias)
        throw new LibvirtError(`the guest does not let go of ${name}`, { code: 'DEVICE_BUSY' })
    }
  } catch (error) {
    if (error === limit.reason)
      throw new LibvirtError(`the guest has not let go of ${name} in ${timeoutMs} ms`, { code: 'TIMEOUT' })
    throw error
  } finally {
    await events.return()
  }
}
