// The mailroom guest's requests and replies as they lie in a UDP payload (native/guest/mailroom_protocol.h,
// docs/guests.md). Knows no network.
import { HypertwinError } from '../../errors.js'

/** The guest's UDP port. */
export const MAILROOM_PORT = 2525
/** User ids are below this. */
export const MAILROOM_USERS = 256
/** Largest mail, in bytes. */
export const MAILROOM_BODY_MAX = 512
/** Most entries of one list reply. */
export const MAILROOM_LIST_MAX = 64
/** Bytes before a request's body. */
export const REQUEST_SIZE = 32
/** Bytes before a reply's body. */
export const REPLY_SIZE = 32

const VERSION = 1
const REQUEST_MAGIC = 0x524d5448
const REPLY_MAGIC = 0x504d5448
const REPLY_BODY_MAX = 768
const LIST_ENTRY_SIZE = 12

/** What can be asked of a mailroom. */
export const Op = { login: 1, list: 2, read: 3, send: 4, flag: 5, delete: 6, digest: 7, stats: 8 } as const
/** An operation's name. */
export type OpName = keyof typeof Op

/** How a mailroom answers. */
export const Status = {
  ok: 0,
  notLoggedIn: 1,
  noSuchMail: 2,
  badArgument: 3,
  mailFull: 4,
  journalFull: 5,
  stale: 6
} as const

/** A mailroom that answers otherwise than it should, or not at all. `code` says how. */
export class MailroomError extends HypertwinError {
  override name = 'MailroomError'
}

/** What is in a mailbox, as the list operation tells. */
export interface ListEntry {
  /** The mail's id, never 0. */
  id: number
  /** Who sent it. */
  from: number
  /** Its body's bytes. */
  size: number
  /** The flags set last, 0 to 255. */
  flags: number
}

/** One reply, decoded; reused for the next, so valid only while it is handled. */
export class Reply {
  op = 0
  user = 0
  /** The request's sequence number. */
  seq = 0
  status = 0
  arg0 = 0
  /** Below 2^53 for every operation. */
  value = 0
  /** Where the body lies. */
  bytes: Buffer = Buffer.alloc(0)
  bodyAt = 0
  bodySize = 0

  /** False when the `size` bytes at `at` are no whole reply of this version; nothing is then to be used. */
  decode(bytes: Buffer, at: number, size: number): boolean {
    if (size < REPLY_SIZE || at + size > bytes.length) return false
    if (bytes.readUInt32LE(at) !== REPLY_MAGIC || bytes[at + 4] !== VERSION) return false
    const bodySize = bytes.readUInt16LE(at + 18)
    if (bodySize !== size - REPLY_SIZE || bodySize > REPLY_BODY_MAX) return false
    const seqHigh = bytes.readUInt32LE(at + 12)
    const valueHigh = bytes.readUInt32LE(at + 28)
    if (seqHigh > 0x1fffff || valueHigh > 0x1fffff) return false
    this.op = bytes[at + 5]!
    this.user = bytes.readUInt16LE(at + 6)
    this.seq = seqHigh * 0x1_0000_0000 + bytes.readUInt32LE(at + 8)
    this.status = bytes.readUInt16LE(at + 16)
    this.arg0 = bytes.readUInt32LE(at + 20)
    this.value = valueHigh * 0x1_0000_0000 + bytes.readUInt32LE(at + 24)
    this.bytes = bytes
    this.bodyAt = at + REPLY_SIZE
    this.bodySize = bodySize
    return true
  }

  /** A copy of the body. */
  body(): Buffer {
    return Buffer.from(this.bytes.subarray(this.bodyAt, this.bodyAt + this.bodySize))
  }

  /** Of a list reply. */
  entries(): ListEntry[] {
    if (this.arg0 > MAILROOM_LIST_MAX || this.bodySize !== this.arg0 * LIST_ENTRY_SIZE)
      throw new MailroomError('The mailroom sent a list whose length does not match its number of entries', {
        code: 'BAD_REPLY'
      })
    return Array.from({ length: this.arg0 }, (_, i) => {
      const at = this.bodyAt + i * LIST_ENTRY_SIZE
      return {
        id: this.bytes.readUInt32LE(at),
        from: this.bytes.readUInt16LE(at + 4),
        size: this.bytes.readUInt16LE(at + 6),
        flags: this.bytes[at + 8]!
      }
    })
  }
}

/** Writes a request's head; its body lies behind it already, or there is none. */
export function encodeRequest(
  bytes: Buffer,
  at: number,
  op: number,
  user: number,
  seq: number,
  arg0: number,
  arg1: number,
  session: number,
  bodySize: number
): void {
  bytes.writeUInt32LE(REQUEST_MAGIC, at)
  bytes[at + 4] = VERSION
  bytes[at + 5] = op
  bytes.writeUInt16LE(user, at + 6)
  bytes.writeUInt32LE(seq >>> 0, at + 8)
  bytes.writeUInt32LE(Math.floor(seq / 0x1_0000_0000), at + 12)
  bytes.writeUInt32LE(arg0, at + 16)
  bytes.writeUInt32LE(arg1, at + 20)
  bytes.writeUInt32LE(session, at + 24)
  bytes.writeUInt16LE(bodySize, at + 28)
  bytes.writeUInt16LE(0, at + 30)
}

/** The mailroom's running digest of all that it acknowledged. */
export interface MailroomDigest {
  /** FNV-1a, 64 bits, over each operation in order. */
  digest: bigint
  /** How many operations it covers. */
  operations: bigint
}

/** What the mailroom counts. */
export interface MailroomStats {
  operations: bigint
  mails: bigint
  mailCapacity: bigint
  retransmissions: bigint
  stale: bigint
  malformed: bigint
  commits: bigint
  checkpoints: bigint
  journalBytes: bigint
  journalCapacity: bigint
  wakeups: bigint
  frames: bigint
}

const statsFields = [
  'operations',
  'mails',
  'mailCapacity',
  'retransmissions',
  'stale',
  'malformed',
  'commits',
  'checkpoints',
  'journalBytes',
  'journalCapacity',
  'wakeups',
  'frames'
] as const

function words(reply: Reply, count: number): bigint[] {
  if (reply.bodySize < count * 8)
    throw new MailroomError('The mailroom sent a reply that is too short', { code: 'BAD_REPLY' })
  return Array.from({ length: count }, (_, i) => reply.bytes.readBigUInt64LE(reply.bodyAt + i * 8))
}

/** Of a digest reply. */
export function decodeDigest(reply: Reply): MailroomDigest {
  const [digest, operations] = words(reply, 2)
  return { digest: digest!, operations: operations! }
}

/** Of a stats reply. */
export function decodeStats(reply: Reply): MailroomStats {
  const values = words(reply, statsFields.length)
  return Object.fromEntries(statsFields.map((name, i) => [name, values[i]!])) as unknown as MailroomStats
}

/** A status in words. */
export function statusName(status: number): string {
  return Object.entries(Status).find(([, value]) => value === status)?.[0] ?? `status ${status}`
}
