// Sets of hosts: started, found again, ended.
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { ToolError } from '../shared/error.mjs'
import { insideRig } from '../shared/inside.mjs'
import { connect, createHost, createNetwork, inNetwork, makeWire, whyNoNamespaces } from '../shared/namespace.mjs'
import { keep as keepCapabilities } from './capabilities.mjs'
import { install } from './debian.mjs'
import { Host, plugIn, prefix, prepareHost, wireAddress } from './host.mjs'
import { checkoutId, state } from './state.mjs'

let answer

/** Why hosts cannot be started here, or false. Installs what is missing. */
export function whyNoHosts() {
  return (answer ??= findOut())
}

async function findOut() {
  if (insideRig()) return 'this is a rig, which is too slow for hosts with guests of their own'
  const why = await whyNoNamespaces('hosts')
  if (why) return why
  try {
    await install()
  } catch (error) {
    return error.message
  }
  return false
}

export class Hosts {
  #record
  #closing

  constructor(record) {
    const folder = state.folderOf(record.id)
    this.#record = record
    this.id = record.id
    this.storage = path.join(folder, 'storage')
    this.wireAddress = wireAddress
    this.hosts = record.hosts.map((host, i) => new Host(folder, i + 1, record.wire, host.init))
  }

  get length() {
    return this.hosts.length
  }

  [Symbol.iterator]() {
    return this.hosts[Symbol.iterator]()
  }

  onWire(...command) {
    return inNetwork(this.#record.wire.pid, ...command)
  }

  connect(address, port) {
    return connect(this.#record.wire.pid, address, port)
  }

  close() {
    return (this.#closing ??= this.#close())
  }

  async #close() {
    for (const host of this.hosts) keepCapabilities(host.folder)
    await state.end(this.id)
  }

  async [Symbol.asyncDispose]() {
    await this.close()
  }
}

/** @param keep - the hosts outlive this process, under the name of the checkout; for the command */
export async function startHosts({ count = 2, keep = false } = {}) {
  if (!Number.isInteger(count) || count < 1 || count > 100)
    throw new ToolError(`The number of hosts is 1 to 100, not ${count}.`)
  const why = await whyNoHosts()
  if (why) throw new ToolError(why)
  const record = await state.begin(keep ? checkoutId : undefined)
  try {
    const folder = state.folderOf(record.id)
    const hosts = Array.from({ length: count }, (_, i) => i + 1)
    mkdirSync(path.join(folder, 'storage'))
    const [wire, ...inits] = await Promise.all([
      createNetwork(),
      ...hosts.map(number => createHost(prepareHost(folder, number, count), `host${number}`))
    ])
    record.wire = wire.holder
    record.hosts = inits.map(({ holder }) => ({ init: holder }))
    state.write(record)
    await makeWire(wire.holder, `${wireAddress}/${prefix}`)
    await Promise.all(hosts.map(number => plugIn(wire.holder, inits[number - 1].holder, number)))
    const set = new Hosts(record)
    await Promise.all(set.hosts.map(host => host.start()))
    if (keep) {
      for (const namespace of [wire, ...inits]) await namespace.keep()
      record.kept = true
      state.write(record)
    }
    return set
  } catch (error) {
    await state.end(record.id)
    throw error
  }
}

/** The hosts of `npm run hosts -- up` in this checkout; undefined when there are none. */
export function openHosts() {
  const record = state.read(checkoutId)
  return record?.kept ? new Hosts(record) : undefined
}
