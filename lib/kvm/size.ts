// Sizes, with the errors of this layer.
import { bytesOf, noSize, type Size } from '../size.js'
import { KvmError } from './errors.js'

export type { Size } from '../size.js'

/** @internal */
export function toBytes(size: Size): bigint {
  const bytes = bytesOf(size)
  if (bytes === undefined) throw new KvmError(noSize(size), { code: 'EINVAL' })
  return bytes
}

/** Room for `length` bytes of something that has no more than `most`. @internal */
export function room(length: number, most: bigint): Uint8Array {
  if (!Number.isSafeInteger(length) || length < 0)
    throw new KvmError(`a length must be a number of bytes, not ${String(length)}`, { code: 'EINVAL' })
  if (length > most)
    throw new KvmError(`${length} bytes cannot be read where there are at most ${most}`, { code: 'ERANGE' })
  return new Uint8Array(length)
}
