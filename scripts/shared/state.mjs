// What is written down of a running set of hosts or rigs, so that another process can use it, and end what a dead one
// has left.
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { root } from '../support.mjs'
import { ToolError } from './error.mjs'
import { locked } from './lock.mjs'
import { ended, identify, isAlive, signalIfAlive } from './process.mjs'

/** The name of the set that belongs to this checkout; an environment variable tells several apart. */
export function checkoutId(variable) {
  const named = process.env[variable] ?? ''
  if (!/^[\w-]{0,30}$/.test(named))
    throw new ToolError(`${variable} is up to 30 letters, digits, - and _, not "${named}".`)
  return `c${createHash('sha256').update(`${root}\0${named}`).digest('hex').slice(0, 8)}`
}

export class State {
  #base
  #lock
  #holders

  /**
   * @param base - the folder of all sets: on a disk, for images, and short, since the address of a UNIX socket ends
   * after 107 bytes
   * @param holders - gives the processes, as identify() names them, that a set's record says are the set: it ends when
   * they are killed
   */
  constructor(base, holders) {
    this.#base = base
    this.#lock = `state-${path.basename(base)}`
    this.#holders = record => holders(record).filter(holder => holder)
  }

  /** The folder of everything that a set has. */
  folderOf(id) {
    return path.join(this.#base, id)
  }

  #fileOf(id) {
    return path.join(this.folderOf(id), 'instance.json')
  }

  /** Writes down what is there of a set. */
  write(record) {
    const file = this.#fileOf(record.id)
    writeFileSync(`${file}.new`, `${JSON.stringify(record, undefined, 2)}\n`)
    renameSync(`${file}.new`, file)
  }

  /** What is written down of a set; undefined where there is none. */
  read(id) {
    try {
      return JSON.parse(readFileSync(this.#fileOf(id), 'utf8'))
    } catch {
      return undefined
    }
  }

  async #remove(id) {
    const record = this.read(id)
    if (record) {
      for (const holder of this.#holders(record)) signalIfAlive(holder, 'SIGKILL')
      for (const holder of this.#holders(record)) await ended(holder)
    }
    rmSync(this.folderOf(id), { recursive: true, force: true })
    try {
      rmdirSync(this.#base)
    } catch {
      // Others' sets are in it, or nothing ever was.
    }
  }

  /** True when nobody can be using a set any more. */
  #abandoned(record) {
    if (!record) return true
    if (isAlive(record.owner)) return false
    return !record.kept || !this.#holders(record).some(isAlive)
  }

  // Removes what dead processes have left; call it with the lock held.
  async #sweep() {
    let ids = []
    try {
      ids = readdirSync(this.#base)
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
    for (const id of ids) if (this.#abandoned(this.read(id))) await this.#remove(id)
  }

  /**
   * Makes the folder of a new set and removes what dead processes have left of theirs; resolves with its record.
   * @param id - the name, for a set that is to be found by it; made up without
   */
  begin(id = randomBytes(4).toString('hex')) {
    return locked(this.#lock, async () => {
      await this.#sweep()
      mkdirSync(this.folderOf(id), { recursive: true, mode: 0o700 })
      const record = { id, owner: identify(process.pid), kept: false }
      this.write(record)
      return record
    })
  }

  removeAbandoned() {
    return locked(this.#lock, () => this.#sweep())
  }

  /** Ends all of a set and removes its folder. */
  end(id) {
    return locked(this.#lock, () => this.#remove(id))
  }
}
