// The demo's second act: a primary and its backup, each a process in a network namespace of its own, and users in one
// more, who go on when the primary is killed. This process starts them, kills, and compares; it is in no data path.
import { rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { CliError, count, sleep, type Ui, usage } from '../common.js'
import type { Verdict } from '../mailroom/load.js'
import { Child } from './child.js'
import { startEtcd } from './etcd.js'
import type { Page } from './page.js'
import {
  clock,
  REPORT_MS,
  type ClientConfig,
  type ClientOrder,
  type ClientReport,
  type HostConfig,
  type HostOrder,
  type HostReport,
  type Moments,
  type Seen,
  type Wire
} from './messages.js'
import { sharedStorage } from './storage.js'
import { guestAddress, hostAddress, TAP, Topology, TopologyError } from './topology.js'

/** How the primary is killed. */
export type Kill = 'auto' | 'manual' | 'none'

/** What the act is made with. */
export interface FailoverOptions {
  hosts: number
  users: number
  think: number
  /** Silence that counts as death, at least, in milliseconds; undefined: as long as HA takes by itself. */
  silence?: number
  /** How long the users work. */
  seconds: number
  kill: Kill
  /** The cable is cut at the instant of the kill, so that the connection says nothing. */
  silent: boolean
  arbiter: 'file' | 'etcd'
  memory: string | number
  seed: number
  keep: boolean
  kvmDevice: string
}

/** What the act gave. */
export interface FailoverAct {
  network: 'namespaces' | 'processes'
  seen: Seen
  verdict: Verdict
  /** When the primary was killed; undefined when nobody did. */
  killedAt: number | undefined
  /** Of the failover. */
  moments: Moments | undefined
  /** Milliseconds in which nobody was answered, around the kill. */
  pauseMs: number | undefined
  /** The same while the survivor got a new backup. */
  reprotectPauseMs: number | undefined
  /** When the survivor had a backup again. */
  protectedAgainAt: number | undefined
  /** Of the machine at the planned hand-over that ends the act, on both sides. */
  handedOver: { from: string; to: string; boundary: bigint } | undefined
  /** The log as the logging channel carried it. */
  logBytes: number
}

type Host = Child<HostReport, HostOrder>
type Users = Child<ClientReport, ClientOrder>

const PORT = 7200
// How long re-protection may take after the users have finished.
const REPROTECT_MS = 20_000

/** Plays the act. Undefined when interrupted. */
export async function failover(
  options: FailoverOptions,
  page: Page | undefined,
  folder: string,
  ui: Ui,
  signal: AbortSignal
): Promise<FailoverAct | undefined> {
  await using stage = await Stage.set(options, page !== undefined, folder, ui)
  try {
    return await play(stage, page, options, ui, AbortSignal.any([signal, stage.broken]))
  } catch (error) {
    if (signal.aborted) {
      ui.say('Interrupted')
      return undefined
    }
    throw error
  }
}

/** The network, the processes, and what must be cleared away. */
class Stage implements AsyncDisposable {
  readonly hosts: Host[] = []
  users: Users | undefined
  arbiter!: string
  readonly #broken = new AbortController()
  readonly #storage = sharedStorage()
  #endEtcd = async () => {}

  private constructor(
    readonly topology: Topology | undefined,
    readonly folder: string,
    readonly options: FailoverOptions
  ) {}

  /** Aborted when a process fails that should not. */
  get broken(): AbortSignal {
    return this.#broken.signal
  }

  static async set(options: FailoverOptions, page: boolean, folder: string, ui: Ui): Promise<Stage> {
    let topology: Topology | undefined
    try {
      topology = await Topology.create(options.hosts)
    } catch (error) {
      if (!(error instanceof TopologyError)) throw error
      if (options.silent) throw usage(`--silent needs network namespaces, which cannot be made here: ${error.message}`)
      ui.say(`No network namespaces: ${error.message}.`)
      ui.say('The hosts are processes all the same; a hub of UNIX sockets carries their packets.')
    }
    const stage = new Stage(topology, folder, options)
    try {
      await stage.#fill(page)
    } catch (error) {
      await stage[Symbol.asyncDispose]()
      throw error
    }
    return stage
  }

  async #fill(page: boolean): Promise<void> {
    const { options, topology, folder } = this
    this.arbiter = await this.#arbiter()
    const hub = path.join(folder, 'hub.sock')
    const users: ClientConfig = {
      users: options.users,
      think: options.think,
      seed: options.seed,
      guest: topology ? { kind: 'udp', address: guestAddress } : { kind: 'hub', socket: hub }
    }
    const observers: Users = new Child('the users', 'users', users, (...command) =>
      topology ? topology.onUsers(...command) : command
    )
    this.users = observers
    observers.onFailure(error => this.#broken.abort(error))
    await observers.next('ready')
    const wire: Wire = topology ? { kind: 'tap', tap: TAP } : { kind: 'hub', socket: hub }
    const addresses = Array.from({ length: options.hosts }, (_, i) =>
      topology ? `tcp://${hostAddress(i + 1)}:${PORT}` : `unix:${path.join(folder, `host${i + 1}.sock`)}`
    )
    for (let i = options.hosts - 1; i >= 0; i--) {
      const config: HostConfig = {
        host: i + 1,
        wire,
        disk: path.join(folder, `mail${i + 1}.img`),
        memory: options.memory,
        device: options.kvmDevice,
        silence: options.silence,
        arbiter: this.arbiter,
        listen: i === 0 ? undefined : addresses[i],
        pool: addresses.slice(i + 1),
        status: page
      }
      const host: Host = new Child(`host ${i + 1}`, 'host', config, (...command) =>
        topology ? topology.onHost(i + 1, ...command) : command
      )
      host.onFailure(error => this.#broken.abort(error))
      this.hosts.unshift(host)
      if (i > 0) await host.next('listening')
    }
  }

  async #arbiter(): Promise<string> {
    if (this.options.arbiter === 'etcd') {
      const { url, end } = await startEtcd(this.topology, this.#storage.folder)
      this.#endEtcd = end
      return `etcd:${url}`
    }
    return `file:${this.#storage.folder}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const children: (Users | Host | undefined)[] = [this.users, ...this.hosts]
    await Promise.all(children.map(async child => child?.kill()))
    await this.#endEtcd()
    this.#storage.remove()
    this.topology?.close()
    if (!this.options.keep)
      for (let host = 1; host <= this.options.hosts; host++)
        rmSync(path.join(this.folder, `mail${host}.img`), { force: true })
    for (const name of ['hub', ...this.hosts.map((_, i) => `host${i + 1}`)])
      rmSync(path.join(this.folder, `${name}.sock`), { force: true })
  }
}

/** Where the machine is, and what is known of it; for the live line. */
interface Scene {
  /** Who runs the machine, from 1 on. */
  on: number
  /** Its backup; undefined without one. */
  backup: number | undefined
  channel: Extract<HostReport, { is: 'channel' }> | undefined
}

async function play(
  stage: Stage,
  page: Page | undefined,
  options: FailoverOptions,
  ui: Ui,
  signal: AbortSignal
): Promise<FailoverAct> {
  const { hosts, topology } = stage
  const users = stage.users!
  const first = hosts[0]!
  const scene: Scene = { on: 1, backup: undefined, channel: undefined }
  let logBytes = 0
  let figures = {}
  users.onReport(report => {
    if (report.is === 'progress')
      figures = { 'operations/s': Math.round(report.operations * (1000 / REPORT_MS)), 'longest gap ms': report.gap }
  })
  hosts.forEach((host, i) =>
    host.onReport(report => {
      if (report.is === 'status') page?.update(i + 1, report.status, scene.on === i + 1 ? figures : {})
      if (report.is !== 'channel') return
      logBytes = Math.max(logBytes, report.logBytes)
      if (scene.on === i + 1) scene.channel = report
    })
  )
  const protection = first.next('protected', signal)
  // On a machine too busy it may be live before anybody is killed.
  const living = hosts[1]!.next('live', signal)
  const protecting = hosts.length > 2 ? hosts[1]!.next('protected', signal) : undefined
  for (const later of [living, protecting]) later?.catch(() => {})
  ui.say(
    topology
      ? `${options.hosts} hosts and the users, each in a network namespace of its own, on one bridge`
      : `${options.hosts} hosts and the users, each a process of its own`
  )
  hosts.forEach((host, i) =>
    ui.say(
      `  host ${i + 1}  pid ${String(host.pid).padEnd(8)} ${topology ? hostAddress(i + 1) : ''}  ` +
        ['primary', 'backup', 'spare'][Math.min(i, 2)]!
    )
  )
  ui.say(`  users   pid ${users.pid}`)
  const { syncMs } = await protection
  scene.backup = 2
  ui.say(`host 2 has been brought level with host 1 in ${(syncMs / 1000).toFixed(2)} s and follows it now`)

  const starting = users.next('started', signal)
  users.order({ do: 'start' })
  const begun = (await starting).at
  ui.say(`${options.users} users are logged in and at work`)
  const endLive = liveLine(users, scene, begun, ui)
  const elapsed = () => `${((clock() - begun) / 1000).toFixed(2).padStart(6)} s`
  let killedAt: number | undefined
  let moments: Moments | undefined
  let protectedAgainAt: number | undefined
  let finish = begun + options.seconds * 1000
  try {
    if (options.kill !== 'none') {
      const kill = await killPrimary(stage, begun + options.seconds * 500, ui, elapsed, signal)
      killedAt = kill.killedAt
      page?.gone(1, 'its process was killed')
      finish = Math.max(finish, killedAt + options.seconds * 500)
      scene.backup = undefined
      scene.channel = undefined
      moments = (await inTime(living, REPROTECT_MS, 'host 2 did not go live')).moments
      scene.on = 2
      // The backup may have noticed sooner.
      if (kill.byHand) killedAt = lostAt(killedAt, moments)
      ui.say(
        moments.live < killedAt
          ? `${elapsed()}  host 2 was live before that: host 1 had been taken for dead (${moments.cause}), and halted`
          : `${elapsed()}  host 2 is live: it went on at boundary ${count(moments.boundary)}, ` +
              `${(moments.live - killedAt).toFixed(1)} ms after the kill`
      )
      const again = protecting?.then(report => {
        protectedAgainAt = report.at
        scene.backup = 3
        ui.say(
          `${elapsed()}  host 3 has joined by itself: protected again, ` +
            `${((report.at - lostAt(killedAt!, moments!)) / 1000).toFixed(2)} s after host 1 was lost`
        )
      })
      await wait(finish - clock(), signal)
      if (again) await inTime(again, REPROTECT_MS, 'host 2 found no new backup').catch(() => signal.throwIfAborted())
    } else {
      await wait(finish - clock(), signal)
    }
  } finally {
    endLive()
  }

  const stopping = users.next('stopped', signal)
  users.order({ do: 'stop' })
  const { seen } = await stopping
  const verdict = await verify(users, signal)
  const handedOver = scene.backup === undefined ? undefined : await handOver(stage, scene.on, scene.backup, signal)
  if (handedOver) {
    // And the same again from the machine that took over.
    const again = await verify(users, signal)
    verdict.lost = Math.max(verdict.lost, again.lost)
    verdict.surplus = Math.max(verdict.surplus, again.surplus)
    verdict.problems.push(...again.problems)
  }
  return {
    network: topology ? 'namespaces' : 'processes',
    seen,
    verdict,
    killedAt,
    moments,
    pauseMs: moments && killedAt !== undefined
        ? longestGap(seen, lostAt(killedAt, moments), moments.live)
        : undefined,
    reprotectPauseMs: moments && protectedAgainAt !== undefined ? longestGap(seen, moments.live, protectedAgainAt, true) : undefined,
    protectedAgainAt,
    handedOver,
    logBytes
  }
}

/** When the primary was lost: by the kill, or before that on a host too busy to be told from a dead one. */
export function lostAt(killedAt: number, moments: Moments): number {
  return Math.min(killedAt, moments.detected)
}

/** The longest gap that ended after `since` and began before `until`; `inside`: that began after `since` too. */
function longestGap({ gaps }: Seen, since: number, until: number, inside = false): number {
  return gaps
    .filter(({ from, to }) => (inside ? from : to) >= since && from <= until)
    .reduce((longest, { from, to }) => Math.max(longest, to - from), 0)
}

async function verify(users: Users, signal: AbortSignal): Promise<Verdict> {
  const verifying = users.next('verified', signal)
  users.order({ do: 'verify' })
  return (await verifying).verdict
}

async function handOver(
  { hosts }: Stage,
  on: number,
  backup: number,
  signal: AbortSignal
): Promise<FailoverAct['handedOver']> {
  const [from, to] = [hosts[on - 1]!, hosts[backup - 1]!]
  const digests = Promise.all([from.next('digest', signal), to.next('digest', signal)])
  from.order({ do: 'handOver' })
  const [left, right] = await inTime(digests, REPROTECT_MS, 'the planned hand-over did not end')
  return { from: left.combined, to: right.combined, boundary: right.boundary }
}

/** Kills host 1 when its time has come, or waits until somebody else does. Resolves to when that was, or was noticed. */
async function killPrimary(
  { hosts, topology, options }: Stage,
  at: number,
  ui: Ui,
  elapsed: () => string,
  signal: AbortSignal
): Promise<{ killedAt: number; byHand: boolean }> {
  const primary = hosts[0]!
  const killer = options.silent ? topology?.silentKiller(1, primary.pid) : undefined
  primary.expectEnd()
  try {
    if (options.kill === 'manual') {
      ui.say(`Kill host 1 when you like: press Enter, or type elsewhere: kill -9 ${primary.pid}`)
      const lines = createInterface({ input: process.stdin })
      try {
        const aborted = new AbortController()
        const enter = new Promise<boolean>(resolve => lines.once('line', () => resolve(true)))
        const killed = primary.closed.then(() => false)
        const interrupted = new Promise<never>((_, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason as Error), { signal: aborted.signal })
        )
        try {
          if (!(await Promise.race([enter, killed, interrupted]))) {
            ui.say(`${elapsed()}  host 1 was killed`)
            return { killedAt: clock(), byHand: true }
          }
        } finally {
          aborted.abort()
        }
      } finally {
        lines.close()
        process.stdin.unref?.()
      }
    } else {
      await wait(at - clock(), signal)
    }
    const killedAt = clock()
    if (killer) await killer.kill()
    else await primary.kill()
    ui.say(`${elapsed()}  host 1 was killed (SIGKILL to ${primary.pid}${killer ? ', its cable cut first' : ''})`)
    return { killedAt, byHand: false }
  } finally {
    killer?.cancel()
  }
}

/** A line for each report of the users'. Returns what ends it. */
function liveLine(users: Users, scene: Scene, begun: number, ui: Ui): () => void {
  let shown = 0
  let [operations, longest, since] = [0, 0, begun]
  return users.onReport(report => {
    if (report.is !== 'progress') return
    operations += report.operations
    longest = Math.max(longest, report.gap)
    if (!ui.tty && report.at - shown < 990) return
    const per = (report.at - since) / 1000
    const { on, backup, channel } = scene
    ui.live(
      `${((report.at - begun) / 1000).toFixed(2).padStart(6)} s  ${count(operations / per).padStart(7)} op/s` +
        `  p50 ${report.p50.toFixed(1)} ms  p99 ${report.p99.toFixed(1)} ms  longest gap ${longest.toFixed(1)} ms  ` +
        (backup === undefined ? `host ${on} alone` : `host ${on} -> ${backup}`) +
        (channel && backup !== undefined ? `  lag ${channel.lagMs.toFixed(1)} ms` : '')
    )
    shown = report.at
    ;[operations, longest, since] = [0, 0, report.at]
  })
}

async function wait(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await sleep(ms, signal)
  signal.throwIfAborted()
}

function inTime<T>(work: Promise<T>, ms: number, otherwise: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new CliError(`After ${ms / 1000} s ${otherwise}`)), ms)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

/** What a person wants to know of it. */
export function tellFailover(ui: Ui, act: FailoverAct, options: FailoverOptions): void {
  const { seen, verdict, killedAt, moments } = act
  if (killedAt !== undefined && moments) {
    const ms = (from: number, to: number) => `${Math.max(0, to - from).toFixed(1)} ms`
    const lost = lostAt(killedAt, moments)
    ui.say(
      (lost < killedAt
        ? `This machine was so busy that host 1 was taken for dead (${moments.cause}) ${ms(lost, killedAt)} before the kill`
        : `Host 1 was killed; it was missed after ${ms(lost, moments.detected)} (${moments.cause})`) +
        `; the claim took ${ms(moments.detected, moments.claimed)}, host 2 was live after ${ms(lost, moments.live)}`
    )
    ui.say(
      `The users saw a pause of ${act.pauseMs!.toFixed(1)} ms` +
        (act.reprotectPauseMs === undefined ? '' : `, and of ${act.reprotectPauseMs.toFixed(1)} ms when host 3 joined`) +
        `; 99 % of all gaps between two answers were below ${seen.gapP99.toFixed(1)} ms`
    )
    ui.say(`  ${blocks(seen, lost - 100, 78, 5)}`)
    ui.say(`  ${' '.repeat(20)}^ host 1 was lost; a column is 5 ms of answers`)
  }
  ui.say(
    `${count(seen.stats.acknowledged)} operations were acknowledged (${count((seen.stats.operations / (seen.ended - seen.begun)) * 1000)}/s), ` +
      `${count(verdict.lost)} of them lost; ${count(verdict.mails)} mails compared; ` +
      `${seen.broken} of ${options.users} connections broken; ${count(seen.stats.retransmissions)} datagrams sent again`
  )
  for (const problem of verdict.problems) ui.say(`  ${problem}`)
  if (act.handedOver) {
    const { from, to, boundary } = act.handedOver
    ui.say(`At the end the machine moved to its backup at boundary ${count(boundary)}:`)
    ui.say(`  the survivor    ${from}`)
    ui.say(`  its new backup  ${to}`)
    ui.say(from === to ? '  The states are equal.' : '  THE STATES DIFFER.')
  }
}

/** Acknowledged operations as a row of blocks. */
function blocks({ bins, begun }: Seen, from: number, columns: number, width: number): string {
  const start = Math.floor(from - begun)
  const sums = Array.from({ length: columns }, (_, i) => {
    const at = start + i * width
    return bins.slice(Math.max(0, at), Math.max(0, at + width)).reduce((sum, n) => sum + n, 0)
  })
  const most = Math.max(1, ...sums)
  return sums.map(n => (n === 0 ? ' ' : '▁▂▃▄▅▆▇█'[Math.min(7, Math.floor((n / most) * 8))]!)).join('')
}
