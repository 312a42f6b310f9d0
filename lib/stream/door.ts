// The UNIX socket in a cache's folder by which the nbdkit plugin, and whoever asks for the status, reach the process
// that streams into it. docs/stream-format.md describes the frames. Both sides check what they get.
import { rename, stat, unlink, open } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import path from 'node:path'
import process from 'node:process'
import { failed, StreamError } from './errors.js'

export const DOOR_FILE = 'manager.sock'
const MAGIC = 0x72647468
const REQUEST = 16
const NEED = 1
const STATUS = 2
/** Of one request. */
const MAX_COUNT = 1024
const MAX_STATUS = 1 << 20
/** Who has not told its status after so long does not answer. */
const STATUS_MS = 5_000

const IN_CACHE = 0
const DATA = 1
const FAILED = 2

/** Who answers. @internal */
export interface Doorkeeper {
  chunks: number
  /** Settled when the chunk is there: with its contents where the cache has no room for them. */
  need(chunk: number): Promise<Uint8Array | undefined>
  status(): object
}

/** @internal */
export class Door {
  readonly #server: Server
  readonly #file: string
  readonly #inode: number
  readonly #clients: Set<Socket>

  private constructor(server: Server, file: string, inode: number, clients: Set<Socket>) {
    this.#server = server
    this.#file = file
    this.#inode = inode
    this.#clients = clients
  }

  /** Replaces a socket that nobody listens at any more. */
  static async open(folder: string, keeper: Doorkeeper): Promise<Door> {
    const clients = new Set<Socket>()
    const server = createServer(socket => {
      clients.add(socket)
      socket.on('error', () => undefined)
      socket.once('close', () => clients.delete(socket))
      void serve(socket, keeper).finally(() => socket.destroy())
    })
    const name = `${DOOR_FILE}.${process.pid}`
    const at = await shortPath(folder)
    try {
      await unlink(path.join(folder, name)).catch(() => undefined)
      server.listen(`${at.path}/${name}`)
      await once(server, 'listening')
      const file = path.join(folder, DOOR_FILE)
      await rename(path.join(folder, name), file)
      return new Door(server, file, (await stat(file)).ino, clients)
    } catch (error) {
      server.close()
      throw failed(`listening in ${folder}`, error)
    } finally {
      await at.close()
    }
  }

  async close(): Promise<void> {
    for (const socket of this.#clients) socket.destroy()
    const closed = once(this.#server, 'close')
    this.#server.close()
    await closed
    // Another process may have come after this one.
    const there = await stat(this.#file).catch(() => undefined)
    if (there?.ino === this.#inode) await unlink(this.#file).catch(() => undefined)
  }
}

/** A connection to whoever streams into a cache; undefined when nobody does. @internal */
export async function knock(folder: string): Promise<Socket | undefined> {
  let at: Awaited<ReturnType<typeof shortPath>>
  try {
    at = await shortPath(folder)
  } catch {
    return undefined
  }
  const socket = connect(`${at.path}/${DOOR_FILE}`)
  try {
    await once(socket, 'connect')
    socket.on('error', () => undefined)
    return socket
  } catch {
    return undefined
  } finally {
    await at.close()
  }
}

/** What whoever streams into a cache says of itself. @internal */
export async function askStatus(folder: string): Promise<unknown> {
  const socket = await knock(folder)
  if (!socket)
    throw new StreamError(`Nobody streams into ${folder}: \`hypertwin stream serve\` or \`run\` does`, { code: 'NOT_RUNNING' })
  // One that is stopped listens, and says nothing.
  const timer = setTimeout(() => socket.destroy(new Error(`no answer for ${STATUS_MS / 1000} s`)), STATUS_MS)
  try {
    socket.write(request(STATUS, 0, 0))
    let answer = Buffer.alloc(0)
    for await (const piece of socket) {
      answer = Buffer.concat([answer, piece as Buffer])
      if (answer.length < 8) continue
      const length = answer.readUInt32LE(4)
      if (length > MAX_STATUS) break
      if (answer.length >= 8 + length) return JSON.parse(answer.toString('utf8', 8, 8 + length)) as unknown
    }
    throw new Error('it gave no status')
  } catch (cause) {
    throw new StreamError(`The process that streams into ${folder} does not answer: ${(cause as Error).message}`, { code: 'NOT_RUNNING', cause })
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}

/** @internal */
export function request(op: number, chunk: number, count: number): Buffer {
  const bytes = Buffer.alloc(REQUEST)
  bytes.writeUInt32LE(MAGIC, 0)
  bytes.writeUInt32LE(op, 4)
  bytes.writeUInt32LE(chunk, 8)
  bytes.writeUInt32LE(count, 12)
  return bytes
}

/** Request after request; ends at the first that is none. */
async function serve(socket: Socket, keeper: Doorkeeper): Promise<void> {
  let rest = Buffer.alloc(0)
  try {
    for await (const piece of socket) {
      rest = Buffer.concat([rest, piece as Buffer])
      for (; rest.length >= REQUEST; rest = rest.subarray(REQUEST)) {
        const [magic, op, chunk, count] = [0, 4, 8, 12].map(at => rest.readUInt32LE(at)) as [number, number, number, number]
        if (magic !== MAGIC) return
        if (op === STATUS) await say(socket, IN_CACHE, Buffer.from(JSON.stringify(keeper.status())))
        else if (op === NEED && count >= 1 && count <= MAX_COUNT && chunk < keeper.chunks && count <= keeper.chunks - chunk)
          await give(socket, keeper, chunk, count)
        else return
      }
    }
  } catch {
    // The other side has gone.
  }
}

/** All are asked for at once, and answered in their order. */
async function give(socket: Socket, keeper: Doorkeeper, chunk: number, count: number): Promise<void> {
  const asked = Array.from({ length: count }, (_, i) => keeper.need(chunk + i))
  // Each is awaited below; until then its failure is nobody's.
  for (const one of asked) one.catch(() => undefined)
  for (const one of asked)
    try {
      const contents = await one
      if (contents) await say(socket, DATA, contents)
      else await say(socket, IN_CACHE, Buffer.alloc(0))
    } catch (error) {
      // Of a stream that is closed: another one may take its place, and is asked again.
      if (socket.destroyed || (error as StreamError).code === 'CLOSED') throw error
      await say(socket, FAILED, Buffer.from((error as Error).message).subarray(0, 500))
    }
}

async function say(socket: Socket, status: number, data: Uint8Array): Promise<void> {
  const head = Buffer.alloc(8)
  head.writeUInt32LE(status, 0)
  head.writeUInt32LE(data.length, 4)
  const free = socket.write(Buffer.concat([head, data]))
  if (!free && !socket.destroyed) await drained(socket)
}

/** It takes more, or has gone. */
function drained(socket: Socket): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      socket.off('drain', done).off('close', done)
      resolve()
    }
    socket.on('drain', done).on('close', done)
  })
}

/** A path of the folder that a socket's address has room for, however long its own is. */
async function shortPath(folder: string): Promise<{ path: string; close: () => Promise<void> }> {
  const handle = await open(folder, 'r')
  return { path: `/proc/self/fd/${handle.fd}`, close: () => handle.close() }
}
