// Dirty pages of a machine over time, for the demo and the dirty command: harvests, sums, the heat map.
import { DirtyStats, DirtyTracker, HeatMap, type DirtyMode, type DirtySample } from '../dirty/index.js'
import type { Machine } from '../machine/index.js'
import { sleep, type Ui } from './common.js'

/** Harvests a machine until it is told to stop. */
export class Tracking {
  readonly heat = new HeatMap({ rows: 512, area: 'touched' })
  /** Dirty pages of all harvests: one written in three of them counts three times. */
  pages = 0
  /** Different pages. */
  uniquePages = 0
  harvests = 0
  /** Called after each harvest. */
  onSample: (sample: DirtySample) => void = () => {}
  readonly #tracker: DirtyTracker
  readonly #stats = new DirtyStats()
  readonly #stop = new AbortController()
  readonly #done: Promise<void>

  private constructor(tracker: DirtyTracker, intervalMs: number) {
    this.#tracker = tracker
    this.#done = this.#run(intervalMs)
    // What it threw is for stop() to tell.
    this.#done.catch(() => {})
  }

  /** In ring mode the machine has a ring, and else it has none. */
  static async start(machine: Machine, mode: DirtyMode | 'auto', intervalMs: number): Promise<Tracking> {
    return new Tracking(await DirtyTracker.attach(machine, { mode }), intervalMs)
  }

  get mode(): DirtyMode {
    return this.#tracker.mode
  }

  /** Why this mode. */
  get reason(): string {
    return this.#tracker.choice.reason
  }

  /** Harvests a last time, before the machine is closed. Throws what harvesting threw. */
  async stop(): Promise<void> {
    this.#stop.abort()
    try {
      await this.#done
      await this.#harvest()
    } finally {
      await this.#tracker.close()
    }
  }

  async #run(intervalMs: number): Promise<void> {
    while (await sleep(intervalMs, this.#stop.signal)) await this.#harvest()
  }

  async #harvest(): Promise<void> {
    const sample = this.#stats.add(await this.#tracker.harvest())
    this.heat.add(sample.harvest)
    this.pages += sample.pages
    this.uniquePages = sample.uniquePages
    this.harvests++
    this.onSample(sample)
  }
}

/** The heat map so far, small. */
export function picture(heat: HeatMap, ui: Ui): string {
  return heat.toTerminal({ width: Math.max(30, Math.min(78, (ui.stream.columns ?? 80) - 2)), height: 14, stream: ui.stream })
}
