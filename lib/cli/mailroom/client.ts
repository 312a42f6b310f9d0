// The mailroom's client: one request at a time for each user, sent again until it is answered. A request that
// is sent again keeps its sequence number, so the guest executes it once. Knows no machine.
import type { Datagram, Link } from './link.js'
import {
  decodeDigest,
  decodeStats,
  encodeRequest,
  MAILROOM_BODY_MAX,
  MAILROOM_USERS,
  MailroomError,
  Op,
  REQUEST_SIZE,
  Reply,
  Status,
  statusName,
  type ListEntry,
  type MailroomDigest,
  type MailroomStats,
  type OpName
} from './protocol.js'

/** Called with the reply, which is valid only during the call, or with null when none came in time. */
export type Done = (reply: Reply | null) => void

/** How patient a client is. */
export interface ClientOptions {
  /**
   * Milliseconds without an answer after which a request is sent again. Default 250. `'adaptive'`: four times the
   * smoothed round trip, at least 4; twice as long each time that the same request is sent again, up to 32.
   */
  timeout?: number | 'adaptive'
  /** How often a request is sent before it counts as unanswered. Default 80. */
  attempts?: number
}

const ADAPTIVE_MIN = 4
const ADAPTIVE_MAX = 32

/** One user's line to the mailroom. The promises reject with a {@link MailroomError}. */
export class MailroomUser {
  /** The last sequence number used. */
  seq = 0
  session = 0
  /** A request is under way. */
  busy = false

  /** @internal */ readonly datagram: Datagram
  /** @internal */ size = 0
  /** @internal */ op = 0
  /** @internal */ sentAt = 0
  /** @internal */ patience = 0
  /** @internal */ attempts = 0
  /** @internal */ done: Done = () => {}

  /** @internal */
  constructor(
    private readonly client: MailroomClient,
    readonly id: number,
    link: Link
  ) {
    this.datagram = link.datagram(REQUEST_SIZE + MAILROOM_BODY_MAX)
  }

  /** Where the next request's body goes, before {@link request}. */
  get body(): Buffer {
    const at = this.datagram.at + REQUEST_SIZE
    return this.datagram.bytes.subarray(at, at + MAILROOM_BODY_MAX)
  }

  /** Sends a request whose body, if any, is in {@link body}. The way without a promise. */
  request(op: number, arg0: number, arg1: number, bodySize: number, done: Done): void {
    if (this.busy) throw new MailroomError(`User ${this.id} waits for an answer already`, { code: 'BUSY' })
    encodeRequest(
      this.datagram.bytes,
      this.datagram.at,
      op,
      this.id,
      ++this.seq,
      arg0,
      arg1,
      this.session,
      bodySize
    )
    this.op = op
    this.size = REQUEST_SIZE + bodySize
    this.done = done
    this.attempts = 0
    this.busy = true
    if (this.client.closed) this.client.finish(this, null)
    else this.client.transmit(this)
  }

  /** Begins a session; ends the one before. */
  async login(): Promise<void> {
    // A mailroom that knows this user from before says which sequence number it saw last.
    for (let again = false; ; again = true) {
      const { status, arg0, value } = await this.#ask('login', 0, 0, 0, reply => ({
        status: reply.status,
        arg0: reply.arg0,
        value: reply.value
      }))
      if (status === Status.stale && !again) this.seq = value
      else if (status !== Status.ok) throw refused('login', status)
      else {
        this.session = arg0
        return
      }
    }
  }

  /** Up to 64 mails of the mailbox, oldest first, from behind the mail `after` on, and how many it holds. */
  list(after = 0, limit = 0): Promise<{ total: number; entries: ListEntry[] }> {
    return this.#expect('list', after, limit, 0, reply => ({ total: reply.value, entries: reply.entries() }))
  }

  /** A mail of this user's mailbox. */
  read(id: number): Promise<{ from: number; flags: number; body: Buffer }> {
    return this.#expect('read', id, 0, 0, reply => ({
      from: reply.value,
      flags: reply.arg0,
      body: reply.body()
    }))
  }

  /** Sends a mail of at most 512 bytes; resolves to its id. */
  async send(to: number, body: Uint8Array): Promise<number> {
    if (body.length > MAILROOM_BODY_MAX) throw new RangeError(`A mail has at most ${MAILROOM_BODY_MAX} bytes`)
    this.body.set(body)
    return this.#expect('send', to, 0, body.length, reply => reply.arg0)
  }

  /** Sets a mail's flags, 0 to 255. */
  flag(id: number, flags: number): Promise<void> {
    return this.#expect('flag', id, flags, 0, () => {})
  }

  /** Deletes a mail. */
  delete(id: number): Promise<void> {
    return this.#expect('delete', id, 0, 0, () => {})
  }

  #ask<T>(op: OpName, arg0: number, arg1: number, bodySize: number, use: (reply: Reply) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.request(Op[op], arg0, arg1, bodySize, reply => {
        try {
          if (!reply)
            throw new MailroomError(`The mailroom did not answer user ${this.id}'s ${op}`, { code: 'NO_ANSWER' })
          resolve(use(reply))
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      })
    })
  }

  #expect<T>(op: OpName, arg0: number, arg1: number, bodySize: number, use: (reply: Reply) => T): Promise<T> {
    return this.#ask(op, arg0, arg1, bodySize, reply => {
      if (reply.status !== Status.ok) throw refused(op, reply.status)
      return use(reply)
    })
  }

  /** @internal */
  query<T>(op: 'digest' | 'stats', use: (reply: Reply) => T): Promise<T> {
    return this.#expect(op, 0, 0, 0, use)
  }
}

function refused(op: string, status: number): MailroomError {
  return new MailroomError(`The mailroom refused a ${op}: ${statusName(status)}`, { code: 'REFUSED' })
}

/** Any number of users on one link. */
export class MailroomClient {
  /** Requests sent again. */
  retransmissions = 0
  /** Datagrams that were no whole reply, or to nothing that was asked. */
  ignored = 0
  /** Every request is then told at once that no answer comes. */
  closed = false

  readonly #link: Link
  readonly #adaptive: boolean
  #timeout: number
  #roundTrip = 0
  readonly #attempts: number
  readonly #users = new Map<number, MailroomUser>()
  readonly #query: MailroomUser
  readonly #reply = new Reply()
  readonly #waiting = new Set<MailroomUser>()
  readonly #sweep: NodeJS.Timeout

  constructor(link: Link, options: ClientOptions = {}) {
    this.#link = link
    this.#adaptive = options.timeout === 'adaptive'
    this.#timeout = options.timeout === 'adaptive' ? ADAPTIVE_MAX : (options.timeout ?? 250)
    this.#attempts = options.attempts ?? 80
    this.#query = new MailroomUser(this, 0, link)
    link.onPayload = (bytes, at, size) => this.#onPayload(bytes, at, size)
    this.#sweep = setInterval(() => this.#resend(), this.#adaptive ? 2 : Math.max(1, this.#timeout / 4))
  }

  /** The user with this id, 0 to 255. */
  user(id: number): MailroomUser {
    if (!Number.isInteger(id) || id < 0 || id >= MAILROOM_USERS)
      throw new RangeError(`A mailroom has users 0 to ${MAILROOM_USERS - 1}; ${id} is none`)
    let user = this.#users.get(id)
    if (!user) this.#users.set(id, (user = new MailroomUser(this, id, this.#link)))
    return user
  }

  /** The digest of all that the mailroom acknowledged; no operation itself. */
  digest(): Promise<MailroomDigest> {
    return this.#query.query('digest', decodeDigest)
  }

  /** The mailroom's own counters. */
  stats(): Promise<MailroomStats> {
    return this.#query.query('stats', decodeStats)
  }

  /** What waits for an answer is told that none came. The link is closed too. */
  close(): void {
    if (this.closed) return
    this.closed = true
    clearInterval(this.#sweep)
    this.#link.onPayload = () => {}
    this.#link.close()
    for (const user of [...this.#waiting]) this.finish(user, null)
  }

  /** @internal */
  transmit(user: MailroomUser): void {
    user.sentAt = performance.now()
    user.patience = user.attempts === 0 || !this.#adaptive ? this.#timeout : Math.min(user.patience * 2, ADAPTIVE_MAX)
    user.attempts++
    this.#waiting.add(user)
    // When there is no room, the next sweep after the time-out tries again.
    this.#link.send(user.datagram, user.size)
  }

  #resend(): void {
    const now = performance.now()
    for (const user of this.#waiting) {
      if (now - user.sentAt < user.patience) continue
      if (user.attempts >= this.#attempts) {
        this.finish(user, null)
        continue
      }
      this.retransmissions++
      this.transmit(user)
    }
  }

  /** @internal */
  finish(user: MailroomUser, reply: Reply | null): void {
    this.#waiting.delete(user)
    user.busy = false
    user.done(reply)
  }

  #onPayload(bytes: Buffer, at: number, size: number): void {
    const reply = this.#reply
    if (!reply.decode(bytes, at, size)) return void this.ignored++
    const user = reply.op === Op.digest || reply.op === Op.stats ? this.#query : this.#users.get(reply.user)
    // An answer that comes twice, because the request did, is to nothing that waits.
    if (!user?.busy || reply.seq !== user.seq || reply.op !== user.op) return void this.ignored++
    // Of what was sent twice nobody knows which one was answered.
    if (this.#adaptive && user.attempts === 1) {
      const took = performance.now() - user.sentAt
      this.#roundTrip = this.#roundTrip === 0 ? took : this.#roundTrip + (took - this.#roundTrip) / 8
      this.#timeout = Math.min(ADAPTIVE_MAX, Math.max(ADAPTIVE_MIN, 4 * this.#roundTrip))
    }
    this.finish(user, reply)
  }
}
