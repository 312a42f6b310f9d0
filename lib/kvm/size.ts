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
