// The values of calls as bytes (docs/eventlog-format.md, "Operations"): everything that crosses the seam of
// hypertwin/libvirt, bigints, bytes and objects of libvirt included. Reading trusts nothing.
import { EventLogError } from '../eventlog/index.js'

/** An object of libvirt: its class, and its number in the log; 0 when it came from elsewhere. */
export interface HandleName {
  className: string
  number: number
}

const tag = {
  undefined: 0,
  null: 1,
  false: 2,
  true: 3,
  int: 4,
  double: 5,
  unsigned: 6,
  negative: 7,
  digits: 8,
  text: 9,
  bytes: 10,
  list: 11,
  object: 12,
  handle: 13,
  other: 14
} as const

/** Deeper than anything that libvirt gives or takes. */
const mostDepth = 32

const inRange = {
  unsigned: (value: bigint) => BigInt.asUintN(64, value) === value,
  signed: (value: bigint) => BigInt.asIntN(64, value) === value
}

/** Writes varints, texts and values one after the other. */
export class ValueWriter {
  #buffer = Buffer.allocUnsafe(512)
  #size = 0

  /**
   * @param name - says of an object whether it is one of libvirt's
   * @param canonical - objects with their keys sorted and without those that are undefined: to compare by bytes
   */
  constructor(
    private readonly name: (value: object) => HandleName | undefined,
    private readonly canonical = false
  ) {}

  /** A copy of what was written. */
  take(): Buffer {
    return Buffer.from(this.#buffer.subarray(0, this.#size))
  }

  byte(value: number): this {
    this.#room(1)
    this.#buffer[this.#size++] = value
    return this
  }

  varint(value: number): this {
    this.#room(8)
    for (; value >= 128; value = Math.floor(value / 128)) this.#buffer[this.#size++] = (value % 128) | 128
    this.#buffer[this.#size++] = value
    return this
  }

  text(value: string): this {
    const length = Buffer.byteLength(value)
    this.varint(length).#room(length)
    this.#size += this.#buffer.write(value, this.#size)
    return this
  }

  raw(value: Uint8Array): this {
    this.#room(value.length)
    this.#buffer.set(value, this.#size)
    this.#size += value.length
    return this
  }

  value(value: unknown, depth = 0): this {
    switch (typeof value) {
      case 'undefined':
        return this.byte(tag.undefined)
      case 'boolean':
        return this.byte(value ? tag.true : tag.false)
      case 'number':
        return this.#number(value)
      case 'bigint':
        return this.#bigint(value)
      case 'string':
        return this.byte(tag.text).text(value)
      case 'object':
        return value === null ? this.byte(tag.null) : this.#object(value, depth)
      default:
        return this.byte(tag.other).text(typeof value)
    }
  }

  #number(value: number): this {
    if (Object.is(value | 0, value)) {
      this.byte(tag.int).#room(4)
      this.#size = this.#buffer.writeInt32LE(value, this.#size)
    } else {
      this.byte(tag.double).#room(8)
      this.#size = this.#buffer.writeDoubleLE(value, this.#size)
    }
    return this
  }

  #bigint(value: bigint): this {
    if (inRange.unsigned(value)) {
      this.byte(tag.unsigned).#room(8)
      this.#size = this.#buffer.writeBigUInt64LE(value, this.#size)
    } else if (inRange.signed(value)) {
      this.byte(tag.negative).#room(8)
      this.#size = this.#buffer.writeBigInt64LE(value, this.#size)
    } else this.byte(tag.digits).text(String(value))
    return this
  }

  #object(value: object, depth: number): this {
    if (depth === mostDepth) return this.byte(tag.other).text('too deep')
    if (value instanceof Uint8Array) return this.byte(tag.bytes).varint(value.length).raw(value)
    if (Array.isArray(value)) {
      this.byte(tag.list).varint(value.length)
      for (const one of value) this.value(one, depth + 1)
      return this
    }
    const handle = this.name(value)
    if (handle) return this.byte(tag.handle).text(handle.className).varint(handle.number)
    let entries = Object.entries(value)
    if (this.canonical)
      entries = entries.filter(([, one]) => one !== undefined).sort(([a], [b]) => (a < b ? -1 : 1))
    this.byte(tag.object).varint(entries.length)
    for (const [key, one] of entries) this.text(key).value(one, depth + 1)
    return this
  }

  #room(bytes: number): void {
    if (this.#size + bytes <= this.#buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#size + bytes))
    grown.set(this.#buffer.subarray(0, this.#size))
    this.#buffer = grown
  }
}

/** What stands for an argument that no log can hold, a function for example. */
export class Unloggable {
  constructor(readonly what: string) {}
}

/** Reads what ValueWriter wrote. Throws EventLogError `CORRUPT`. */
export class ValueReader {
  #at = 0

  constructor(
    private readonly bytes: Buffer,
    private readonly handle: (name: HandleName) => unknown
  ) {}

  get rest(): Buffer {
    return this.bytes.subarray(this.#at)
  }

  byte(): number {
    return this.#take(1)[0] as number
  }

  varint(): number {
    let value = 0
    for (let weight = 1; ; weight *= 128) {
      const byte = this.byte()
      value += (byte & 127) * weight
      if (!Number.isSafeInteger(value)) throw corrupt('a number is too big')
      if (byte < 128) return value
      if (weight > 2 ** 49) throw corrupt('a number is too long')
    }
  }

  text(): string {
    return this.#take(this.varint()).toString('utf8')
  }

  value(depth = 0): unknown {
    if (depth > mostDepth) throw corrupt('its values are nested too deeply')
    const kind = this.byte()
    switch (kind) {
      case tag.undefined:
        return undefined
      case tag.null:
        return null
      case tag.false:
        return false
      case tag.true:
        return true
      case tag.int:
        return this.#take(4).readInt32LE()
      case tag.double:
        return this.#take(8).readDoubleLE()
      case tag.unsigned:
        return this.#take(8).readBigUInt64LE()
      case tag.negative:
        return this.#take(8).readBigInt64LE()
      case tag.digits: {
        const digits = this.text()
        if (!/^-?\d{1,1000000}$/.test(digits)) throw corrupt('a number has no digits')
        return BigInt(digits)
      }
      case tag.text:
        return this.text()
      case tag.bytes:
        return new Uint8Array(this.#take(this.varint()))
      case tag.list: {
        const list: unknown[] = []
        for (let left = this.#count(); left > 0; left--) list.push(this.value(depth + 1))
        return list
      }
      case tag.object: {
        const entries: [string, unknown][] = []
        for (let left = this.#count(); left > 0; left--) entries.push([this.text(), this.value(depth + 1)])
        return Object.fromEntries(entries)
      }
      case tag.handle:
        return this.handle({ className: this.text(), number: this.varint() })
      case tag.other:
        return new Unloggable(this.text())
      default:
        throw corrupt(`a value is of kind ${kind}, which this version of hypertwin does not know`)
    }
  }

  #count(): number {
    const count = this.varint()
    if (count > this.bytes.length - this.#at) throw corrupt('it holds fewer values than it says')
    return count
  }

  #take(length: number): Buffer {
    if (length > this.bytes.length - this.#at) throw corrupt('it ends too early')
    const from = this.#at
    this.#at += length
    return this.bytes.subarray(from, this.#at)
  }
}

export function corrupt(what: string): EventLogError {
  return new EventLogError(`An operation in the log cannot be read: ${what}`, { code: 'CORRUPT' })
}
