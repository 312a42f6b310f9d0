// Sets of hosts: started, found again, ended.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants, mkdirSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { Duplex } from 'node:stream'
import { root } from '../support.mjs'
import { keep as keepCapabilities } from './capabilities.mjs'
import { install } from './debian.mjs'
import { HostsError } from './error.mjs'
import { Host, makeWire, plugIn, prepareHost, wireAddress } from './host.mjs'
import { createHost, createNetwork, inNetwork } from './namespace.mjs'
import { execute } from './process.mjs'
import { begin, end, folderOf, readRecord, writeRecord } from './state.mjs'

const named = process.env.HYPERTWIN_HOSTS ?? ''
if (!/^[\w-]{0,30}$/.test(named))
  throw new HostsError(`HYPERTWIN_HOSTS is up to 30 letters, digits, - and _, not "${named}".`)

// The name of the set that `npm run hosts -- up` makes in this checkout; HYPERTWIN_HOSTS tells several apart.
export const checkoutId = `c${createHash('sha256').update(`${root}\0${named}`).digest('hex').slice(0, 8)}`

let answer

/** Why hosts cannot be started here, or false. Installs what is missing. */
export function whyNoHosts() {
  return (answer ??= findOut())
}

async function findOut() {
  if (process.platform !== 'linux') return 'hosts need Linux'
  if (process.getuid() !== 0) return 'hosts need root: run it as root, or by sudo'
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch (error) {
    return `hosts need /dev/net/tun (modprobe tun): ${error.message}`
  }
  const namespaces = ['unshare', '--mount', '--uts', '--net', '--pid', '--fork']
  try {
    const tried = await execute([...namespaces, 'sh', '-c', 'mount -t proc proc /proc && ip link add x type bridge'])
    if (tried.status !== 0) return `hosts need namespaces and bridges of their own: ${tried.stderr.trim()}`
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
    const folder = folderOf(record.id)
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
    const program = `const s = require('net').connect(${Number(port)}, ${JSON.stringify(address)})
s.on('error', e => { console.error(e.message); process.exit(1) })
process.stdin.pipe(s).pipe(process.stdout)`
    const [command, ...args] = this.onWire(process.execPath, '-e', program)
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    let why = ''
    child.stderr.setEncoding('utf8').on('data', text => (why += text))
    child.stdin.on('error', () => {})
    const stream = Duplex.from({ readable: child.stdout, writable: child.stdin })
    child.once('error', error => stream.destroy(error))
    child.once('close', status => {
      if (status) stream.destroy(new HostsError(`connecting to ${address}, port ${port}: ${why.trim()}`))
    })
    stream.once('close', () => child.kill('SIGKILL'))
    return stream
  }

  close() {
    return (this.#closing ??= this.#close())
  }

  async #close() {
    for (const host of this.hosts) keepCapabilities(host.folder)
    await end(this.id)
  }

  async [Symbol.asyncDispose]() {
    await this.close()
  }
}

/** @param keep - the hosts outlive this process, under the name of the checkout; for the command */
export async function startHosts({ count = 2, keep = false } = {}) {
  if (!Number.isInteger(count) || count < 1 || count > 100)
    throw new HostsError(`The number of hosts is 1 to 100, not ${count}.`)
  const why = await whyNoHosts()
  if (why) throw new HostsError(why)
  const record = await begin(keep ? checkoutId : undefined)
  try {
    const folder = folderOf(record.id)
    const hosts = Array.from({ length: count }, (_, i) => i + 1)
    mkdirSync(path.join(folder, 'storage'))
    const [wire, ...inits] = await Promise.all([
      createNetwork(),
      ...hosts.map(number => createHost(prepareHost(folder, number, count), `host${number}`))
    ])
    record.wire = wire.holder
    record.hosts = inits.map(({ holder }) => ({ init: holder }))
    writeRecord(record)
    await makeWire(wire.holder)
    await Promise.all(hosts.map(number => plugIn(wire.holder, inits[number - 1].holder, number)))
    const set = new Hosts(record)
    await Promise.all(set.hosts.map(host => host.start()))
    if (keep) {
      for (const namespace of [wire, ...inits]) await namespace.keep()
      record.kept = true
      writeRecord(record)
    }
    return set
  } catch (error) {
    await end(record.id)
    throw error
  }
}

/** The hosts of `npm run hosts -- up` in this checkout; undefined when there are none. */
export function openHosts() {
  const record = readRecord(checkoutId)
  return record?.kept ? new Hosts(record) : undefined
}
