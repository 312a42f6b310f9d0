// The demo's network where there are no namespaces: Ethernet frames over a UNIX socket, each behind its length. The
// users' process is the hub: what it sends goes to every host, and what any host sends comes to it.
import { rmSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import type { NetPort } from '../../machine/index.js'
import { packetPort } from '../mailroom/boot.js'
import type { PacketPort } from '../mailroom/link.js'

const FRAME_MAX = 65_562
// A peer that is behind by more loses frames, as on any network.
const BEHIND_MAX = 4 << 20

/** Calls `onFrame` with each frame that arrives; a peer that sends anything else is cut off. */
function frames(socket: Socket, onFrame: (frame: Uint8Array) => void): void {
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (bytes.length - at >= 4) {
      const size = bytes.readUInt32LE(at)
      if (size > FRAME_MAX) return void socket.destroy()
      if (bytes.length - at - 4 < size) break
      onFrame(bytes.subarray(at + 4, at + 4 + size))
      at += 4 + size
    }
    rest = at === bytes.length ? Buffer.alloc(0) : bytes.subarray(at)
  })
}

/** What is sent within one turn leaves in one write. */
function sender(socket: Socket): (frame: Uint8Array) => boolean {
  let corked = false
  return frame => {
    if (socket.destroyed || socket.writableLength > BEHIND_MAX) return false
    if (!corked) {
      corked = true
      socket.cork()
      queueMicrotask(() => {
        corked = false
        socket.uncork()
      })
    }
    const bytes = Buffer.allocUnsafe(4 + frame.length)
    bytes.writeUInt32LE(frame.length)
    bytes.set(frame, 4)
    socket.write(bytes)
    return true
  }
}

/** The users' end. */
export class Hub implements PacketPort {
  readonly #server: Server
  readonly #hosts = new Map<Socket, (frame: Uint8Array) => boolean>()
  #handler: (frame: Uint8Array) => void = () => {}

  private constructor(server: Server) {
    this.#server = server
    server.on('connection', socket => {
      this.#hosts.set(socket, sender(socket))
      socket.on('error', () => {})
      socket.on('close', () => this.#hosts.delete(socket))
      frames(socket, frame => this.#handler(frame))
    })
  }

  static async listen(path: string): Promise<Hub> {
    rmSync(path, { force: true })
    const server = createServer()
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
    return new Hub(server)
  }

  send(frame: Uint8Array): boolean {
    let taken = false
    for (const send of this.#hosts.values()) taken = send(frame) || taken
    return taken
  }

  receive(handler: (frame: Uint8Array) => void): void {
    this.#handler = handler
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#hosts.keys()) socket.destroy()
  }
}

/** A host's end. Until a machine is plugged in, what comes is dropped. */
export class HubPlug {
  readonly #socket: Socket
  #port: PacketPort | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => {})
  }

  static async connect(path: string): Promise<HubPlug> {
    const socket = createConnection(path)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    const plug = new HubPlug(socket)
    frames(socket, frame => plug.#port?.send(frame))
    return plug
  }

  /** Joins a machine's packet queue to the hub. */
  plugIn(net: NetPort): void {
    this.#port = packetPort(net)
    this.#port.receive(sender(this.#socket))
  }
}
