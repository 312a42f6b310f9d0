// KVM's binary statistics (KVM_GET_STATS_FD, api.rst 4.133), as the addon packs them.

/**
 * One statistic of a VM or vCPU.
 *
 * @since 0.1.0
 */
export interface Stat {
  /** The kernel's name, for example `'exits'`. */
  name: string
  /** How it counts (`KVM_STATS_TYPE_*`). */
  type: 'cumulative' | 'instant' | 'peak' | 'linear-histogram' | 'log-histogram' | 'unknown'
  /** What it counts (`KVM_STATS_UNIT_*`): `value * base ** exponent` of it. */
  unit: 'none' | 'bytes' | 'seconds' | 'cycles' | 'boolean' | 'unknown'
  /** 10 or 2. */
  base: number
  /** See `unit`. */
  exponent: number
  /** Width of a linear histogram's buckets. */
  bucketSize: number
  /** One value; a histogram's buckets. */
  values: bigint[]
}

/**
 * Statistics as they were at one moment.
 *
 * @since 0.1.0
 */
export interface Stats {
  /** `'kvm-<pid>'` or `'kvm-<pid>/vcpu-<id>'`. */
  id: string
  /** By name. */
  values: Map<string, Stat>
}

const types = ['cumulative', 'instant', 'peak', 'linear-histogram', 'log-histogram'] as const
const statUnits = ['none', 'bytes', 'seconds', 'cycles', 'boolean'] as const

/** @internal */
export function decodeStats(packed: Uint8Array): Stats {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  let at = 0
  const u32 = (): number => {
    at += 4
    return view.getUint32(at - 4, true)
  }
  const text = (): string => {
    const length = u32()
    at += length
    return new TextDecoder().decode(packed.subarray(at - length, at))
  }
  const id = text()
  const values = new Map<string, Stat>()
  while (at < packed.length) {
    const [type, unit, base, exponent, bucketSize, count] = [u32(), u32() >> 4, u32() >> 8, u32() | 0, u32(), u32()]
    const name = text()
    const numbers = Array.from({ length: count }, (_, i) => view.getBigUint64(at + 8 * i, true))
    at += 8 * count
    values.set(name, {
      name,
      type: types[type] ?? 'unknown',
      unit: statUnits[unit] ?? 'unknown',
      base: base === 1 ? 2 : 10,
      exponent,
      bucketSize,
      values: numbers
    })
  }
  return { id, values }
}
