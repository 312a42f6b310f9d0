// Checks of what the comfort layer is given.
import { bytesOf, noSize } from '../size.js'
import { LibvirtError } from './errors.js'

/** @internal */
export function invalid(message: string): LibvirtError {
  return new LibvirtError(message, { code: 'EINVAL' })
}

/** @internal */
export function bytes(value: unknown, what: string): bigint {
  const found = bytesOf(value)
  if (found === undefined) throw invalid(`${what}: ${noSize(value)}`)
  return found
}

/** Rounded up: 0 stands for no limit, and stays it. @internal */
export function mebibytes(value: unknown, what: string): bigint {
  return (bytes(value, what) + 0xfffffn) >> 20n
}

/** @internal */
export function within(value: unknown, what: string, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most))
    throw invalid(`${what} must be a number from ${least} to ${most}; it is ${String(value)}`)
  return value
}

/** @internal */
export function whole(value: unknown, what: string, least: number, most: number): number {
  const found = within(value, what, least, most)
  if (!Number.isInteger(found)) throw invalid(`${what} must be a whole number; it is ${found}`)
  return found
}

/** @internal */
export function oneOf<T extends string>(value: T, what: string, values: readonly T[]): T {
  if (!values.includes(value))
    throw invalid(`${what} must be one of ${values.map(one => `'${one}'`).join(', ')}; it is ${String(value)}`)
  return value
}

/** @param known - target names of all disks of the domain @internal */
export function checkDisks(wanted: readonly string[], known: readonly string[]): void {
  for (const target of wanted)
    if (!known.includes(target)) throw invalid(`the domain has no disk '${target}'; it has ${known.join(', ') || 'none'}`)
}

/** An object without what is undefined. @internal */
export function given<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

/** Milliseconds that a day has. @internal */
export const day = 86_400_000
