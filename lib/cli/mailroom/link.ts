// How datagrams reach a mailroom: as Ethernet frames through a machine's in-process packet queue, or by a UDP
// socket of this host (a guest behind a tap). Knows no mailroom.
import { createSocket, type Socket } from 'node:dgram'
import { MailroomError } from './protocol.js'

/** A buffer of a link's for one datagram, whose payload begins at `at`. */
export interface Datagram {
  bytes: Buffer
  at: number
}

/** Sends datagrams to one address and receives those from it. */
export interface Link {
  /** A buffer for payloads of up to `size` bytes. */
  datagram(size: number): Datagram
  /** Sends the first `size` payload bytes; false when there is no room now. Unreliable, as UDP is. */
  send(datagram: Datagram, size: number): boolean
  /** Called with each payload that arrives; the bytes are valid only during the call. */
  onPayload: (bytes: Buffer, at: number, size: number) => void
  /** Resolves once the other side can be reached. */
  ready(timeoutMs: number, signal?: AbortSignal): Promise<void>
  close(): void
}

/** A machine's in-process packet queue, as the link uses it. */
export interface PacketPort {
  /** Takes a copy of one Ethernet frame; false when the queue is full. */
  send(frame: Uint8Array): boolean
  /** `handler` is called with each frame that the guest sends. */
  receive(handler: (frame: Uint8Array) => void): void
  close(): void
}

const ETHERNET = 14
const IP = 20
const UDP = 8
const HEADERS = ETHERNET + IP + UDP
const TYPE_IP = 0x0800
const TYPE_ARP = 0x0806

/** The Internet checksum's sum over bytes [from, to), not folded. */
function sumWords(bytes: Uint8Array, from: number, to: number, sum: number): number {
  const even = to - ((to - from) & 1)
  for (let i = from; i < even; i += 2) sum += (bytes[i]! << 8) | bytes[i + 1]!
  return even < to ? sum + (bytes[even]! << 8) : sum
}

function fold(sum: number): number {
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return sum ^ 0xffff
}

function parseIp(text: string): Buffer {
  const parts = text.split('.').map(Number)
  if (parts.length !== 4 || parts.some(n => !Number.isInteger(n) || n < 0 || n > 255))
    throw new TypeError(`"${text}" is no IPv4 address`)
  return Buffer.from(parts)
}

/** Where the two ends of a {@link FrameLink} are. */
export interface FrameLinkOptions {
  /** The guest's IPv4 address. Default 10.77.0.2. */
  guestIp?: string
  /** The guest's UDP port. */
  guestPort: number
  /** Our IPv4 address. Default 10.77.0.1. */
  ip?: string
  /** Our UDP port. Default 40000. */
  port?: number
}

/** UDP over IPv4 over Ethernet, one peer, over a {@link PacketPort}. Asks for and answers ARP. */
export class FrameLink implements Link {
  onPayload: Link['onPayload'] = () => {}
  /** Frames that were not what they should be, and were dropped. */
  malformed = 0

  readonly #port: PacketPort
  readonly #mac = Buffer.from([0x02, 0x68, 0x74, 0, 0, 1])
  readonly #ip: Buffer
  readonly #udpPort: number
  readonly #guestIp: Buffer
  readonly #guestPort: number
  #guestMac: Buffer | undefined
  #resolved: (() => void) | undefined

  constructor(port: PacketPort, options: FrameLinkOptions) {
    this.#port = port
    this.#ip = parseIp(options.ip ?? '10.77.0.1')
    this.#udpPort = options.port ?? 40000
    this.#guestIp = parseIp(options.guestIp ?? '10.77.0.2')
    this.#guestPort = options.guestPort
    port.receive(frame => this.#onFrame(frame))
  }

  datagram(size: number): Datagram {
    const bytes = Buffer.alloc(HEADERS + size)
    bytes.writeUInt16BE(TYPE_IP, 12)
    bytes[ETHERNET] = 0x45
    bytes[ETHERNET + 6] = 0x40 // don't fragment
    bytes[ETHERNET + 8] = 64
    bytes[ETHERNET + 9] = 17
    this.#ip.copy(bytes, ETHERNET + 12)
    this.#guestIp.copy(bytes, ETHERNET + 16)
    bytes.writeUInt16BE(this.#udpPort, ETHERNET + IP)
    bytes.writeUInt16BE(this.#guestPort, ETHERNET + IP + 2)
    return { bytes, at: HEADERS }
  }

  send(datagram: Datagram, size: number): boolean {
    const { bytes } = datagram
    if (HEADERS + size > bytes.length) throw new RangeError(`${size} bytes do not fit into the datagram`)
    if (!this.#guestMac) return false
    this.#guestMac.copy(bytes, 0)
    this.#mac.copy(bytes, 6)
    bytes.writeUInt16BE(IP + UDP + size, ETHERNET + 2)
    bytes[ETHERNET + 10] = bytes[ETHERNET + 11] = 0
    bytes.writeUInt16BE(fold(sumWords(bytes, ETHERNET, ETHERNET + IP, 0)), ETHERNET + 10)
    const udp = ETHERNET + IP
    bytes.writeUInt16BE(UDP + size, udp + 4)
    bytes[udp + 6] = bytes[udp + 7] = 0
    const sum = fold(sumWords(bytes, ETHERNET + 12, HEADERS + size, 17 + UDP + size))
    bytes.writeUInt16BE(sum === 0 ? 0xffff : sum, udp + 6)
    return this.#port.send(bytes.subarray(0, HEADERS + size))
  }

  async ready(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#guestMac) return
    await new Promise<void>((resolve, reject) => {
      const end = (error?: Error) => {
        clearInterval(again)
        clearTimeout(late)
        signal?.removeEventListener('abort', aborted)
        this.#resolved = undefined
        if (error === undefined) resolve()
        else reject(error)
      }
      const aborted = () => end(signal?.reason as Error)
      const again = setInterval(() => this.#arp(1, Buffer.alloc(6, 0xff), this.#guestIp), 20)
      const late = setTimeout(
        () =>
          end(
            new MailroomError(
              `No answer from ${this.#guestIp.join('.')} after ${timeoutMs} ms: the guest has not come up, or has another address`,
              { code: 'NO_ANSWER' }
            )
          ),
        timeoutMs
      )
      signal?.addEventListener('abort', aborted)
      if (signal?.aborted) return end(signal.reason as Error)
      this.#resolved = end
      this.#arp(1, Buffer.alloc(6, 0xff), this.#guestIp)
    })
  }

  close(): void {
    this.#port.close()
  }

  #arp(operation: 1 | 2, to: Buffer, targetIp: Uint8Array): void {
    const frame = Buffer.alloc(60)
    to.copy(frame, 0)
    this.#mac.copy(frame, 6)
    frame.writeUInt16BE(TYPE_ARP, 12)
    frame.set([0, 1, 8, 0, 6, 4, 0, operation], ETHERNET)
    this.#mac.copy(frame, ETHERNET + 8)
    this.#ip.copy(frame, ETHERNET + 14)
    if (operation === 2) to.copy(frame, ETHERNET + 18)
    frame.set(targetIp, ETHERNET + 24)
    this.#port.send(frame)
  }

  #onFrame(frame: Uint8Array): void {
    const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength)
    if (bytes.length < ETHERNET) return void this.malformed++
    const type = bytes.readUInt16BE(12)
    const good = type === TYPE_IP ? this.#onIp(bytes) : type === TYPE_ARP ? this.#onArp(bytes) : true
    if (!good) this.malformed++
  }

  #onArp(bytes: Buffer): boolean {
    const arp = ETHERNET
    if (bytes.length < arp + 28) return false
    if (bytes.readUInt32BE(arp) !== 0x00010800 || bytes.readUInt16BE(arp + 4) !== 0x0604) return false
    const operation = bytes.readUInt16BE(arp + 6)
    const senderMac = bytes.subarray(arp + 8, arp + 14)
    const senderIp = bytes.subarray(arp + 14, arp + 18)
    if (bytes.compare(this.#ip, 0, 4, arp + 24, arp + 28) !== 0) return true
    if (operation === 1) this.#arp(2, Buffer.from(senderMac), senderIp)
    if (operation === 2 && senderIp.equals(this.#guestIp)) {
      this.#guestMac = Buffer.from(senderMac)
      this.#resolved?.()
    }
    return true
  }

  #onIp(bytes: Buffer): boolean {
    const ip = ETHERNET
    if (bytes.length < ip + IP || bytes[ip]! >> 4 !== 4) return false
    const header = (bytes[ip]! & 15) * 4
    const total = bytes.readUInt16BE(ip + 2)
    if (header < IP || total < header || ip + total > bytes.length) return false
    if (fold(sumWords(bytes, ip, ip + header, 0)) !== 0) return false
    if ((bytes.readUInt16BE(ip + 6) & 0x3fff) !== 0) return false // a fragment
    if (bytes[ip + 9] !== 17) return true
    if (bytes.compare(this.#ip, 0, 4, ip + 16, ip + 20) !== 0) return true
    if (bytes.compare(this.#guestIp, 0, 4, ip + 12, ip + 16) !== 0) return true
    const udp = ip + header
    if (total < header + UDP) return false
    const size = bytes.readUInt16BE(udp + 4)
    if (size < UDP || size > total - header) return false
    if (bytes.readUInt16BE(udp + 6) !== 0 && fold(sumWords(bytes, udp, udp + size, sumWords(bytes, ip + 12, ip + 20, 17 + size))) !== 0)
      return false
    if (bytes.readUInt16BE(udp) !== this.#guestPort || bytes.readUInt16BE(udp + 2) !== this.#udpPort) return true
    this.onPayload(bytes, udp + UDP, size - UDP)
    return true
  }
}

/** By a UDP socket of this host. */
export class SocketLink implements Link {
  onPayload: Link['onPayload'] = () => {}
  readonly #socket: Socket
  readonly #connected: Promise<void>

  constructor(host: string, port: number) {
    this.#socket = createSocket('udp4')
    this.#connected = new Promise((resolve, reject) => {
      this.#socket.once('error', reject)
      this.#socket.connect(port, host, () => {
        this.#socket.off('error', reject)
        // What ICMP reports is a lost datagram like any other.
        this.#socket.on('error', () => {})
        resolve()
      })
    })
    this.#connected.catch(() => {})
    this.#socket.on('message', message => this.onPayload(message, 0, message.length))
  }

  datagram(size: number): Datagram {
    return { bytes: Buffer.alloc(size), at: 0 }
  }

  send(datagram: Datagram, size: number): boolean {
    this.#socket.send(datagram.bytes, 0, size, () => {})
    return true
  }

  ready(): Promise<void> {
    return this.#connected
  }

  close(): void {
    this.#socket.close()
  }
}
