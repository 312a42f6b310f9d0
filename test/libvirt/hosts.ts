// Real hosts for the tests of the life cycle: two libvirtd, Linux guests under TCG.
import path from 'node:path'
import type { Test } from 'tap'
import { linuxGuest, startHosts, whyNoHosts, type Host, type Hosts, type LinuxGuest, type LinuxGuestOptions } from '../../scripts/hosts/index.mjs'
import { Connect, type CreateDomainOptions, type Domain } from '../../lib/libvirt/index.js'
import { noLibvirt } from './support.js'

/** False, or why there are no hosts here. */
export const noHosts = noLibvirt || (await whyNoHosts())

/** Two hosts, with a connection to each; closed with the test. */
export interface Pair {
  hosts: Hosts
  host: Host
  other: Host
  here: Connect
  there: Connect
  /** A file on the storage of all hosts. */
  file: (name: string) => string
}

export async function twoHosts(t: Test): Promise<Pair> {
  const hosts = await startHosts({ count: 2 })
  const [host, other] = hosts.hosts as [Host, Host]
  const connects: Connect[] = []
  t.teardown(async () => {
    await Promise.all(connects.map(connect => connect.close()))
    await hosts.close()
  })
  const open = async ({ uri }: Host): Promise<Connect> => {
    const connect = await Connect.open(uri)
    connects.push(connect)
    return connect
  }
  const [here, there] = [await open(host), await open(other)]
  return { hosts, host, other, here, there, file: name => path.join(hosts.storage, name) }
}

/** A guest that has booted. */
export async function bootGuest(
  { hosts, here }: Pair,
  options: Omit<LinuxGuestOptions, 'hosts'>,
  create?: CreateDomainOptions
): Promise<{ guest: LinuxGuest; domain: Domain }> {
  const guest = await linuxGuest({ hosts, ...options })
  const domain = await here.createDomain(guest.xml, create)
  await guest.waitFor(undefined, { timeout: 120_000 })
  return { guest, domain }
}
