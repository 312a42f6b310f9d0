// What is written down of running hosts, so that another process can use them, and end what a dead one has left.
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { locked } from './lock.mjs'
import { ended, identify, isAlive, signalIfAlive } from './process.mjs'

// On a disk, for images; and short, since the address of a UNIX socket ends after 107 bytes.
const base = '/var/lib/hypertwin-hosts'

const recordOf = id => path.join(base, id, 'instance.json')

/** The folder of everything that a set of hosts has. */
export function folderOf(id) {
  return path.join(base, id)
}

/** Writes down what is there of a set of hosts. */
export function writeRecord(record) {
  const file = recordOf(record.id)
  writeFileSync(`${file}.new`, `${JSON.stringify(record, undefined, 2)}\n`)
  renameSync(`${file}.new`, file)
}

/** What is written down of a set of hosts; undefined where there is none. */
export function readRecord(id) {
  try {
    return JSON.parse(readFileSync(recordOf(id), 'utf8'))
  } catch {
    return undefined
  }
}

const holders = record => [record.wire, ...record.hosts.map(host => host.init)].filter(holder => holder)

/** Ends all hosts of a set and removes its folder. */
export async function remove(id) {
  const record = readRecord(id)
  if (record) {
    for (const holder of holders(record)) signalIfAlive(holder, 'SIGKILL')
    for (const holder of holders(record)) await ended(holder)
  }
  rmSync(folderOf(id), { recursive: true, force: true })
  try {
    rmdirSync(base)
  } catch {
    // Others' hosts are in it, or nothing ever was.
  }
}

/** True when nobody can be using a set of hosts any more. */
function abandoned(record) {
  if (!record) return true
  if (isAlive(record.owner)) return false
  return !record.kept || !holders(record).some(isAlive)
}

/**
 * Makes the folder of a new set of hosts and removes what dead processes have left of theirs.
 * @param id - the name, for a set that is to be found by it; made up without
 */
export function begin(id = randomBytes(4).toString('hex')) {
  return locked('state', async () => {
    await sweep()
    mkdirSync(folderOf(id), { recursive: true, mode: 0o700 })
    const record = { id, owner: identify(process.pid), kept: false, hosts: [] }
    writeRecord(record)
    return record
  })
}

/** Removes what dead processes have left; call it with the lock held or by removeAbandoned(). */
async function sweep() {
  let ids = []
  try {
    ids = readdirSync(base)
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
  for (const id of ids) if (abandoned(readRecord(id))) await remove(id)
}

export function removeAbandoned() {
  return locked('state', sweep)
}

/** As remove(), but not while another process begins. */
export function end(id) {
  return locked('state', () => remove(id))
}
