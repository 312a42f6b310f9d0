// The messages of a captured connection, and how they lie in the log's records: docs/eventlog-format.md,
// "Operations". No calls and no files here.
import { corrupt, ValueReader, type HandleName, type ValueWriter } from './values.js'

/** The kind of record that holds an operation, or a part of one. */
export const operationKind = 128

/** What a log of operations has where a machine's log has its board. */
export const subject = 'libvirt-operations'

export const layout = 1

/** Well below what a record may hold. */
const mostPart = 1 << 20

export const messageType = { begin: 1, call: 2, result: 3, error: 4, event: 5 } as const

/** A message whose values are still bytes. */
export type Message =
  | { type: 'begin'; time: number; body: Buffer }
  | { type: 'call'; time: number; operation: number; name: string; body: Buffer }
  | { type: 'result' | 'error' | 'event'; time: number; operation: number; body: Buffer }

/** Cuts a message into the bodies of records. */
export function* toRecords(message: Buffer): Generator<Buffer> {
  for (let at = 0; ; ) {
    const end = Math.min(message.length, at + mostPart)
    const more = end < message.length
    yield Buffer.concat([Buffer.of(layout, more ? 1 : 0), message.subarray(at, end)])
    if (!more) return
    at = end
  }
}

/** Puts messages together again. */
export class Assembler {
  #parts: Buffer[] = []

  /** The message, when `record` is its last part. */
  add(record: Buffer): Message | undefined {
    const reader = new ValueReader(record, noHandles)
    const version = reader.byte()
    if (version !== layout) throw corrupt(`it is of layout ${version}, and this version of hypertwin knows ${layout}`)
    const more = reader.byte()
    // A copy: the batch that it lies in is larger.
    this.#parts.push(Buffer.from(reader.rest))
    if (more === 1) return undefined
    if (more !== 0) throw corrupt('its flags are unknown')
    return decode(this.#parts.length === 1 ? (this.#parts.pop() as Buffer) : Buffer.concat(this.#parts.splice(0)))
  }
}

/** Begins a message. */
export function head(writer: ValueWriter, type: keyof typeof messageType, operation?: number): ValueWriter {
  writer.byte(messageType[type]).varint(Date.now())
  return operation === undefined ? writer : writer.varint(operation)
}

function decode(bytes: Buffer): Message {
  const reader = new ValueReader(bytes, noHandles)
  const type = reader.byte()
  const time = reader.varint()
  switch (type) {
    case messageType.begin:
      return { type: 'begin', time, body: reader.rest }
    case messageType.call: {
      const operation = reader.varint()
      const name = reader.text()
      return { type: 'call', time, operation, name, body: reader.rest }
    }
    case messageType.result:
    case messageType.error:
    case messageType.event: {
      const name = type === messageType.result ? 'result' : type === messageType.error ? 'error' : 'event'
      return { type: name, time, operation: reader.varint(), body: reader.rest }
    }
    default:
      throw corrupt(`it is of type ${type}, which this version of hypertwin does not know`)
  }
}

function noHandles(name: HandleName): never {
  throw corrupt(`a ${name.className} stands where none can be`)
}
