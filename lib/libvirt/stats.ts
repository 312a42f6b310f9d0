// What all domains do, again and again: libvirt's statistics, and the rates that follow from them.
import { setTimeout as sleep } from 'node:timers/promises'
import { day, invalid, within } from './checks.js'
import type { Connect } from './connect.js'
import type { Domain } from './domain.js'
import { DomainStatsTypes, type ConnectGetAllDomainStatsFlags, type DomainState } from './generated/enums.js'
import { domainListGetStats } from './generated/functions.js'
import type { TypedOutput } from './typed.js'

/** Groups of statistics, by name. */
const groups = {
  state: DomainStatsTypes.STATE,
  cpu: DomainStatsTypes.CPU_TOTAL,
  balloon: DomainStatsTypes.BALLOON,
  vcpu: DomainStatsTypes.VCPU,
  interface: DomainStatsTypes.INTERFACE,
  block: DomainStatsTypes.BLOCK,
  perf: DomainStatsTypes.PERF,
  iothread: DomainStatsTypes.IOTHREAD,
  memory: DomainStatsTypes.MEMORY,
  dirtyRate: DomainStatsTypes.DIRTYRATE,
  vm: DomainStatsTypes.VM
} as const

/**
 * A group of statistics.
 *
 * @since 0.1.0
 */
export type StatsGroup = keyof typeof groups

/**
 * Which statistics, of which domains, how often.
 *
 * @since 0.1.0
 */
export interface StatsOptions {
  /** Which groups. Default: all that the hypervisor has. */
  groups?: readonly StatsGroup[]
  /** Only these. Default: all domains of the connection, also those that come later. */
  domains?: readonly Domain[]
  /** Of all domains: which. Of `ConnectGetAllDomainStatsFlags`. */
  flags?: ConnectGetAllDomainStatsFlags
  /** From one to the next, in milliseconds. Default 1000. */
  intervalMs?: number
  /** Rejects with its reason. */
  signal?: AbortSignal
}

/**
 * What a domain does.
 *
 * @since 0.1.0
 */
export interface DomainSample {
  /** Its UUID. */
  uuid: string
  /** Its name. */
  name: string
  /** Of the group `state`. */
  state: DomainState | undefined
  /** What it has of the host's CPUs: 1 is one of them; undefined the first time. */
  cpu: number | undefined
  /** Bytes of memory that it has on the host. */
  memory: number | undefined
  /** Bytes a second; undefined the first time. */
  diskRead: number | undefined
  /** Bytes a second; undefined the first time. */
  diskWritten: number | undefined
  /** Bytes a second; undefined the first time. */
  received: number | undefined
  /** Bytes a second; undefined the first time. */
  sent: number | undefined
  stats: TypedOutput
}

/**
 * What the domains do at one moment.
 *
 * @since 0.1.0
 */
export interface StatsSample {
  /** When, in ms since 1970. */
  time: number
  /** Since the one before, in milliseconds; 0 the first time. */
  milliseconds: number
  /** In the order of libvirt. */
  domains: DomainSample[]
}

interface Counters {
  cpu: number | undefined
  diskRead: number | undefined
  diskWritten: number | undefined
  received: number | undefined
  sent: number | undefined
}

const numberOf = (value: unknown): number | undefined => (value === undefined ? undefined : Number(value))

/** The sum over all numbers in the place of `*`. */
function sum(stats: TypedOutput, prefix: string, suffix: string): number | undefined {
  const count = numberOf(stats[`${prefix}.count`])
  if (count === undefined) return undefined
  let total = 0
  for (let i = 0; i < count; i++) total += Number(stats[`${prefix}.${i}.${suffix}`] ?? 0)
  return total
}

function countersOf(stats: TypedOutput): Counters {
  return {
    // Nanoseconds.
    cpu: numberOf(stats['cpu.time']),
    diskRead: sum(stats, 'block', 'rd.bytes'),
    diskWritten: sum(stats, 'block', 'wr.bytes'),
    received: sum(stats, 'net', 'rx.bytes'),
    sent: sum(stats, 'net', 'tx.bytes')
  }
}

/** A counter that goes down belongs to a domain that was started anew. */
function rate(now: number | undefined, before: number | undefined, seconds: number): number | undefined {
  if (now === undefined || before === undefined || seconds <= 0) return undefined
  return Math.max(0, now - before) / seconds
}

/** @internal */
export async function* watchStats(connect: Connect, options: StatsOptions): AsyncGenerator<StatsSample, void, void> {
  const { domains, flags = 0, signal } = options
  const intervalMs = within(options.intervalMs ?? 1000, 'intervalMs', 0, day)
  for (const group of options.groups ?? [])
    if (!(group in groups)) throw invalid(`there is no group '${group}'; groups are ${Object.keys(groups).join(', ')}`)
  const types = (options.groups ?? []).reduce((all, group) => all | groups[group], 0)
  let last = new Map<string, Counters>()
  let before: number | undefined
  for (;;) {
    signal?.throwIfAborted()
    const due = performance.now() + intervalMs
    const records = await (domains ? domainListGetStats(domains, types, flags) : connect.getAllDomainStats(types, flags))
    const now = performance.now()
    const milliseconds = before === undefined ? 0 : now - before
    const seconds = milliseconds / 1000
    const next = new Map<string, Counters>()
    const samples: DomainSample[] = []
    for (const { dom, params: stats } of records) {
      const uuid = await dom.getUUIDString()
      const name = await dom.getName()
      await dom.close()
      const counters = countersOf(stats)
      const old = last.get(uuid)
      next.set(uuid, counters)
      const of = (key: keyof Counters): number | undefined => rate(counters[key], old?.[key], seconds)
      const nanoseconds = of('cpu')
      const rss = numberOf(stats['balloon.rss'])
      samples.push({
        uuid,
        name,
        state: stats['state.state'] as DomainState | undefined,
        cpu: nanoseconds === undefined ? undefined : nanoseconds / 1e9,
        memory: rss === undefined ? undefined : rss * 1024,
        diskRead: of('diskRead'),
        diskWritten: of('diskWritten'),
        received: of('received'),
        sent: of('sent'),
        stats
      })
    }
    last = next
    before = now
    yield { time: Date.now(), milliseconds, domains: samples }
    const wait = due - performance.now()
    try {
      if (wait > 0) await sleep(wait, undefined, signal ? { signal } : {})
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  }
}
