// `hypertwin demo`, in two acts. The first records the mailroom's event log and replays it to the identical state: that
// is what the second rests on. In the second a backup follows the mailroom by its log, its host is killed while users
// are at work, and they go on.
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { DirtyMode } from '../../dirty/index.js'
import { bytes, count, Exit, interruption, toJson, Ui, usage } from '../common.js'
import { failover, lostAt, tellFailover, type FailoverAct, type FailoverOptions, type Kill } from './failover.js'
import type { Page } from './page.js'
import { recordAndReplay, statesEqual, tellRecorded, type RecordedAct } from './recorded.js'
import { timelineSvg, type Mark } from './timeline.js'
import { checkKvm } from '../kvm.js'
import { describe } from '../mailroom/load.js'

interface DemoOptions {
  users: number
  seconds: number
  hosts: number
  think: number
  silence?: number
  kill: Kill
  silent?: boolean
  arbiter: 'file' | 'etcd'
  page?: string | boolean
  memory: string | number
  out?: string
  seed: number
  mode: DirtyMode | 'auto'
  keep?: boolean
  json?: boolean
  kvmDevice: string
}

/** What the first act found out. */
interface RecordedReport {
  operations: number
  acknowledged: number
  lost: number
  surplus: number
  unanswered: number
  errors: number
  retransmissions: number
  boundaries: bigint
  logBytes: bigint
  inputBytes: bigint
  dirtyPages: number
  workingSetPages: number
  dirtyMode: string
  digestRecorded: string | null
  digestReplayed: string | null
  diverged: boolean
  equal: boolean
  users: number
  seconds: number
  recordSeconds: number
  replaySeconds: number
  operationsPerSecond: number
  p50: number
  p90: number
  p99: number
  max: number
  /** Share of the time that the JavaScript thread worked during the load, 0 to 1. */
  javascriptBusy: number
}

/** What the second act found out. Milliseconds are null where nothing was killed. */
interface FailoverReport {
  hosts: number
  /** How packets went: through namespaces of their own, or between processes. */
  network: FailoverAct['network']
  kill: Kill
  silent: boolean
  arbiter: 'file' | 'etcd'
  /** Longest time without an acknowledgement to anybody around the kill, as the users saw it. */
  pauseMs: number | null
  /** 99th percentile of the times between two acknowledgements. */
  gapP99Ms: number
  /** Operations acknowledged to a user whose effect the survivor does not hold. */
  lostAcknowledged: number
  /** Users that would have to log in again, or gave up. */
  brokenConnections: number
  /** The survivor found a new backup by itself. */
  reprotected: boolean
  /** Longest time without an acknowledgement while the new backup was brought level. */
  reprotectPauseMs: number | null
  /** From the kill to protection again. */
  reprotectMs: number | null
  /** The primary was taken for dead before the kill, on a machine too busy; the times then count from that moment. */
  killedTooLate: boolean
  /** From the kill until the primary was taken for dead. */
  detectMs: number | null
  /** Then until the arbiter had said yes. */
  claimMs: number | null
  /** Then until the received log was replayed to its end. */
  replayMs: number | null
  /** From the kill until the backup was live. */
  liveMs: number | null
  cause: string | null
  /** The machine's state at the planned hand-over at the end, on both sides. */
  digestSurvivor: string | null
  digestBackup: string | null
  failover: {
    seconds: number
    operations: number
    acknowledged: number
    surplus: number
    unanswered: number
    errors: number
    retransmissions: number
    operationsPerSecond: number
    p50: number
    p90: number
    p99: number
    max: number
    logBytes: number
    javascriptBusy: number
  }
}

/** All that the demo found out. */
type Report = RecordedReport &
  FailoverReport & {
    files: { folder: string; log: string; png: string; svg: string; timeline: string; report: string }
  }

/** A folder for what the demo writes; it must be new or empty. */
async function outputFolder(out: string | undefined): Promise<string> {
  const folder = out ?? path.join('out', `demo-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`)
  await mkdir(folder, { recursive: true })
  if ((await readdir(folder)).length > 0)
    throw usage(`The folder ${folder} is not empty: give a new one, or remove what is in it`)
  return folder
}

export async function demo(options: DemoOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  await checkKvm(options.kvmDevice)
  const folder = await outputFolder(options.out)
  const files = {
    folder,
    log: path.join(folder, 'log'),
    png: path.join(folder, 'heat.png'),
    svg: path.join(folder, 'heat.svg'),
    timeline: path.join(folder, 'failover.svg'),
    report: path.join(folder, 'report.json')
  }

  ui.say('1. Recorded and replayed')
  ui.say()
  const first = await recordAndReplay({ ...options, seconds: Math.min(options.seconds, Math.max(1, options.seconds / 4)) }, files, ui, signal)
  if (!first) return Exit.interrupted
  ui.say()
  tellRecorded(ui, first)

  ui.say()
  ui.say('2. A primary is killed, and its backup goes on')
  ui.say()
  const act: FailoverOptions = { ...options, silent: options.silent === true, keep: options.keep === true }
  await using page = options.page ? await openPage(options) : undefined
  if (page) ui.say(`The live page: ${page.url}`)
  const second = await failover(act, page, folder, ui, signal)
  if (!second) return Exit.interrupted
  ui.say()
  tellFailover(ui, second, act)
  await writeFile(files.timeline, picture(second, act))

  const report: Report = { ...recordedReport(options, first), ...failoverReport(act, second), files }
  await writeFile(files.report, `${toJson(report)}\n`)
  await writeFile(path.join(folder, 'report.md'), markdown(report, first, second))
  ui.say()
  ui.say(`failover  ${files.timeline}`)
  ui.say(`log       ${files.log}`)
  ui.say(`heat map  ${files.png}, ${files.svg}`)
  ui.say(`report    ${files.report}, ${path.join(folder, 'report.md')}`)
  ui.result(report)
  if (page && ui.tty) {
    ui.say(`The page stays at ${page.url} until Ctrl-C`)
    await new Promise(resolve => signal.addEventListener('abort', resolve))
  }
  return allIsWell(report) ? Exit.ok : Exit.failed
}

/** Loaded when it is wanted. */
async function openPage({ page, hosts }: DemoOptions): Promise<Page> {
  return (await import('./page.js')).Page.open(hosts, typeof page === 'string' ? page : '127.0.0.1:0')
}

/** Nothing is lost, and all that must agree does. */
function allIsWell(report: Report): boolean {
  const recorded = report.lost === 0 && report.surplus === 0 && report.errors === 0 && report.equal
  const { failover: second } = report
  const survived =
    report.lostAcknowledged === 0 && second.surplus === 0 && second.errors === 0 && report.brokenConnections === 0
  // With two hosts nobody is left to be the backup after a kill.
  const backup = report.kill === 'none' || report.hosts > 2
  const agreed = !backup || (report.digestSurvivor !== null && report.digestSurvivor === report.digestBackup)
  return recorded && survived && agreed && (report.kill === 'none' || !backup || report.reprotected)
}

function recordedReport(options: DemoOptions, act: RecordedAct): RecordedReport {
  const { load, verdict, recording, replayed, tracking } = act
  const { p50, p90, p99, max } = load.latency.all
  return {
    operations: load.operations,
    acknowledged: load.acknowledged,
    lost: verdict.lost,
    surplus: verdict.surplus,
    unanswered: load.unanswered,
    errors: load.errors,
    retransmissions: load.retransmissions,
    boundaries: recording.lastBoundary - recording.firstBoundary,
    logBytes: recording.stats.bytes,
    inputBytes: recording.stats.inputBytes,
    dirtyPages: tracking.pages,
    workingSetPages: tracking.uniquePages,
    dirtyMode: tracking.mode,
    digestRecorded: recording.state?.combined ?? null,
    digestReplayed: replayed.state.combined,
    diverged: replayed.stop !== 'log-end' || !replayed.complete,
    equal: statesEqual(act),
    users: options.users,
    seconds: act.loadSeconds,
    recordSeconds: act.recordSeconds,
    replaySeconds: act.replaySeconds,
    operationsPerSecond: Math.round(load.operations / act.loadSeconds),
    p50,
    p90,
    p99,
    max,
    javascriptBusy: thousandths(act.javascriptBusy)
  }
}

function failoverReport(options: FailoverOptions, act: FailoverAct): FailoverReport {
  const { seen, verdict, killedAt, moments, handedOver } = act
  const seconds = (seen.ended - seen.begun) / 1000
  const { p50, p90, p99, max } = seen.stats.latency.all
  const lost = killedAt !== undefined && moments ? lostAt(killedAt, moments) : undefined
  const early = lost !== undefined && killedAt !== undefined && lost < killedAt
  const between = (from: number | undefined, to: number | undefined) =>
    from === undefined || to === undefined ? null : thousandths(Math.max(0, to - from))
  return {
    hosts: options.hosts,
    network: act.network,
    kill: options.kill,
    silent: options.silent,
    arbiter: options.arbiter,
    pauseMs: act.pauseMs === undefined ? null : thousandths(act.pauseMs),
    gapP99Ms: thousandths(seen.gapP99),
    lostAcknowledged: verdict.lost,
    brokenConnections: seen.broken,
    reprotected: act.protectedAgainAt !== undefined,
    reprotectPauseMs: act.reprotectPauseMs === undefined ? null : thousandths(act.reprotectPauseMs),
    reprotectMs: between(lost, act.protectedAgainAt),
    killedTooLate: early,
    detectMs: early ? null : between(killedAt, moments?.detected),
    claimMs: between(moments?.detected, moments?.claimed),
    replayMs: between(moments?.claimed, moments?.replayed),
    liveMs: between(lost, moments?.live),
    cause: moments?.cause ?? null,
    digestSurvivor: handedOver?.from ?? null,
    digestBackup: handedOver?.to ?? null,
    failover: {
      seconds,
      operations: seen.stats.operations,
      acknowledged: seen.stats.acknowledged,
      surplus: verdict.surplus,
      unanswered: seen.stats.unanswered,
      errors: seen.stats.errors,
      retransmissions: seen.stats.retransmissions,
      operationsPerSecond: Math.round(seen.stats.operations / seconds),
      p50,
      p90,
      p99,
      max,
      logBytes: act.logBytes,
      javascriptBusy: thousandths(seen.busy)
    }
  }
}

function thousandths(value: number): number {
  return Math.round(value * 1000) / 1000
}

function picture({ seen, killedAt, moments, protectedAgainAt }: FailoverAct, options: FailoverOptions): string {
  const marks: Mark[] = []
  if (killedAt !== undefined) marks.push({ at: killedAt, label: 'SIGKILL', color: '#c0392b' })
  if (moments) {
    marks.push({ at: moments.detected, label: 'detected', color: '#8e44ad' })
    marks.push({ at: moments.live, label: 'live', color: '#1e8449' })
  }
  if (protectedAgainAt !== undefined) marks.push({ at: protectedAgainAt, label: 'protected again', color: '#b9770e' })
  return timelineSvg(seen, marks, `${options.users} users while their server's host is killed`)
}

function markdown(report: Report, first: RecordedAct, second: FailoverAct): string {
  const table = (rows: [string, string | number][]) =>
    ['| | |', '|---|---|', ...rows.map(([name, value]) => `| ${name} | ${value} |`)].join('\n')
  const ms = (value: number | null) => (value === null ? '-' : `${value} ms`)
  const code = (text: string | null) => (text === null ? '-' : `\`${text}\``)
  return `# hypertwin demo

## Recorded and replayed

${report.users} users, ${report.seconds.toFixed(1)} s of load on one machine.

${table([
  ['operations', count(report.operations)],
  ['acknowledged', count(report.acknowledged)],
  ['lost', report.lost],
  ['retransmissions', report.retransmissions],
  ['boundaries', count(report.boundaries)],
  ['log', `${bytes(Number(report.logBytes))}, of which ${bytes(Number(report.inputBytes))} came from outside`],
  ['dirty pages', `${count(report.dirtyPages)} (${count(report.workingSetPages)} different), by ${report.dirtyMode}`],
  ['recorded in', `${report.recordSeconds.toFixed(2)} s`],
  ['replayed in', `${report.replaySeconds.toFixed(2)} s`],
  ['state recorded', code(report.digestRecorded)],
  ['state replayed', code(report.digestReplayed)],
  ['equal', report.equal ? 'yes' : '**no**'],
  ['JavaScript thread busy', `${(report.javascriptBusy * 100).toFixed(0)} %`]
])}

\`\`\`
${describe(first.load, first.loadSeconds)}
\`\`\`

![dirty pages over time](heat.svg)

## A primary is killed, and its backup goes on

${report.users} users, ${report.failover.seconds.toFixed(1)} s of load, ${report.hosts} hosts (${report.network}), arbiter: ${report.arbiter}.

${table([
  ['operations acknowledged', count(report.failover.acknowledged)],
  ['of them lost', report.lostAcknowledged],
  ['broken connections', report.brokenConnections],
  ['pause as the users saw it', ms(report.pauseMs)],
  ['time between two answers, p99', ms(report.gapP99Ms)],
  ['the same while its new backup was brought level', ms(report.reprotectPauseMs)],
  ['kill to detection', `${ms(report.detectMs)}${report.cause === null ? '' : ` (${report.cause})`}`],
  ['claim', ms(report.claimMs)],
  ['replay of the rest', ms(report.replayMs)],
  ['kill to live', ms(report.liveMs)],
  ['protected again', report.reprotected ? `after ${ms(report.reprotectMs)}` : 'no'],
  ['state of the survivor at the hand-over', code(report.digestSurvivor)],
  ['state of its new backup there', code(report.digestBackup)]
])}

\`\`\`
${describe(second.seen.stats, report.failover.seconds)}
\`\`\`

![answers over time](failover.svg)
`
}
