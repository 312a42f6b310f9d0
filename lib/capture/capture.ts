// Captures the operations of connections: each call, result, error and event, in the order in which the program
// sees them. Whatever happens to the log, the calls go on.
import { EventLogError } from '../eventlog/index.js'
import { LogWriter } from '../eventlog/writer.js'
import {
  assignBackend,
  assignRegistration,
  backendOf,
  forgetRegistration,
  handleClasses,
  invokeDirectly,
  type Backend,
  type Routed
} from '../libvirt/backend.js'
import { Connect, Handle } from '../libvirt/index.js'
import { head, layout, operationKind, subject, toRecords } from './messages.js'
import { operationOf, type Operation } from './operations.js'
import { ValueWriter, type HandleName } from './values.js'

/**
 * How connections are captured.
 *
 * @since 0.1.0
 */
export interface CaptureOptions {
  /**
   * Is called once when the log cannot be written any more (`LOG_WRITE_FAILED`: disk full, I/O error;
   * `LOG_BUFFER_FULL`: the disk does not keep up). Calls go on, but are not captured from then on.
   */
  onFailure?: (error: EventLogError) => void
}

const classNames = new Map([...handleClasses].map(([name, made]) => [made as unknown, name]))

/**
 * The name of the class of libvirt that an object is of, also where a program has derived its own from that.
 *
 * @internal
 */
export function classOf(handle: Handle): string {
  for (let made: unknown = handle.constructor; typeof made === 'function'; made = Object.getPrototypeOf(made)) {
    const name = classNames.get(made)
    if (name !== undefined) return name
  }
  return 'Handle'
}

class Recorder implements Backend {
  /** Why nothing is written any more. */
  failure: EventLogError | undefined
  operations = 0
  over = false
  writer: LogWriter | undefined
  readonly #numbers = new WeakMap<object, number>()
  readonly #registrations = new Map<unknown, number>()
  readonly #onFailure: CaptureOptions['onFailure']
  #handles = 0

  constructor(onFailure: CaptureOptions['onFailure']) {
    this.#onFailure = onFailure
  }

  begin(writer: LogWriter, connections: readonly Connect[]): void {
    this.writer = writer
    this.#write(head(this.#values(true), 'begin').value(connections))
  }

  invoke(name: Routed, args: unknown[]): unknown {
    const operation =
      this.over || this.failure || (name === 'libvirtClose' && (args[0] as Handle).closed)
        ? undefined
        : operationOf(name, args, handle => handle instanceof Connect, id => this.#registrations.get(id))
    return operation ? this.#captured(name, args, operation) : this.#plain(name, args)
  }

  /** What is done with objects and registrations after the capture's end is no matter of the log. */
  #plain(name: Routed, args: unknown[]): unknown {
    if (name === 'libvirtOff') forgetRegistration(args[0] as number)
    return invokeDirectly(name, args)
  }

  #captured(routed: Routed, args: unknown[], { name, args: logged, callbackAt }: Operation): unknown {
    const number = ++this.operations
    this.#write(head(this.#values(false), 'call', number).text(name).value(logged))
    const callback = callbackAt === undefined ? undefined : args[callbackAt]
    if (callbackAt !== undefined && typeof callback === 'function') {
      args = [...args]
      args[callbackAt] = (news: unknown) => {
        this.#write(head(this.#values(true), 'event', number).value(news))
        ;(callback as (news: unknown) => void)(news)
      }
    }
    return (invokeDirectly(routed, args) as Promise<unknown>).then(
      result => {
        if (routed === 'libvirtOn') {
          this.#registrations.set(result, number)
          assignRegistration(result as number, this)
        }
        if (routed === 'libvirtOff') forgetRegistration(args[0] as number)
        this.#write(head(this.#values(true), 'result', number).value(result))
        return result
      },
      (error: unknown) => {
        this.#write(head(this.#values(false), 'error', number).value(plainError(error)))
        throw error
      }
    )
  }

  /** `made`: objects that come up are new ones, of this log from now on. */
  #values(made: boolean): ValueWriter {
    return new ValueWriter(value => (value instanceof Handle ? this.#nameOf(value, made) : undefined), !made)
  }

  #nameOf(handle: Handle, made: boolean): HandleName {
    let number = this.#numbers.get(handle)
    if (number === undefined && made) {
      number = ++this.#handles
      this.#numbers.set(handle, number)
      assignBackend(handle, this)
    }
    return { className: classOf(handle), number: number ?? 0 }
  }

  #write(message: ValueWriter): void {
    if (this.over || this.failure) return
    try {
      for (const record of toRecords(message.take())) this.writer?.append(operationKind, record)
    } catch (error) {
      this.fail(error)
    }
  }

  fail(cause: unknown): void {
    if (this.failure) return
    this.failure =
      cause instanceof EventLogError
        ? cause
        : new EventLogError(`An operation cannot be logged: ${String(cause)}`, { code: 'LOG_WRITE_FAILED', cause })
    const tell = this.#onFailure
    if (tell) queueMicrotask(() => tell(this.failure as EventLogError))
  }
}

/** What of an error the seam's other side makes one of. */
function plainError(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) }
  const { code, call, libvirt } = error as Error & { code?: unknown; call?: unknown; libvirt?: unknown }
  return { message: error.message, code, call, libvirt }
}

/**
 * Operations that are being captured: of the connections, and of every object that came out of calls on them since.
 *
 * @since 0.1.0
 */
export class ConnectionCapture implements AsyncDisposable {
  /** The log's folder. */
  readonly directory: string
  readonly #recorder: Recorder
  readonly #writer: LogWriter
  #closing: Promise<void> | undefined

  /** @internal */
  constructor(directory: string, recorder: Recorder, writer: LogWriter) {
    this.directory = directory
    this.#recorder = recorder
    this.#writer = writer
  }

  /** Why nothing is written any more; undefined while all is well. */
  get failure(): EventLogError | undefined {
    return this.#recorder.failure
  }

  /** How many calls were captured. */
  get operations(): number {
    return this.#recorder.operations
  }

  /**
   * Resolves when all that was captured so far is in the file.
   *
   * @throws EventLogError `LOG_WRITE_FAILED`, `LOG_BUFFER_FULL`, `CLOSED`
   */
  async flush(): Promise<void> {
    if (this.failure) throw this.failure
    await this.#writer.flush()
  }

  /**
   * Ends the log; calls go on without it. Calls that still run stay without a result there. Twice is fine.
   *
   * @throws EventLogError what the log has failed with
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** See {@link close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#recorder.over = true
    try {
      if (!this.failure) await this.#writer.finish()
    } catch (error) {
      this.#recorder.fail(error)
    } finally {
      await this.#writer.close()
    }
    if (this.failure) throw this.failure
  }
}

/**
 * Captures the operations of a connection from now on, into an event log: of it, and of the objects that its calls
 * give. {@link replayConnection} answers the same calls from there, without libvirt. Best called right after
 * Connect.open(): objects that the program has already are not captured.
 *
 * ```ts
 * await using connect = await Connect.open('qemu:///system')
 * await using capture = await captureConnection(connect, 'run1')
 * ```
 *
 * The log holds all that goes over the connection, also passwords and the values of secrets: its files can be read
 * by their owner only.
 *
 * @param connection - a connection, or several into one log (both hosts of a migration)
 * @param directory - the log's folder; created if absent, and it must hold no log
 * @throws EventLogError `LOG_EXISTS`, `EINVAL`, `BUSY` when a connection is captured already, or the errno of what failed
 * @since 0.1.0
 */
export async function captureConnection(
  connection: Connect | readonly Connect[],
  directory: string,
  options: CaptureOptions = {}
): Promise<ConnectionCapture> {
  const connections = connection instanceof Connect ? [connection] : connection
  if (!Array.isArray(connections) || connections.length === 0 || !connections.every(one => one instanceof Connect))
    throw new EventLogError('What is captured must be a Connect, or an array of them', { code: 'EINVAL' })
  const check = (): void => {
    if (connections.some(one => one.closed))
      throw new EventLogError('A connection that is closed cannot be captured', { code: 'EINVAL' })
    if (connections.some(one => backendOf(one)))
      throw new EventLogError('The connection is captured already, or comes from a log', { code: 'BUSY' })
  }
  check()
  const recorder = new Recorder(options.onFailure)
  const writer = await LogWriter.create(directory, {
    name: subject,
    version: layout,
    onFailure: error => recorder.fail(error)
  })
  try {
    check()
  } catch (error) {
    await writer.close()
    throw error
  }
  recorder.begin(writer, connections)
  return new ConnectionCapture(directory, recorder, writer)
}
