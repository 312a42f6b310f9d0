// Real hosts for the tests of the life cycle: two libvirtd, Linux guests under TCG.
import path from 'node:path'
import type { Test } from 'tap'
import { linuxGuest, startHosts, whyNoHosts, type Host, type Hosts, type LinuxGuest, type LinuxGuestOptions } from '../../scripts/hosts/index.mjs'
import { Connect, type CreateDomainOptions, type Domain, type LibvirtError } from '../../lib/libvirt/index.js'
import { noLibvirt } from './support.js'

/** False, or why there are no hosts here. */
export const noHosts = noLibvirt || (await whyNoHosts())

/** A host, with a connection to it; closed with the test. */
export interface Single {
  hosts: Hosts
  host: Host
  here: Connect
  /** A file on the storage of all hosts. */
  file: (name: string) => string
}

/** Two. */
export interface Pair extends Single {
  other: Host
  there: Connect
}

type Prepare = (set: { hosts: Hosts; file: Single['file'] }) => Promise<void>

async function start(t: Test, count: number, prepare?: Prepare): Promise<{ hosts: Hosts; connects: Connect[]; file: Single['file'] }> {
  const hosts = await startHosts({ count })
  const file: Single['file'] = name => path.join(hosts.storage, name)
  const connects: Connect[] = []
  t.teardown(async () => {
    await Promise.all(connects.map(connect => connect.close()))
    await hosts.close()
  })
  await prepare?.({ hosts, file })
  for (const { uri } of hosts) connects.push(await Connect.open(uri))
  return { hosts, connects, file }
}

export async function oneHost(t: Test): Promise<Single> {
  const { hosts, connects, file } = await start(t, 1)
  return { hosts, host: hosts.hosts[0]!, here: connects[0]!, file }
}

/** @param prepare - what is to be done before connections are opened */
export async function twoHosts(t: Test, prepare?: Prepare): Promise<Pair> {
  const { hosts, connects, file } = await start(t, 2, prepare)
  return { hosts, host: hosts.hosts[0]!, other: hosts.hosts[1]!, here: connects[0]!, there: connects[1]!, file }
}

/** A guest that has booted. */
export async function bootGuest(
  { hosts, here }: Single,
  options: Omit<LinuxGuestOptions, 'hosts'>,
  create?: CreateDomainOptions
): Promise<{ guest: LinuxGuest; domain: Domain }> {
  const guest = await linuxGuest({ hosts, ...options })
  const domain = await here.createDomain(guest.xml, create)
  await guest.waitFor(undefined, { timeout: 120_000 })
  return { guest, domain }
}

/** Until the agent in the guest listens. */
export async function agentAnswers({ agent }: Domain): Promise<void> {
  for (;;)
    try {
      await agent.command('guest-ping')
      return
    } catch (error) {
      if ((error as LibvirtError).code !== 'VIR_ERR_AGENT_UNRESPONSIVE') throw error
    }
}
