// A command in a rig, over one of its ports. agent.c says what the two say to each other.
import { randomBytes } from 'node:crypto'
import { constants } from 'node:os'
import { connect } from 'node:net'
import { Readable, Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { ToolError } from '../shared/error.mjs'
import { tryLock } from '../shared/lock.mjs'

const credit = 256 * 1024
const piece = 32 * 1024

/** How many commands run in a rig at once; further ones wait. */
export const portCount = 16

const signalNames = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]))

function frame(letter, data = Buffer.alloc(0)) {
  const head = Buffer.alloc(5)
  head.write(letter, 'latin1')
  head.writeUInt32LE(data.length, 1)
  return Buffer.concat([head, data])
}

function request(words, cwd, env) {
  const texts = [cwd, words.length, ...words, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)]
  if (texts.some(text => String(text).includes('\0'))) throw new ToolError('A command has no zero bytes in it.')
  return Buffer.from(texts.map(text => `${text}\0`).join(''))
}

class Input extends Writable {
  #send
  #credit = credit
  #rest
  #done

  constructor(send) {
    super({ highWaterMark: credit })
    this.#send = send
  }

  grant(bytes) {
    this.#credit += bytes
    this.#flush()
  }

  #flush() {
    while (this.#rest?.length > 0 && this.#credit > 0) {
      const part = this.#rest.subarray(0, Math.min(piece, this.#credit))
      this.#rest = this.#rest.subarray(part.length)
      this.#credit -= part.length
      this.#send('I', part)
    }
    if (this.#rest?.length > 0) return
    const done = this.#done
    this.#rest = this.#done = undefined
    done?.()
  }

  /** Nobody reads any more. */
  close() {
    this.#credit = Infinity
    this.#send = () => {}
    this.#flush()
  }

  _write(chunk, _encoding, done) {
    this.#rest = chunk
    this.#done = done
    this.#flush()
  }

  _final(done) {
    this.#send('E')
    done()
  }
}

/** A running command: streams, kill(), and `ended`, which resolves with {status, signal}. */
class Command {
  #socket
  #received = Buffer.alloc(0)
  #full = new Set()
  #settle

  constructor(socket) {
    this.#socket = socket
    this.stdin = new Input((letter, data) => socket.writable && socket.write(frame(letter, data)))
    for (const name of ['stdout', 'stderr'])
      this[name] = new Readable({
        read: () => {
          this.#full.delete(name)
          if (this.#full.size === 0) socket.resume()
        }
      })
    this.ended = new Promise((resolve, reject) => (this.#settle = { resolve, reject }))
    this.ended.catch(() => {})
  }

  /** Takes what came from the rig; gives what is not about a running command. */
  take(data) {
    let rest = this.#received.length > 0 ? Buffer.concat([this.#received, data]) : data
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32LE(1)) {
      const end = 5 + rest.readUInt32LE(1)
      this.#obey(String.fromCharCode(rest[0]), rest.subarray(5, end))
      rest = rest.subarray(end)
    }
    this.#received = rest
  }

  #obey(letter, data) {
    switch (letter) {
      case 'B':
        this.pid = data.readUInt32LE(0)
        return this.onBegun()
      case 'F': {
        const number = data.readUInt32LE(0)
        const [code] = Object.entries(constants.errno).find(([, value]) => value === number) ?? [`errno ${number}`]
        return this.onBegun(Object.assign(new ToolError(`${data.toString('latin1', 4)}: ${code}`), { code }))
      }
      case 'W':
        return this.stdin.grant(data.readUInt32LE(0))
      case 'O':
        return this.#push('stdout', data)
      case 'D':
        return this.#push('stderr', data)
      case 'X': {
        const signal = data.readUInt32LE(4)
        return this.#end({
          status: signal ? null : data.readUInt32LE(0),
          signal: signal ? (signalNames.get(signal) ?? `signal ${signal}`) : null
        })
      }
    }
  }

  #push(name, data) {
    if (this[name].push(Buffer.from(data))) return
    this.#full.add(name)
    this.#socket.pause()
  }

  #close() {
    this.stdout.push(null)
    this.stderr.push(null)
    this.stdin.close()
    this.#socket.destroy()
  }

  #end(result) {
    this.#close()
    this.#settle.resolve(result)
  }

  /** The connection is lost. */
  lose(error) {
    this.#close()
    this.#settle.reject(error)
  }

  /** Sends a signal to the command and to what it has started in its process group. */
  kill(signal = 'SIGTERM') {
    const number = constants.signals[signal]
    if (number === undefined) throw new ToolError(`There is no signal ${signal}.`)
    if (this.#socket.writable) this.#socket.write(frame('K', Buffer.from([number])))
  }
}

async function takePort(name) {
  for (;;) {
    for (let port = 1; port <= portCount; port++) {
      const unlock = await tryLock(`${name}-${port}`)
      if (unlock) return { port, unlock }
    }
    await sleep(50)
  }
}

/**
 * Starts a command; resolves when it runs.
 * @param rig - name: for locks and messages; socketOf(port); key; and whyGone(), what to say when the rig has ended
 */
export async function startCommand(rig, words, { cwd, env }) {
  const start = frame('S', request(words, cwd, env))
  const { port, unlock } = await takePort(rig.lock)
  const socket = connect(rig.socketOf(port))
  const command = new Command(socket)
  const number = randomBytes(16)
  let before = Buffer.alloc(0)
  let ours = false
  socket.on('data', data => {
    if (ours) return command.take(data)
    before = Buffer.concat([before, data])
    const at = before.indexOf(number)
    if (at < 0) return
    ours = true
    command.take(before.subarray(at + number.length))
  })
  let error
  socket.on('error', found => (error = found))
  const begun = new Promise((resolve, reject) => {
    command.onBegun = failure => (failure ? reject(failure) : resolve())
    socket.once('close', () => {
      const lost = new ToolError(rig.whyGone(), { cause: error })
      command.lose(lost)
      reject(lost)
      void unlock()
    })
  })
  socket.write(Buffer.concat([rig.key, number, start]))
  try {
    await begun
  } catch (failure) {
    socket.destroy()
    if (failure.code) failure.message = `${rig.name} cannot run ${words[0]}: ${failure.message}`
    throw failure
  }
  return command
}
