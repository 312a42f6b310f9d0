// Kernel structures as bytes: a codec for each field, laid out as C does on a 64-bit little-endian host.
import { KvmError } from './errors.js'

/** Reads and writes one field. @internal */
export interface Codec<T> {
  readonly size: number
  readonly align: number
  read(view: DataView, at: number): T
  write(view: DataView, at: number, value: T, name: string): void
}

function refuse(name: string, what: string, value: unknown): never {
  throw new KvmError(`${name} must be ${what}, not ${String(value)}`, { code: 'EINVAL' })
}

function unsigned(size: 1 | 2 | 4): Codec<number> {
  const max = 2 ** (8 * size) - 1
  return {
    size,
    align: size,
    read: (view, at) =>
      size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true),
    write(view, at, value, name) {
      if (!Number.isInteger(value) || value < 0 || value > max) refuse(name, `an integer from 0 to ${max}`, value)
      if (size === 1) view.setUint8(at, value)
      else if (size === 2) view.setUint16(at, value, true)
      else view.setUint32(at, value, true)
    }
  }
}

/** @internal */
export const u8 = unsigned(1)
/** @internal */
export const u16 = unsigned(2)
/** @internal */
export const u32 = unsigned(4)

/** @internal */
export const i32: Codec<number> = {
  size: 4,
  align: 4,
  read: (view, at) => view.getInt32(at, true),
  write(view, at, value, name) {
    if (!Number.isInteger(value) || value !== (value | 0)) refuse(name, 'a signed 32-bit integer', value)
    view.setInt32(at, value, true)
  }
}

/** @internal */
export const u64: Codec<bigint> = {
  size: 8,
  align: 8,
  read: (view, at) => view.getBigUint64(at, true),
  write(view, at, value, name) {
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value)
      refuse(name, 'a bigint from 0 to 2n ** 64n - 1n', value)
    view.setBigUint64(at, value, true)
  }
}

/** @internal */
export const i64: Codec<bigint> = {
  size: 8,
  align: 8,
  read: (view, at) => view.getBigInt64(at, true),
  write(view, at, value, name) {
    if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value)
      refuse(name, 'a signed 64-bit bigint', value)
    view.setBigInt64(at, value, true)
  }
}

/** @internal */
export function array<T>(codec: Codec<T>, length: number): Codec<T[]> {
  return {
    size: codec.size * length,
    align: codec.align,
    read: (view, at) => Array.from({ length }, (_, i) => codec.read(view, at + i * codec.size)),
    write(view, at, value, name) {
      if (!Array.isArray(value) || value.length !== length) refuse(name, `an array of ${length}`, value)
      value.forEach((item, i) => {
        codec.write(view, at + i * codec.size, item, `${name}[${i}]`)
      })
    }
  }
}

/** @internal */
export function bytes(length: number): Codec<Uint8Array> {
  return {
    size: length,
    align: 1,
    read: (view, at) => new Uint8Array(view.buffer.slice(view.byteOffset + at, view.byteOffset + at + length)),
    write(view, at, value, name) {
      if (!(value instanceof Uint8Array) || value.length !== length)
        refuse(name, `a Uint8Array of ${length} bytes`, value)
      new Uint8Array(view.buffer, view.byteOffset + at, length).set(value)
    }
  }
}

/** @internal */
export type FieldsValue<F> = {
  -readonly [K in keyof F as K extends `_${string}` ? never : K]: F[K] extends Codec<infer T> ? T : never
}

/** @internal */
export interface Struct<T> extends Codec<T> {
  decode(from: Uint8Array): T
  encode(value: T): Uint8Array
  decodeAll(from: Uint8Array): T[]
  encodeAll(values: readonly T[]): Uint8Array
}

/** The type that a structure decodes to. @internal */
export type Decoded<S> = S extends Codec<infer T> ? T : never

function viewOf(from: Uint8Array): DataView {
  return new DataView(from.buffer, from.byteOffset, from.byteLength)
}

/** @internal */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export function struct<F extends Record<string, Codec<any>>>(fields: F): Struct<FieldsValue<F>> {
  type T = FieldsValue<F>
  let size = 0
  let align = 1
  const placed: { name: string; codec: Codec<unknown>; at: number }[] = []
  for (const [name, codec] of Object.entries(fields)) {
    size = Math.ceil(size / codec.align) * codec.align
    if (!name.startsWith('_')) placed.push({ name, codec: codec as Codec<unknown>, at: size })
    size += codec.size
    align = Math.max(align, codec.align)
  }
  size = Math.ceil(size / align) * align
  const self: Struct<T> = {
    size,
    align,
    read: (view, at) =>
      Object.fromEntries(placed.map(field => [field.name, field.codec.read(view, at + field.at)])) as T,
    write(view, at, value, name) {
      if (typeof value !== 'object' || value === null) refuse(name, 'an object', value)
      for (const field of placed)
        field.codec.write(view, at + field.at, (value as Record<string, unknown>)[field.name], `${name}.${field.name}`)
    },
    decode: from => self.read(viewOf(from), 0),
    encode(value) {
      const out = new Uint8Array(size)
      self.write(viewOf(out), 0, value, 'value')
      return out
    },
    decodeAll(from) {
      const view = viewOf(from)
      return Array.from({ length: Math.floor(from.length / size) }, (_, i) => self.read(view, i * size))
    },
    encodeAll(values) {
      const out = new Uint8Array(size * values.length)
      const view = viewOf(out)
      values.forEach((value, i) => {
        self.write(view, i * size, value, `value[${i}]`)
      })
      return out
    }
  }
  return self
}
