// Between what the addon gives and takes and what the classes do: CPU maps, and figures with names.
import { CpuSet } from './cpu_set.js'
import { LibvirtError } from './errors.js'

/** A figure as libvirt's node statistics have it. */
export interface Figure {
  field: string
  value: bigint
}

/** @internal */
export function figures(list: Figure[]): Record<string, bigint> {
  return Object.fromEntries(list.map(({ field, value }) => [field, value]))
}

/** @internal */
export function cpuSet(bytes: Uint8Array): CpuSet {
  const set = new CpuSet()
  bytes.forEach((byte, at) => {
    for (let bit = 0; bit < 8; bit++) if (byte & (1 << bit)) set.add(at * 8 + bit)
  })
  return set
}

const mostCpus = 1 << 16

/**
 * Flags as libvirt takes them: JavaScript's OR of the highest bit is negative.
 *
 * @internal
 */
export function bits(flags: number): number {
  return flags < 0 && flags === (flags | 0) ? flags >>> 0 : flags
}

/**
 * Runs `body` with a CPU map; the promise is rejected when the numbers are none.
 *
 * @internal
 */
export function withCpus<T>(cpus: Iterable<number>, body: (map: Uint8Array) => Promise<T>): Promise<T> {
  let map
  try {
    map = cpuBytes(cpus)
  } catch (error) {
    return Promise.reject(error instanceof Error ? error : new Error(String(error)))
  }
  return body(map)
}

function cpuBytes(cpus: Iterable<number>): Uint8Array {
  const list = [...cpus]
  for (const cpu of list)
    if (!Number.isInteger(cpu) || cpu < 0 || cpu >= mostCpus)
      throw new LibvirtError(`${String(cpu)} is no CPU: give integers from 0 to ${mostCpus - 1}`, { code: 'EINVAL' })
  const bytes = new Uint8Array(Math.max(1, ...list.map(cpu => (cpu >> 3) + 1)))
  for (const cpu of list) bytes[cpu >> 3] = (bytes[cpu >> 3] ?? 0) | (1 << (cpu & 7))
  return bytes
}
