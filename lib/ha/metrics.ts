// What sides measure, for Prometheus. It reads statuses and nothing else, so it serves those of other processes too.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import { haStates } from './figures.js'
import type { HaStatus } from './status.js'

type Stat = keyof HaStatus['stats']

const gauges: [name: string, help: string, of: (status: HaStatus) => number][] = [
  ['lag_seconds', "How far the backup's replay is behind the log that was sent (primary) or came (backup)", s => s.stats.lagMs / 1e3],
  ['lag_max_seconds', 'The most that it was behind in this protection', s => s.stats.lagMaxMs / 1e3],
  ['round_trip_seconds', 'Log sent to its acknowledgement, smoothed', s => s.stats.roundTripMs / 1e3],
  ['held_outputs', 'Packets and console writes that wait for the backup', s => s.stats.heldOutputs],
  ['held_bytes', 'Bytes in held outputs', s => s.stats.heldBytes],
  ['heartbeat_timeout_seconds', 'Silence that counts as death now', s => s.stats.heartbeatTimeoutMs / 1e3],
  ['boundary', "Boundaries that this side's machine has reached", s => s.stats.boundary],
  ['peer_boundary', 'Boundary that the backup had replayed when last heard of', s => s.stats.peerBoundary],
  ['sync_remaining_bytes', 'Memory and disks still to be copied in this round', s => s.sync?.remainingBytes ?? 0],
  ['sync_bytes', 'Bytes that the present copy has sent', s => s.sync?.bytesSent ?? 0],
  ['sync_dirty_pages_per_second', 'How fast the guest dirties its memory while it is copied', s => s.sync?.dirtyPagesPerSecond ?? 0]
]

const quantiles: [name: string, help: string, of: [quantile: string, stat: Stat][]][] = [
  ['lag_quantile_seconds', 'Quantiles of the lag in this protection', [['0.5', 'lagP50Ms'], ['0.99', 'lagP99Ms']]],
  ['hold_seconds', 'Quantiles of how long outputs waited for the backup', [['0.5', 'holdP50Ms'], ['0.99', 'holdP99Ms']]]
]

const counters: [name: string, help: string, of: (stats: HaStatus['stats']) => number][] = [
  ['log_bytes_total', 'Bytes of event log sent or received', s => s.logBytes],
  ['log_records_total', 'Records in the log', s => s.logRecords],
  ['log_blocks_total', 'Blocks of the log', s => s.logBlocks],
  ['input_bytes_total', 'Bytes from outside in the log', s => s.inputBytes],
  ['acknowledged_records_total', 'Records that the backup has acknowledged', s => s.ackedRecords],
  ['released_outputs_total', 'Outputs let out', s => s.releasedOutputs],
  ['dropped_outputs_total', 'Outputs thrown away because the other side runs the machine', s => s.droppedOutputs],
  ['paced_seconds_total', 'Time that the primary was made to wait for a slow backup', s => s.pacedMs / 1e3]
]

const phases = ['detected', 'claimed', 'replayed', 'live', 'announced'] as const

/** A pause may last from a millisecond to what people wait for. */
const pauseBuckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]

/** What one source's counters were when they were looked at last. */
interface Seen {
  session: string
  role: string
  stats: HaStatus['stats']
  failovers: number
}

/**
 * The figures of protections and standbys for Prometheus, in a registry of prom-client. Every name begins with
 * `hypertwin_ha_`; docs/high-availability.md lists them. Labels: `source` (the side's name) and `role`.
 *
 * @example
 * ```ts
 * const metrics = new HaMetrics(() => [protection.status()])
 * http.createServer(async (_, response) => response.end(await metrics.text()))
 * ```
 *
 * @since 0.1.0
 */
export class HaMetrics {
  /** prom-client's; what else is registered there appears in {@link text} too. */
  readonly registry: Registry
  readonly #statuses: () => readonly HaStatus[]
  readonly #state: Gauge
  readonly #gauges: [gauge: Gauge, of: (status: HaStatus) => number][]
  readonly #quantiles: [gauge: Gauge, of: [quantile: string, stat: Stat][]][]
  readonly #counters: [counter: Counter, of: (stats: HaStatus['stats']) => number][]
  readonly #failovers: Counter
  readonly #pause: Histogram
  readonly #phase: Gauge
  readonly #figures: Gauge
  readonly #seen = new Map<string, Seen>()

  /**
   * @param statuses - gives what is to be shown, whenever it is asked for
   * @param options - `registry`: one of prom-client that these are added to; default a new one
   */
  constructor(statuses: () => readonly HaStatus[], options: { registry?: Registry } = {}) {
    this.#statuses = statuses
    this.registry = options.registry ?? new Registry()
    const registers = [this.registry]
    const labelNames = ['source', 'role'] as const
    const gauge = (name: string, help: string, more: readonly string[] = []): Gauge =>
      new Gauge({ name: `hypertwin_ha_${name}`, help, registers, labelNames: [...labelNames, ...more] })
    const counter = (name: string, help: string, more: readonly string[] = []): Counter =>
      new Counter({ name: `hypertwin_ha_${name}`, help, registers, labelNames: [...labelNames, ...more] })
    this.#state = gauge('state', 'Where it is: 1 for the present state, 0 for every other', ['state'])
    this.#gauges = gauges.map(([name, help, of]) => [gauge(name, help), of])
    this.#quantiles = quantiles.map(([name, help, of]) => [gauge(name, help, ['quantile']), of])
    this.#counters = counters.map(([name, help, of]) => [counter(name, help), of])
    this.#failovers = counter('failovers_total', 'Machines that went live here', ['cause'])
    this.#pause = new Histogram({
      name: 'hypertwin_ha_failover_pause_seconds',
      help: 'Last sign of life of the primary to the machine being live here',
      registers,
      labelNames,
      buckets: pauseBuckets
    })
    this.#phase = gauge(
      'failover_phase_seconds',
      'Of the last failover: from the last sign of life to each moment',
      ['phase']
    )
    this.#figures = gauge('figure', 'What the application measures itself', ['figure'])
  }

  /** The text that Prometheus reads. */
  async text(): Promise<string> {
    this.#collect()
    return this.registry.metrics()
  }

  /** Its media type. */
  get contentType(): string {
    return this.registry.contentType
  }

  #collect(): void {
    const present = [this.#state, this.#phase, this.#figures, ...this.#gauges.map(([one]) => one)]
    for (const one of [...present, ...this.#quantiles.map(([gauge]) => gauge)]) one.reset()
    for (const status of this.#statuses()) {
      const labels = { source: status.name, role: status.role }
      for (const state of haStates) this.#state.set({ ...labels, state }, state === status.state ? 1 : 0)
      for (const [gauge, of] of this.#gauges) gauge.set(labels, of(status))
      for (const [gauge, list] of this.#quantiles)
        for (const [quantile, stat] of list) gauge.set({ ...labels, quantile }, status.stats[stat] / 1e3)
      for (const [figure, value] of Object.entries(status.figures)) this.#figures.set({ ...labels, figure }, value)
      this.#count(status, labels)
    }
  }

  /** A session's counts begin at nothing; Prometheus' counters go on. */
  #count(status: HaStatus, labels: { source: string; role: string }): void {
    const { name, role, session, stats, failover } = status
    const before = this.#seen.get(name)
    const goesOn = before !== undefined && before.role === role && (session === '' || before.session === session)
    for (const [counter, of] of this.#counters)
      counter.inc(labels, Math.max(0, of(stats) - (goesOn ? of(before.stats) : 0)))
    if (failover)
      for (const phase of phases) {
        const value = failover[phase]
        if (value !== null) this.#phase.set({ ...labels, phase }, value / 1e3)
      }
    // Two sides of one failover know of it: it counts where the machine went live.
    const fresh = status.failovers - (before?.failovers ?? 0)
    if (fresh > 0) {
      this.#failovers.inc({ ...labels, cause: failover?.cause ?? '' }, fresh)
      if (typeof failover?.live === 'number') this.#pause.observe(labels, failover.live / 1e3)
    }
    this.#seen.set(name, { session: session || (before?.session ?? ''), role, stats, failovers: status.failovers })
  }
}
