// A closed-loop load of mail users: each sends its next request when the last is answered. Keeps a model of
// what every acknowledged operation must have left behind, and checks it. Knows no machine.
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import type { MailroomClient, MailroomUser } from './client.js'
import {
  MAILROOM_BODY_MAX,
  MAILROOM_LIST_MAX,
  MAILROOM_USERS,
  Op,
  Status,
  statusName,
  type Reply
} from './protocol.js'

/** The operations of a load. */
export type LoadOp = 'login' | 'list' | 'read' | 'send' | 'flag' | 'delete'

/** What a load does. */
export interface LoadOptions {
  /** How many users, 1 to 256. Default 50. */
  users?: number
  /** Milliseconds between an answer and the user's next request. Default 0. */
  think?: number
  /** Two loads with the same seed draw the same operations for each user. Default 1. */
  seed?: number
  /** How often each operation is drawn, relative to the others. */
  mix?: Partial<Record<Exclude<LoadOp, 'login'>, number>>
  /** Mails have 1 to so many bytes. Default 400. */
  bodyMax?: number
  /** Called for each acknowledged operation, with the time of performance.now(). Brief. */
  onAcknowledged?: (at: number) => void
}

/** Percentiles of one kind of operation, in milliseconds. */
export interface Latency {
  count: number
  p50: number
  p90: number
  p99: number
  max: number
}

/** What a load did. Operations are requests, however often each was sent. */
export interface LoadStats {
  operations: number
  /** Answered with success. */
  acknowledged: number
  /** Answered with a refusal that a full mailroom may give; not executed. */
  refused: number
  /** Given up without an answer. */
  unanswered: number
  retransmissions: number
  /** Answers that they should not have been. */
  errors: number
  byOperation: Record<LoadOp, number>
  latency: Record<LoadOp | 'all', Latency>
}

/** What {@link MailLoad.verify} found. */
export interface Verdict {
  /** Acknowledged operations whose effect is missing, or not there as it was acknowledged. */
  lost: number
  /** Mails there that nobody sent, and operations executed twice. */
  surplus: number
  /** Mails looked at. */
  mails: number
  /** One sentence for each of the first problems. */
  problems: string[]
}

const opNames = ['login', 'list', 'read', 'send', 'flag', 'delete'] as const
const defaultMix = { list: 15, read: 40, send: 25, flag: 10, delete: 10 }
// A mailbox that is fuller than this gets no more mail, so that one list shows it all.
const MAILBOX_MAX = MAILROOM_LIST_MAX - 8

interface Mail {
  id: number
  from: number
  /** What its body is made from. */
  key: number
  size: number
  /** Undefined when a flag was given up without an answer. */
  flags: number | undefined
}

/** xorshift32: small, quick, and the same everywhere. */
function next(state: number): number {
  state ^= state << 13
  state ^= state >>> 17
  return (state ^ (state << 5)) >>> 0
}

function seedOf(a: number, b: number): number {
  return next(next((Math.imul(a, 0x9e3779b1) ^ Math.imul(b + 1, 0x85ebca77)) >>> 0 || 1))
}

/** A mail's body, from its key alone. */
function fill(bytes: Buffer, size: number, key: number): void {
  let word = key || 1
  for (let i = 0; i < size; i += 4) {
    word = next(word)
    bytes[i] = word
    bytes[i + 1] = word >>> 8
    bytes[i + 2] = word >>> 16
    bytes[i + 3] = word >>> 24
  }
}

function latencyOf(histogram: RecordableHistogram): Latency {
  const ms = (value: number) => Math.round(value / 10) / 100
  if (histogram.count === 0) return { count: 0, p50: 0, p90: 0, p99: 0, max: 0 }
  return {
    count: histogram.count,
    p50: ms(histogram.percentile(50)),
    p90: ms(histogram.percentile(90)),
    p99: ms(histogram.percentile(99)),
    max: ms(histogram.max)
  }
}

class LoadUser {
  readonly mails: Mail[] = []
  readonly expected = new Map<number, Mail>()
  /** Mails that may be there or not, since a delete was given up. */
  readonly doubtful = new Set<number>()
  random: number

  constructor(
    readonly line: MailroomUser,
    seed: number
  ) {
    this.random = seedOf(seed, line.id)
  }

  draw(below: number): number {
    this.random = next(this.random)
    return this.random % below
  }

  add(mail: Mail): void {
    this.mails.push(mail)
    this.expected.set(mail.id, mail)
  }

  /** `index` in {@link mails}. */
  remove(index: number): Mail {
    const mail = this.mails[index]!
    const last = this.mails.pop()!
    if (last !== mail) this.mails[index] = last
    this.expected.delete(mail.id)
    return mail
  }
}

/** A load on one client. login(), then start(), stop() any number of times, then verify(). */
export class MailLoad {
  readonly #client: MailroomClient
  readonly #users: LoadUser[] = []
  readonly #think: number
  readonly #bodyMax: number
  readonly #onAcknowledged: (at: number) => void
  /** Users whose session the mailroom did not know any more, or who gave up waiting. */
  readonly #broken = new Set<number>()
  readonly #ops: Uint8Array
  readonly #scratch = Buffer.alloc(MAILROOM_BODY_MAX + 4)
  readonly #histograms: Record<LoadOp | 'all', RecordableHistogram>
  readonly #counts: Record<LoadOp, number> = { login: 0, list: 0, read: 0, send: 0, flag: 0, delete: 0 }
  readonly #problems: string[] = []
  readonly #thinking = new Map<LoadUser, NodeJS.Timeout>()
  /** Given up sends: the mail may be there or not, under an id that nobody knows. */
  readonly #doubtfulSends: { to: number; from: number; key: number; size: number }[] = []
  #interval = newHistogram()
  #operations = 0
  #acknowledged = 0
  #refused = 0
  #unanswered = 0
  #errors = 0
  /** Refused, but executed as the mailroom counts. */
  #executedRefusals = 0
  /** What verify() itself asked, which the mailroom counts too. */
  #checks = 0
  #executedBefore = 0n
  #running = false
  #active = 0
  #idle: (() => void) | undefined

  constructor(client: MailroomClient, options: LoadOptions = {}) {
    const users = options.users ?? 50
    if (!Number.isInteger(users) || users < 1 || users > MAILROOM_USERS)
      throw new RangeError(`A load has 1 to ${MAILROOM_USERS} users, not ${users}`)
    this.#client = client
    this.#think = options.think ?? 0
    this.#bodyMax = Math.min(options.bodyMax ?? 400, MAILROOM_BODY_MAX)
    this.#onAcknowledged = options.onAcknowledged ?? (() => {})
    const mix = { ...defaultMix, ...options.mix }
    this.#ops = Uint8Array.from(
      Object.entries(mix).flatMap(([name, weight]) => Array<number>(weight).fill(Op[name as LoadOp]))
    )
    this.#histograms = Object.fromEntries([...opNames, 'all'].map(name => [name, newHistogram()])) as Record<
      LoadOp | 'all',
      RecordableHistogram
    >
    for (let id = 0; id < users; id++) this.#users.push(new LoadUser(client.user(id), options.seed ?? 1))
  }

  /** All users log in. The mailroom must be a fresh one: their mailboxes are expected to be empty. */
  async login(): Promise<void> {
    this.#executedBefore = (await this.#client.digest()).operations
    await Promise.all(
      this.#users.map(async user => {
        const begun = performance.now()
        await user.line.login()
        this.#count('login', begun)
        this.#acknowledged++
      })
    )
  }

  /** Every user begins; returns at once. */
  start(): void {
    if (this.#running) return
    this.#running = true
    for (const user of this.#users) this.#turn(user)
  }

  /** No further requests; resolves when what is under way is answered or given up. */
  async stop(): Promise<void> {
    this.#running = false
    for (const timer of this.#thinking.values()) clearTimeout(timer)
    this.#thinking.clear()
    if (this.#active > 0) await new Promise<void>(resolve => (this.#idle = resolve))
  }

  /** Requests made so far. */
  get operations(): number {
    return this.#operations
  }

  /** Users that would have to log in again, or gave up on a request. */
  get broken(): number {
    return this.#broken.size
  }

  /** Latencies since the last call. */
  takeInterval(): Latency {
    const latency = latencyOf(this.#interval)
    this.#interval.reset()
    return latency
  }

  stats(): LoadStats {
    return {
      operations: this.#operations,
      acknowledged: this.#acknowledged,
      refused: this.#refused,
      unanswered: this.#unanswered,
      retransmissions: this.#client.retransmissions,
      errors: this.#errors,
      byOperation: { ...this.#counts },
      latency: Object.fromEntries(
        Object.entries(this.#histograms).map(([name, histogram]) => [name, latencyOf(histogram)])
      ) as LoadStats['latency']
    }
  }

  /** After stop(): compares every mailbox, and each mail in it, with what was acknowledged. */
  async verify(): Promise<Verdict> {
    const verdict: Verdict = { lost: 0, surplus: 0, mails: 0, problems: [...this.#problems] }
    const problem = (kind: 'lost' | 'surplus', text: string) => {
      verdict[kind]++
      if (verdict.problems.length < 20) verdict.problems.push(text)
    }
    await Promise.all(this.#users.map(user => this.#verifyUser(user, verdict, problem)))
    const executed = Number((await this.#client.digest()).operations - this.#executedBefore)
    const sure = this.#acknowledged + this.#executedRefusals + this.#checks
    if (executed < sure)
      problem('lost', `The mailroom says that it executed ${executed} operations; ${sure} were acknowledged`)
    if (executed > sure + this.#unanswered)
      problem('surplus', `The mailroom executed ${executed} operations; it was asked for ${sure + this.#unanswered}`)
    return verdict
  }

  async #verifyUser(
    user: LoadUser,
    verdict: Verdict,
    problem: (kind: 'lost' | 'surplus', text: string) => void
  ): Promise<void> {
    const { line } = user
    const there = new Map<number, { from: number; size: number; flags: number }>()
    for (let after = 0; ; ) {
      const { entries } = await line.list(after, MAILROOM_LIST_MAX)
      this.#checks++
      for (const entry of entries) there.set(entry.id, entry)
      if (entries.length < MAILROOM_LIST_MAX) break
      after = entries[entries.length - 1]!.id
    }
    for (const mail of user.mails) {
      const found = there.get(mail.id)
      if (!found) {
        if (!user.doubtful.has(mail.id)) problem('lost', `User ${line.id}'s mail ${mail.id} is gone`)
        continue
      }
      there.delete(mail.id)
      verdict.mails++
      const { from, flags, body } = await line.read(mail.id)
      this.#checks++
      fill(this.#scratch, mail.size, mail.key)
      if (from !== mail.from || !body.equals(this.#scratch.subarray(0, mail.size)))
        problem('lost', `User ${line.id}'s mail ${mail.id} is not what user ${mail.from} sent`)
      else if (mail.flags !== undefined && (flags !== mail.flags || found.flags !== mail.flags))
        problem('lost', `User ${line.id}'s mail ${mail.id} has the flags ${flags}, not ${mail.flags}`)
    }
    for (const [id, { from, size }] of there) {
      const doubt = this.#doubtfulSends.findIndex(s => s.to === line.id && s.from === from && s.size === size)
      if (doubt >= 0) this.#doubtfulSends.splice(doubt, 1)
      else problem('surplus', `User ${line.id} has the mail ${id}, which was deleted or never sent`)
    }
  }

  #count(op: LoadOp, begun: number): void {
    const microseconds = Math.max(1, Math.round((performance.now() - begun) * 1000))
    this.#operations++
    this.#counts[op]++
    this.#histograms[op].record(microseconds)
    this.#histograms.all.record(microseconds)
    this.#interval.record(microseconds)
  }

  #wrong(text: string): void {
    this.#errors++
    if (this.#problems.length < 20) this.#problems.push(text)
  }

  /** The user's next request. Draws four numbers whatever comes of them, so that the next turns are the same. */
  #turn(user: LoadUser): void {
    const { line, mails } = user
    let op = this.#ops[user.draw(this.#ops.length)]!
    const pick = user.draw(0x1_0000_0000)
    const key = user.draw(0x1_0000_0000)
    const detail = user.draw(0x1_0000_0000)
    let to = pick % this.#users.length
    if (mails.length === 0 && op !== Op.list) op = Op.send
    if (op === Op.send && this.#users[to]!.mails.length >= MAILBOX_MAX) {
      if (mails.length > 0) op = Op.delete
      else to = line.id
    }
    const begun = performance.now()
    this.#active++

    if (op === Op.list) {
      const least = mails.length
      line.request(op, 0, MAILROOM_LIST_MAX, 0, reply => {
        if (this.#answered('list', begun, reply, user) && reply!.value < least)
          this.#wrong(`User ${line.id}'s mailbox holds ${reply!.value} mails; at least ${least} were acknowledged`)
        this.#after(user)
      })
    } else if (op === Op.send) {
      const size = 1 + (detail % this.#bodyMax)
      const bodyAt = line.datagram.at + 32
      fill(this.#scratch, size, key)
      this.#scratch.copy(line.datagram.bytes, bodyAt, 0, size)
      line.request(op, to, 0, size, reply => {
        if (this.#answered('send', begun, reply, user))
          this.#users[to]!.add({ id: reply!.arg0, from: line.id, key, size, flags: 0 })
        else if (!reply) this.#doubtfulSends.push({ to, from: line.id, key, size })
        this.#after(user)
      })
    } else {
      const index = pick % mails.length
      const mail = mails[index]!
      if (op === Op.read) {
        line.request(op, mail.id, 0, 0, reply => {
          if (this.#answered('read', begun, reply, user)) this.#checkRead(line.id, mail, reply!)
          this.#after(user)
        })
      } else if (op === Op.flag) {
        const flags = detail & 0xff
        line.request(op, mail.id, flags, 0, reply => {
          if (this.#answered('flag', begun, reply, user)) mail.flags = flags
          else if (!reply) mail.flags = undefined
          this.#after(user)
        })
      } else {
        line.request(op, mail.id, 0, 0, reply => {
          if (this.#answered('delete', begun, reply, user)) user.remove(mails.indexOf(mail))
          else if (!reply) user.doubtful.add(mail.id)
          this.#after(user)
        })
      }
    }
  }

  #checkRead(user: number, mail: Mail, reply: Reply): void {
    fill(this.#scratch, mail.size, mail.key)
    const { bytes, bodyAt, bodySize } = reply
    if (
      reply.value !== mail.from ||
      bodySize !== mail.size ||
      (mail.flags !== undefined && reply.arg0 !== mail.flags) ||
      this.#scratch.compare(bytes, bodyAt, bodyAt + bodySize, 0, mail.size) !== 0
    )
      this.#wrong(`User ${user} read another mail ${mail.id} than was sent`)
  }

  /** True when the operation was acknowledged. */
  #answered(op: LoadOp, begun: number, reply: Reply | null, user: LoadUser): boolean {
    this.#count(op, begun)
    if (!reply) {
      this.#unanswered++
      this.#broken.add(user.line.id)
      return false
    }
    if (reply.status === Status.ok) {
      this.#acknowledged++
      this.#onAcknowledged(performance.now())
      return true
    }
    if (reply.status === Status.notLoggedIn) this.#broken.add(user.line.id)
    if (reply.status !== Status.journalFull && reply.status !== Status.stale) this.#executedRefusals++
    if (reply.status === Status.journalFull || reply.status === Status.mailFull) this.#refused++
    else this.#wrong(`User ${user.line.id}'s ${op} was refused: ${statusName(reply.status)}`)
    return false
  }

  #after(user: LoadUser): void {
    this.#active--
    if (!this.#running || this.#client.closed) {
      if (this.#active === 0) this.#idle?.()
      return
    }
    // A user whose last request may yet be executed makes no more.
    if (user.doubtful.size > 0) return
    if (this.#think === 0) return this.#turn(user)
    this.#thinking.set(
      user,
      setTimeout(() => {
        this.#thinking.delete(user)
        this.#turn(user)
      }, this.#think)
    )
  }
}

function newHistogram(): RecordableHistogram {
  // Microseconds, to three digits, up to ten minutes.
  return createHistogram({ lowest: 1, highest: 600_000_000, figures: 3 })
}

/** For who only wants to know. */
export function describe(stats: LoadStats, seconds: number): string {
  const row = (cells: (string | number)[]) =>
    cells.map((cell, i) => (i === 0 ? String(cell).padEnd(9) : String(cell).padStart(10))).join('')
  const lines = [row(['', 'count', 'per s', 'p50 ms', 'p90 ms', 'p99 ms', 'max ms'])]
  for (const [name, l] of Object.entries(stats.latency))
    lines.push(row([name, l.count, Math.round(l.count / seconds), l.p50, l.p90, l.p99, l.max]))
  return lines.join('\n')
}
