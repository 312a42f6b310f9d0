// Answers the calls of a program from a log of operations, in the order of the log: each call as it comes, its result
// and the events when all that the log has before them has happened.
import { EventLog, EventLogError, type LogDamage } from '../eventlog/index.js'
import {
  assignBackend,
  assignRegistration,
  forgetRegistration,
  handleClasses,
  type Backend,
  type Routed
} from '../libvirt/backend.js'
import { Connect, Handle, LibvirtError } from '../libvirt/index.js'
import { classOf } from './capture.js'
import { Assembler, operationKind, subject, type Message } from './messages.js'
import { describe, Named, operationOf } from './operations.js'
import { corrupt, ValueReader, ValueWriter, type HandleName } from './values.js'

type Step = Exclude<Message, { type: 'begin' }>

/** A call of the program. */
interface Asked {
  routed: Routed
  name: string
  args: unknown[]
  /** To compare with the log's. */
  bytes: Buffer
  callback: ((news: unknown) => void) | undefined
  /** Its result was given; it stays for its news. */
  answered: boolean
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
}

class Player implements Backend {
  readonly #directory: string
  readonly #steps: readonly Step[]
  /** Why the log goes no further than its steps. */
  readonly #end: string
  readonly #names = new WeakMap<object, HandleName>()
  readonly #closed = new WeakSet()
  readonly #waiting: Asked[] = []
  /** Calls that have been found in the log, by the operation's number. */
  readonly #running = new Map<number, Asked>()
  readonly #registered = new Map<number, number>()
  #at = 0
  #pumping = false
  #over = false
  strayed: LibvirtError | undefined

  constructor(directory: string, steps: readonly Step[], end: string) {
    this.#directory = directory
    this.#steps = steps
    this.#end = end
  }

  connections(body: Buffer): Connect[] {
    const list = this.#read(body)
    if (!Array.isArray(list) || list.length === 0 || !list.every(one => one instanceof Connect))
      throw corrupt('it begins without a connection')
    return list
  }

  /** Calls of the log that the program has not made. */
  get remaining(): number {
    return this.#steps.slice(this.#at).filter(step => step.type === 'call').length
  }

  /** The call that comes next, for people; undefined when there is none. */
  get next(): string | undefined {
    const step = this.#steps.slice(this.#at).find(one => one.type === 'call')
    return step && this.#describe(step)
  }

  invoke(routed: Routed, args: unknown[]): unknown {
    const target = args[0] as object
    switch (routed) {
      case 'libvirtIsClosed':
        return this.#closed.has(target)
      case 'libvirtSame':
        return args[0] === args[1]
      case 'libvirtStreamRearm':
        return undefined
      case 'libvirtClose': {
        const again = this.#closed.has(target)
        this.#closed.add(target)
        if (again || this.#over || this.strayed || !(target instanceof Connect)) return Promise.resolve()
        break
      }
      case 'libvirtOff':
        if (this.#over || this.strayed) return Promise.resolve()
    }
    return this.#ask(routed, args)
  }

  /** Nothing of the log is given any more. */
  stop(): void {
    this.#over = true
    this.#rejectAll(closed())
  }

  #ask(routed: Routed, args: unknown[]): Promise<unknown> {
    const operation = operationOf(routed, args, handle => handle instanceof Connect, id =>
      this.#registered.get(id as number)
    )
    if (!operation) return Promise.reject(new TypeError(routed))
    if (this.#over) return Promise.reject(closed())
    if (this.strayed) return Promise.reject(plain(this.strayed.code, this.strayed.message))
    const { name, args: logged, callbackAt } = operation
    const callback = callbackAt === undefined ? undefined : args[callbackAt]
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        routed,
        name,
        args: logged,
        bytes: new ValueWriter(value => this.#nameOf(value), true).value(logged).take(),
        callback: typeof callback === 'function' ? (callback as Asked['callback']) : undefined,
        answered: false,
        resolve,
        reject
      })
      this.#pump()
    })
  }

  /** One step later: what the program does upon one thing comes before the next. */
  #pump(): void {
    if (this.#pumping || this.#over || this.strayed) return
    this.#pumping = true
    setImmediate(() => {
      this.#pumping = false
      if (this.#over || this.strayed) return
      try {
        if (this.#step()) this.#pump()
      } catch (error) {
        this.#stray(error instanceof Error ? error.message : String(error), error)
      }
    })
  }

  /** True when there may be more to do. */
  #step(): boolean {
    const step = this.#steps[this.#at]
    if (!step) {
      const lost = this.#waiting[0] ?? [...this.#running.values()].find(({ answered }) => !answered)
      if (lost)
        this.#stray(
          `the program ${this.#waiting[0] ? 'calls' : 'waits for'} ${describe(lost.name, this.#named(lost.args))}, but ${this.#end}`
        )
      else this.#endEvents()
      return false
    }
    if (step.type === 'call') return this.#match(step)
    this.#at++
    const asked = this.#running.get(step.operation)
    if (!asked) return true
    if (step.type === 'event') {
      const news = this.#read(step.body)
      if (asked.routed === 'libvirtOn' && news !== undefined && news !== null && !isList(news)) {
        this.#stray(`the events of operation ${step.operation} in the log are no list of events`)
        return false
      }
      // An error in the program's function is the program's, as it is without the replay.
      const { callback } = asked
      if (callback) queueMicrotask(() => callback(news))
      return true
    }
    if (step.type === 'error') {
      const error = toError(this.#read(step.body))
      this.#running.delete(step.operation)
      asked.reject(error)
      return true
    }
    const value = this.#read(step.body)
    asked.answered = true
    if (asked.routed === 'libvirtOn') {
      const id = nextRegistration--
      this.#registered.set(id, step.operation)
      assignRegistration(id, this)
      asked.resolve(id)
      return true
    }
    // A listener stays: its news come after its result.
    if (!asked.callback) this.#running.delete(step.operation)
    if (asked.routed === 'libvirtOff') this.#unregister(asked.args[0])
    asked.resolve(value)
    return true
  }

  /** Calls that do not wait for each other may come in another order than in the log. */
  #match(step: Step & { type: 'call' }): boolean {
    if (this.#waiting.length === 0) return false
    const at = this.#waiting.findIndex(({ name, bytes }) => name === step.name && bytes.equals(step.body))
    const asked = this.#waiting[at < 0 ? 0 : at] as Asked
    if (at < 0) {
      this.#stray(
        `call ${step.operation} of the log is ${this.#describe(step)}, but the program calls ` +
          describe(asked.name, this.#named(asked.args))
      )
      return false
    }
    if (this.#running.has(step.operation)) {
      this.#stray(`the log has call ${step.operation} twice`)
      return false
    }
    this.#waiting.splice(at, 1)
    this.#running.set(step.operation, asked)
    this.#at++
    return true
  }

  #unregister(operation: unknown): void {
    this.#running.delete(operation as number)
    for (const [id, number] of this.#registered)
      if (number === operation) {
        this.#registered.delete(id)
        forgetRegistration(id)
      }
  }

  #stray(what: string, cause?: unknown): void {
    this.strayed = new LibvirtError(`The program strays from the log ${this.#directory}: ${what}`, {
      code: 'LIBVIRT_REPLAY_STRAYED',
      cause
    })
    this.#rejectAll(plain(this.strayed.code, this.strayed.message))
  }

  #rejectAll(error: Error): void {
    for (const asked of this.#waiting.splice(0)) asked.reject(error)
    for (const asked of this.#running.values()) asked.reject(error)
    this.#endEvents()
  }

  /** Iterations of events end as when a connection is closed: no more will come. */
  #endEvents(): void {
    for (const [operation, { routed, callback }] of this.#running)
      if (routed === 'libvirtOn' && callback) {
        this.#unregister(operation)
        queueMicrotask(() => callback(null))
      }
  }

  #read(body: Buffer): unknown {
    return new ValueReader(body, name => this.#handle(name)).value()
  }

  #handle(name: HandleName): object {
    const made = handleClasses.get(name.className)
    if (!made) throw corrupt(`it holds a ${name.className}, which this version of hypertwin does not know`)
    const handle = new made()
    this.#names.set(handle, name)
    assignBackend(handle, this)
    return handle
  }

  #nameOf(value: object): HandleName | undefined {
    if (!(value instanceof Handle)) return undefined
    return this.#names.get(value) ?? { className: classOf(value), number: 0 }
  }

  #describe(step: Step & { type: 'call' }): string {
    const args = new ValueReader(step.body, name => new Named(name.className, name.number)).value()
    return describe(step.name, Array.isArray(args) ? args : [])
  }

  #named(value: unknown[]): unknown[] {
    return value.map(one => {
      if (Array.isArray(one)) return this.#named(one)
      const name = typeof one === 'object' && one !== null ? this.#nameOf(one) : undefined
      return name ? new Named(name.className, name.number) : one
    })
  }
}

/** libvirt's are positive. */
let nextRegistration = -1

/** As the addon's errors are: who calls makes a LibvirtError with the caller's stack of it. */
function plain(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}

function closed(): Error {
  return plain('CLOSED', 'the replay of this connection is closed')
}

/** As the addon rejects. */
function toError(value: unknown): Error {
  const { message, ...details } = value as { message?: unknown }
  return Object.assign(new Error(typeof message === 'string' ? message : 'the call failed'), details)
}

/**
 * A captured connection, replayed.
 *
 * @since 0.1.0
 */
export class ConnectionReplay implements AsyncDisposable {
  /** The log's folder. */
  readonly directory: string
  /** Answers calls from the log. */
  readonly connect: Connect
  /** All that were captured, in their order. */
  readonly connections: readonly Connect[]
  /** What is damaged in the log; it is replayed up to there. */
  readonly damages: readonly LogDamage[]
  readonly #player: Player

  /** @internal */
  constructor(directory: string, player: Player, connections: readonly Connect[], damages: readonly LogDamage[]) {
    this.directory = directory
    this.#player = player
    this.connections = connections
    this.connect = connections[0] as Connect
    this.damages = damages
  }

  /** How many calls of the log the program has not made. */
  get remaining(): number {
    return this.#player.remaining
  }

  /** The error of a program that did something else; from then on all its calls are rejected with it. */
  get strayed(): LibvirtError | undefined {
    return this.#player.strayed
  }

  /**
   * Throws when the program has not done all that the log has.
   *
   * @throws LibvirtError `LIBVIRT_REPLAY_STRAYED`
   */
  finish(): void {
    if (this.#player.strayed) throw this.#player.strayed
    const { next, remaining } = this.#player
    if (next !== undefined)
      throw new LibvirtError(
        `The program ends before the log ${this.directory}: ${remaining} calls are left, the next is ${next}`,
        { code: 'LIBVIRT_REPLAY_STRAYED' }
      )
  }

  /** Calls that wait are rejected with `CLOSED`, and all later ones. Twice is fine. */
  close(): Promise<void> {
    this.#player.stop()
    return Promise.resolve()
  }

  /** See {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Replays what {@link captureConnection} has captured. The calls of a program are answered from the log, whose order
 * they must keep (those that do not wait for each other may change places); events come where they came. Neither
 * libvirt nor a hypervisor is needed. A program that calls something else, or with other arguments, gets a
 * `LIBVIRT_REPLAY_STRAYED` that says what was expected. The log is read into memory.
 *
 * ```ts
 * await using replay = await replayConnection('run1')
 * await programUnderTest(replay.connect)
 * replay.finish()
 * ```
 *
 * @param directory - the log's folder; one that is torn is replayed up to its last whole record
 * @throws EventLogError `LOG_NOT_FOUND`, `LOG_VERSION`, `LOG_MISMATCH` when it is of something else, `CORRUPT`
 * @since 0.1.0
 */
export async function replayConnection(directory: string): Promise<ConnectionReplay> {
  await using log = await EventLog.open(directory)
  if (log.header.board !== subject)
    throw new EventLogError(
      `The log ${directory} is of '${log.header.board}', not of a connection to libvirt: use Replay.open() of hypertwin/eventlog`,
      { code: 'LOG_MISMATCH' }
    )
  const assembler = new Assembler()
  const messages: Message[] = []
  const records = log.records({ extensions: true })
  for await (const record of records) {
    if (record.kind !== 'extension' || record.extension !== BigInt(operationKind)) continue
    const message = assembler.add(record.bytes)
    if (message) messages.push(message)
  }
  const [begin, ...steps] = messages
  if (begin?.type !== 'begin') throw corrupt('the log does not begin with its connections')
  const wrong = steps.find(step => step.type === 'begin')
  if (wrong) throw corrupt('the log begins twice')
  const lost = records.damages.find(damage => damage.gap)
  const end =
    records.stop === 'end'
      ? 'the log ends here'
      : lost
        ? `the log is lost from here on (${lost.text})`
        : 'the log breaks off here: whoever captured it was ended'
  const player = new Player(directory, steps as Step[], end)
  return new ConnectionReplay(directory, player, player.connections(begin.body), [...records.damages])
}

const isList = (news: unknown): boolean => Array.isArray(news) && news.every(one => typeof one === 'object' && one !== null)
