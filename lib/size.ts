// Sizes as people write them.

/**
 * A size in bytes (a number or a bigint), or text such as `'64MiB'`: a number and one of B, KiB, MiB, GiB, TiB.
 *
 * @since 0.1.0
 */
export type Size = number | bigint | string

const units: Record<string, bigint> = { B: 1n, KiB: 1n << 10n, MiB: 1n << 20n, GiB: 1n << 30n, TiB: 1n << 40n }

/**
 * @returns undefined when it is no size
 * @internal
 */
export function bytesOf(size: unknown): bigint | undefined {
  if (typeof size === 'bigint' && size >= 0n) return size
  if (typeof size === 'number' && Number.isSafeInteger(size) && size >= 0) return BigInt(size)
  const match = typeof size === 'string' ? /^(\d+)\s*(B|KiB|MiB|GiB|TiB)$/.exec(size) : null
  const unit = units[match?.[2] ?? '']
  return match?.[1] === undefined || unit === undefined ? undefined : BigInt(match[1]) * unit
}

/** What to say of something that is no size. @internal */
export function noSize(size: unknown): string {
  return `${String(size)} is no size: give bytes, or text such as '64MiB'`
}
