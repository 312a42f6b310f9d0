// A mailroom in a few lines behind a packet port, that can be told to misbehave.
import type { PacketPort } from '../../lib/cli/mailroom/link.js'

/** What goes wrong. Each is called with what is about to happen; true: do it wrong. */
export interface Faults {
  /** The reply (the n-th) is lost. */
  dropReply?: (n: number) => boolean
  /** The reply comes twice. */
  repeatReply?: (n: number) => boolean
  /** The operation (the n-th) is acknowledged, not done. */
  forget?: (op: number, n: number) => boolean
  /** A byte of the frame is changed on its way to the client. */
  garble?: (n: number) => boolean
}

interface Mail {
  id: number
  from: number
  flags: number
  body: Buffer
}

const MAC = Buffer.from([0x52, 0x54, 0, 0x68, 0x74, 1])
const IP = Buffer.from([10, 77, 0, 2])

function checksum(bytes: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return sum ^ 0xffff
}

/** The Internet checksum of a UDP datagram with its pseudo header; 0 when the one it carries is right. */
export function udpChecksum(frame: Buffer): number {
  const udp = frame.subarray(34, 34 + frame.readUInt16BE(38))
  const pseudo = Buffer.alloc(12)
  frame.copy(pseudo, 0, 26, 34)
  pseudo[9] = 17
  pseudo.writeUInt16BE(udp.length, 10)
  return checksum(Buffer.concat([pseudo, udp]))
}

export class FakeMailroom implements PacketPort {
  operations = 0
  requests = 0
  closed = false
  /** Frames that the client sent. */
  seen: Buffer[] = []
  #handler: (frame: Uint8Array) => void = () => {}
  #users = new Map<number, { seq: bigint; session: number; mails: Mail[]; reply: Buffer }>()
  #ids = 0
  #replies = 0

  constructor(readonly faults: Faults = {}) {}

  receive(handler: (frame: Uint8Array) => void): void {
    this.#handler = handler
  }

  close(): void {
    this.closed = true
  }

  /** To the client, later. */
  deliver(frame: Uint8Array): void {
    setImmediate(() => this.#handler(frame))
  }

  send(bytes: Uint8Array): boolean {
    const frame = Buffer.from(bytes)
    this.seen.push(frame)
    if (frame.readUInt16BE(12) === 0x0806) this.#arp(frame)
    else this.#request(frame)
    return true
  }

  #arp(frame: Buffer): void {
    if (frame.readUInt16BE(20) !== 1) return
    const answer = Buffer.alloc(60)
    frame.copy(answer, 0, 6, 12)
    MAC.copy(answer, 6)
    answer.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 2], 12)
    MAC.copy(answer, 22)
    IP.copy(answer, 28)
    frame.copy(answer, 32, 22, 32)
    this.deliver(answer)
  }

  #request(frame: Buffer): void {
    this.requests++
    if (checksum(frame.subarray(14, 34)) !== 0 || udpChecksum(frame) !== 0) return
    const r = frame.subarray(42)
    const reply = this.#execute(r)
    const n = this.#replies++
    if (this.faults.dropReply?.(n)) return
    const answer = Buffer.alloc(42 + reply.length)
    frame.copy(answer, 0, 6, 12)
    MAC.copy(answer, 6)
    answer.writeUInt16BE(0x0800, 12)
    answer[14] = 0x45
    answer.writeUInt16BE(28 + reply.length, 16)
    answer[22] = 64
    answer[23] = 17
    frame.copy(answer, 26, 30, 34)
    frame.copy(answer, 30, 26, 30)
    answer.writeUInt16BE(checksum(answer.subarray(14, 34)), 24)
    frame.copy(answer, 34, 36, 38)
    frame.copy(answer, 36, 34, 36)
    answer.writeUInt16BE(8 + reply.length, 38)
    reply.copy(answer, 42)
    answer.writeUInt16BE(udpChecksum(answer), 40)
    if (this.faults.garble?.(n)) answer[42 + (n % reply.length)]! ^= 0x20
    this.deliver(answer)
    if (this.faults.repeatReply?.(n)) this.deliver(Buffer.from(answer))
  }

  #execute(r: Buffer): Buffer {
    const op = r[5]!
    const id = r.readUInt16LE(6)
    const seq = r.readBigUInt64LE(8)
    const [arg0, arg1, session] = [r.readUInt32LE(16), r.readUInt32LE(20), r.readUInt32LE(24)]
    const answer = (status: number, arg = 0, value = 0, body: Buffer = Buffer.alloc(0)) => {
      const head = Buffer.alloc(32)
      head.writeUInt32LE(0x504d5448, 0)
      r.copy(head, 4, 4, 16)
      head.writeUInt16LE(status, 16)
      head.writeUInt16LE(body.length, 18)
      head.writeUInt32LE(arg, 20)
      head.writeBigUInt64LE(BigInt(value), 24)
      return Buffer.concat([head, body])
    }
    if (op === 7) {
      const body = Buffer.alloc(16)
      body.writeBigUInt64LE(BigInt(this.operations), 8)
      return answer(0, 0, 0, body)
    }
    const user = this.#users.get(id) ?? { seq: 0n, session: 0, mails: [], reply: Buffer.alloc(0) }
    this.#users.set(id, user)
    if (seq === user.seq) return user.reply
    if (seq < user.seq) return answer(6, 0, Number(user.seq))
    user.seq = seq
    const forget = this.faults.forget?.(op, this.operations) ?? false
    this.operations++
    const find = () => user.mails.find(mail => mail.id === arg0)
    const perform = (): Buffer => {
      if (op === 1) return answer(0, ++user.session)
      if (session !== user.session) return answer(1)
      if (op === 2) {
        const from = arg0 === 0 ? 0 : user.mails.findIndex(mail => mail.id === arg0) + 1
        const page = user.mails.slice(from, from + Math.min(arg1 || 64, 64))
        const body = Buffer.alloc(page.length * 12)
        page.forEach((mail, i) => {
          body.writeUInt32LE(mail.id, i * 12)
          body.writeUInt16LE(mail.from, i * 12 + 4)
          body.writeUInt16LE(mail.body.length, i * 12 + 6)
          body[i * 12 + 8] = mail.flags
        })
        return answer(0, page.length, user.mails.length, body)
      }
      if (op === 4) {
        const to = this.#users.get(arg0) ?? { seq: 0n, session: 0, mails: [], reply: Buffer.alloc(0) }
        this.#users.set(arg0, to)
        const mail = { id: ++this.#ids, from: id, flags: 0, body: Buffer.from(r.subarray(32, 32 + r.readUInt16LE(28))) }
        if (!forget) to.mails.push(mail)
        return answer(0, mail.id)
      }
      const mail = find()
      if (!mail) return answer(2)
      if (op === 3) return answer(0, mail.flags, mail.from, mail.body)
      if (forget) return answer(0)
      if (op === 5) mail.flags = arg1
      if (op === 6) user.mails.splice(user.mails.indexOf(mail), 1)
      return answer(0)
    }
    return (user.reply = perform())
  }
}
