// Sets of rigs: started, found again, ended.
import process from 'node:process'
import { install } from '../shared/debian.mjs'
import { ToolError } from '../shared/error.mjs'
import { insideRig } from '../shared/inside.mjs'
import { connect, createMachineRoom, inNetwork, makeWire, whyNoNamespaces } from '../shared/namespace.mjs'
import { isAlive } from '../shared/process.mjs'
import { State, checkoutId as idOf } from '../shared/state.mjs'
import { rigImage } from './image.mjs'
import { Rig, prefix, wireAddress } from './rig.mjs'

const packages = ['gcc', 'iproute2', 'libc6-dev', 'qemu-system-x86', 'xz-utils']
const programs = ['ip', 'nsenter', 'qemu-system-x86_64', 'taskset', 'unshare']

/** The name of the set that `npm run rig -- up` makes in this checkout; HYPERTWIN_RIGS tells several apart. */
export const checkoutId = idOf('HYPERTWIN_RIGS')

/** Where running rigs are written down. */
export const state = new State('/var/lib/hypertwin-rigs', ({ wire }) => [wire])

let answer

/** Why rigs cannot be started here, or false. Installs and fetches what is missing. */
export function whyNoRigs() {
  return (answer ??= findOut())
}

async function findOut() {
  if (process.arch !== 'x64') return `rigs need an x86-64 machine, this is ${process.arch}`
  const why = await whyNoNamespaces('rigs')
  if (why) return why
  if (insideRig()) return 'this is a rig; there is none in it'
  try {
    await install(packages, programs)
    await rigImage()
  } catch (error) {
    return error.message
  }
  return false
}

export class Rigs {
  #record
  #closing

  constructor(record) {
    this.#record = record
    this.id = record.id
    this.memory = record.memory
    this.cpus = record.cpus
    this.wireAddress = wireAddress
    const folder = state.folderOf(record.id)
    this.rigs = record.rigs.map((_, i) => new Rig(record, folder, i + 1, () => state.write(record)))
  }

  /** False when the network and all rigs have ended, as with the machine. */
  get up() {
    return isAlive(this.#record.wire)
  }

  get length() {
    return this.rigs.length
  }

  [Symbol.iterator]() {
    return this.rigs[Symbol.iterator]()
  }

  onWire(...command) {
    return inNetwork(this.#record.wire.pid, ...command)
  }

  connect(address, port) {
    return connect(this.#record.wire.pid, address, port)
  }

  down() {
    return (this.#closing ??= state.end(this.id))
  }

  [Symbol.asyncDispose]() {
    return this.down()
  }
}

function check(what, value, least, most) {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new ToolError(`The ${what} is ${least} to ${most}, not ${value}.`)
}

/** @param keep - the rigs outlive this process, under the name of the checkout; for the command */
export async function rigsUp(count = 1, { memory = 1024, cpus = 1, keep = false } = {}) {
  check('number of rigs', count, 1, 50)
  check('memory in MiB', memory, 256, 1 << 20)
  check('number of processors', cpus, 1, 16)
  const why = await whyNoRigs()
  if (why) throw new ToolError(why)
  const record = await state.begin(keep ? checkoutId : undefined)
  try {
    const room = await createMachineRoom()
    Object.assign(record, { wire: room.holder, memory, cpus, rigs: Array.from({ length: count }, () => ({})) })
    state.write(record)
    await makeWire(room.holder, `${wireAddress}/${prefix}`)
    const rigs = new Rigs(record)
    for (const rig of rigs) await rig.plugIn()
    await Promise.all(rigs.rigs.map(rig => rig.start()))
    if (keep) {
      await room.keep()
      record.kept = true
      state.write(record)
    }
    return rigs
  } catch (error) {
    await state.end(record.id)
    throw error
  }
}

/** The rigs of `npm run rig -- up` in this checkout; undefined when there are none. */
export function openRigs() {
  const record = state.read(checkoutId)
  return record?.kept ? new Rigs(record) : undefined
}
