// A process with all the users in it: each works at the mailroom by UDP, over the kernel's own IP stack where there
// are namespaces. Keeps what it saw, for it is the outside observer of the demo.
import { createHistogram } from 'node:perf_hooks'
import process from 'node:process'
import { MailroomClient } from '../mailroom/client.js'
import { FrameLink, SocketLink, type Link } from '../mailroom/link.js'
import { MailLoad } from '../mailroom/load.js'
import { MAILROOM_PORT } from '../mailroom/protocol.js'
import { Hub } from './hub.js'
import {
  BIN_MS,
  BINS_MAX,
  clock,
  dieWithParent,
  GAP_MS,
  REPORT_MS,
  tell,
  type ClientConfig,
  type ClientOrder,
  type ClientReport,
  type Gap
} from './messages.js'

/** When somebody was answered, and how long nobody was. */
class Observer {
  readonly bins: number[] = []
  readonly gaps: Gap[] = []
  begun = 0
  last = 0
  #longest = 0
  /** In microseconds. */
  readonly #all = createHistogram({ lowest: 1, highest: 600_000_000, figures: 3 })
  /** From performance.now() to {@link clock}. */
  readonly #offset = clock() - performance.now()

  now(): number {
    return performance.now() + this.#offset
  }

  start(): void {
    this.begun = this.last = this.now()
  }

  acknowledged(performanceNow: number): void {
    const at = performanceNow + this.#offset
    const bin = Math.floor((at - this.begun) / BIN_MS)
    if (bin < BINS_MAX) {
      while (this.bins.length <= bin) this.bins.push(0)
      this.bins[bin]!++
    }
    const gap = at - this.last
    if (gap >= GAP_MS && this.gaps.length < BINS_MAX) this.gaps.push({ from: this.last, to: at })
    if (gap > this.#longest) this.#longest = gap
    this.#all.record(Math.max(1, Math.round(gap * 1000)))
    this.last = at
  }

  /** The longest gap since the last call, the present one included. */
  takeLongest(): number {
    const longest = Math.max(this.#longest, this.now() - this.last)
    this.#longest = 0
    return longest
  }

  get p99(): number {
    return this.#all.count === 0 ? 0 : this.#all.percentile(99) / 1000
  }
}

function report(message: ClientReport): void {
  tell(message)
}

async function main(config: ClientConfig): Promise<void> {
  let link: Link
  if (config.guest.kind === 'udp') link = new SocketLink(config.guest.address, MAILROOM_PORT)
  else link = new FrameLink(await Hub.listen(config.guest.socket), { guestPort: MAILROOM_PORT })
  const client = new MailroomClient(link, { timeout: 'adaptive', attempts: 2000 })
  const observer = new Observer()
  const load = new MailLoad(client, {
    users: config.users,
    think: config.think,
    seed: config.seed,
    onAcknowledged: at => observer.acknowledged(at)
  })
  let reporting: NodeJS.Timeout | undefined
  let idle = performance.eventLoopUtilization()
  const orders: Record<ClientOrder['do'], () => Promise<void>> = {
    async start() {
      await link.ready(30_000)
      await load.login()
      observer.start()
      report({ is: 'started', at: observer.begun })
      idle = performance.eventLoopUtilization()
      load.start()
      let operations = load.operations
      reporting = setInterval(() => {
        const { p50, p99 } = load.takeInterval()
        report({
          is: 'progress',
          at: observer.now(),
          operations: load.operations - operations,
          p50,
          p99,
          gap: observer.takeLongest(),
          users: config.users - load.broken
        })
        operations = load.operations
      }, REPORT_MS)
    },
    async stop() {
      clearInterval(reporting)
      const busy = performance.eventLoopUtilization(idle).utilization
      await load.stop()
      const { bins, gaps, begun, last: ended, p99: gapP99 } = observer
      report({
        is: 'stopped',
        seen: { stats: load.stats(), begun, ended, bins, gaps, gapP99, broken: load.broken, busy }
      })
    },
    async verify() {
      const verdict = await load.verify()
      const { digest, operations } = await client.digest()
      report({
        is: 'verified',
        verdict,
        mailroom: { digest: digest.toString(16).padStart(16, '0'), operations: operations.toString() }
      })
    }
  }
  process.on('message', (order: ClientOrder) => void orders[order.do]().catch(failed))
  report({ is: 'ready' })
}

function failed(error: unknown): void {
  report({ is: 'failed', message: error instanceof Error ? error.message : String(error) })
}

dieWithParent()
process.title = 'hypertwin demo: users'
main(JSON.parse(process.argv[2] ?? '{}') as ClientConfig).catch(failed)
