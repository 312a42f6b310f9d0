// `hypertwin demo`: the mailroom on KVM serves its users while its dirty pages are tracked and its event log is
// captured; then a second machine replays the log to the identical state.
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Recording, Replay, type RecordingResult, type ReplayResult } from '../eventlog/index.js'
import type { DirtyMode } from '../dirty/index.js'
import type { Machine } from '../machine/index.js'
import { bytes, CliError, count, Exit, interruption, sleep, toJson, Ui, usage } from './common.js'
import { checkKvm } from './kvm.js'
import { connectMailroom, createMailroom } from './mailroom/boot.js'
import type { MailroomClient } from './mailroom/client.js'
import { describe, MailLoad, type LoadStats, type Verdict } from './mailroom/load.js'
import { divergenceText, replayWithBar } from './replay.js'
import { picture, Tracking } from './tracking.js'

interface DemoOptions {
  users: number
  seconds: number
  memory: string | number
  out?: string
  seed: number
  mode: DirtyMode | 'auto'
  keep?: boolean
  json?: boolean
  kvmDevice: string
}

/** All that the demo found out. */
interface Report {
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
  files: { folder: string; log: string; png: string; svg: string; report: string }
}

/** A folder for what the demo writes; it must be new or empty. */
async function outputFolder(out: string | undefined): Promise<string> {
  const folder = out ?? path.join('out', `demo-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}`)
  await mkdir(folder, { recursive: true })
  if ((await readdir(folder)).length > 0)
    throw usage(`The folder ${folder} is not empty: give a new one, or remove what is in it`)
  return folder
}

/** What a recorded load gave. */
interface Recorded {
  load: LoadStats
  verdict: Verdict
  recording: RecordingResult
  loadSeconds: number
  recordSeconds: number
  javascriptBusy: number
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
    report: path.join(folder, 'report.json')
  }
  const disk = path.join(folder, 'mail.img')

  const machine = await createMailroom({
    disk,
    memory: options.memory,
    device: options.kvmDevice,
    dirtyRing: options.mode === 'ring'
  })
  let recorded: Recorded | undefined
  const tracking = await Tracking.start(machine, options.mode, 250)
  ui.say(`Dirty pages are tracked by ${tracking.reason}`)
  try {
    recorded = await recordLoad(machine, tracking, files.log, options, ui, signal)
  } finally {
    await tracking.stop()
    await machine.close()
    if (!options.keep) await rm(disk, { force: true })
  }
  if (!recorded || signal.aborted) {
    ui.say(`Interrupted. The log is whole: ${files.log}`)
    return Exit.interrupted
  }

  await writeFile(files.png, tracking.heat.toPng())
  await writeFile(files.svg, tracking.heat.toSvg())
  await using replay = await Replay.open(files.log, { device: options.kvmDevice })
  const { result, seconds } = await replayWithBar(replay, ui, { signal })
  if (result.stop === 'cancelled') {
    ui.say(`Interrupted while replaying. The log is whole: ${files.log}`)
    return Exit.interrupted
  }
  const report = summary(options, recorded, tracking, result, seconds, files)
  await writeFile(files.report, `${toJson(report)}\n`)
  await writeFile(path.join(folder, 'report.md'), markdown(report, recorded))
  tell(ui, report, recorded, tracking, result)
  ui.result(report)
  return report.lost === 0 && report.surplus === 0 && report.errors === 0 && report.equal ? Exit.ok : Exit.failed
}

/** Serves users for a while and checks what they did, all recorded. Undefined when interrupted. */
async function recordLoad(
  machine: Machine,
  tracking: Tracking,
  log: string,
  options: DemoOptions,
  ui: Ui,
  signal: AbortSignal
): Promise<Recorded | undefined> {
  await using recording = await Recording.start(machine, log)
  // What ends the load before its time: Ctrl-C, a log that cannot be written, a guest that dies.
  const broken = new AbortController()
  recording.onFailure(error => broken.abort(error))
  void watchGuest(machine, broken)
  const early = AbortSignal.any([signal, broken.signal])
  const begun = performance.now()
  let client: MailroomClient | undefined
  try {
    await machine.start()
    client = await connectMailroom(machine, { signal: early })
    // Who waits for an answer is told that none will come.
    broken.signal.addEventListener('abort', () => client?.close())
    const load = new MailLoad(client, { users: options.users, seed: options.seed })
    await load.login()
    ui.say(`The mailroom is up. ${options.users} users for ${options.seconds} s; recording to ${log}`)
    const loadBegun = performance.now()
    const idle = performance.eventLoopUtilization()
    load.start()
    await watch(load, tracking, recording, options.seconds, ui, early)
    const javascriptBusy = performance.eventLoopUtilization(idle).utilization
    await load.stop()
    broken.signal.throwIfAborted()
    const loadSeconds = (performance.now() - loadBegun) / 1000
    if (signal.aborted) {
      await recording.stop()
      return undefined
    }
    const stats = load.stats()
    const verdict = await load.verify()
    const result = await recording.stop()
    return {
      load: stats,
      verdict,
      recording: result,
      loadSeconds,
      recordSeconds: (performance.now() - begun) / 1000,
      javascriptBusy
    }
  } catch (error) {
    broken.signal.throwIfAborted()
    if (!signal.aborted) throw error
    await recording.stop()
    return undefined
  } finally {
    client?.close()
  }
}

/** Aborts when the machine stops by itself. */
async function watchGuest(machine: Machine, broken: AbortController): Promise<void> {
  for await (const event of machine.events())
    if (event.type === 'state' && event.reason !== 'requested' && event.reason !== 'none') {
      const said = machine.console.text.trimEnd().split('\n').at(-1) ?? ''
      broken.abort(
        new CliError(`The mailroom ended by ${event.reason}: ${[said, event.message].filter(Boolean).join('; ')}`)
      )
      return
    }
}

/** The live line, once a second (on a terminal four times), until time is up. */
async function watch(
  load: MailLoad,
  tracking: Tracking,
  recording: Recording,
  seconds: number,
  ui: Ui,
  signal: AbortSignal
): Promise<void> {
  const begun = performance.now()
  const period = ui.tty ? 250 : 1000
  let last = { at: begun, operations: load.operations, pages: tracking.pages, log: recording.stats().bytes }
  for (;;) {
    const left = begun + seconds * 1000 - performance.now()
    if (left <= 0 || !(await sleep(Math.min(period, left), signal))) return
    const now = {
      at: performance.now(),
      operations: load.operations,
      pages: tracking.pages,
      log: recording.stats().bytes
    }
    const per = (now.at - last.at) / 1000
    const { p50, p99 } = load.takeInterval()
    ui.live(
      `${((now.at - begun) / 1000).toFixed(1).padStart(5)} s` +
        `  ${count((now.operations - last.operations) / per).padStart(7)} op/s` +
        `  ${count((now.pages - last.pages) / per).padStart(7)} dirty pages/s` +
        `  ${bytes(Number(now.log - last.log) / per).padStart(9)}/s log` +
        `  p50 ${p50.toFixed(1)} ms  p99 ${p99.toFixed(1)} ms`
    )
    last = now
  }
}

function summary(
  options: DemoOptions,
  recorded: Recorded,
  tracking: Tracking,
  replayed: ReplayResult,
  replaySeconds: number,
  files: Report['files']
): Report {
  const { load, verdict, recording } = recorded
  const digestRecorded = recording.state?.combined ?? null
  const digestReplayed = replayed.state.combined
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
    digestRecorded,
    digestReplayed,
    diverged: replayed.stop !== 'log-end' || !replayed.complete,
    equal: replayed.stop === 'log-end' && replayed.complete && digestRecorded === digestReplayed,
    users: options.users,
    seconds: recorded.loadSeconds,
    recordSeconds: recorded.recordSeconds,
    replaySeconds,
    operationsPerSecond: Math.round(load.operations / recorded.loadSeconds),
    p50,
    p90,
    p99,
    max,
    javascriptBusy: Math.round(recorded.javascriptBusy * 1000) / 1000,
    files
  }
}

function tell(ui: Ui, report: Report, recorded: Recorded, tracking: Tracking, replayed: ReplayResult): void {
  const ratio = report.recordSeconds / report.replaySeconds
  ui.say()
  ui.say(
    `${count(report.operations)} operations (${count(report.operationsPerSecond)}/s), ${count(report.acknowledged)} acknowledged, ` +
      `${count(report.lost)} lost; p50 ${report.p50} ms, p99 ${report.p99} ms`
  )
  for (const problem of recorded.verdict.problems) ui.say(`  ${problem}`)
  ui.say(
    `${count(report.boundaries)} boundaries, ${bytes(Number(report.logBytes))} of log ` +
      `(${bytes(Number(report.inputBytes))} came from outside), ${count(report.dirtyPages)} dirty pages, ` +
      `${count(report.workingSetPages)} different ones`
  )
  ui.say(
    `Replayed in ${report.replaySeconds.toFixed(2)} s what took ${report.recordSeconds.toFixed(2)} s: ${ratio.toFixed(1)}x real time`
  )
  for (const line of divergenceText(replayed)) ui.say(line)
  if (replayed.stop === 'failed') ui.say(replayed.message)
  ui.say(`  recorded ${report.digestRecorded ?? 'no digest: the guest reached no boundary'}`)
  ui.say(`  replayed ${report.digestReplayed ?? '-'}`)
  ui.say(report.equal ? '  The states are equal.' : '  THE STATES DIFFER.')
  ui.say()
  ui.say(picture(tracking.heat, ui))
  ui.say()
  ui.say(`log       ${report.files.log}`)
  ui.say(`heat map  ${report.files.png}, ${report.files.svg}`)
  ui.say(`report    ${report.files.report}, ${path.join(report.files.folder, 'report.md')}`)
}

function markdown(report: Report, recorded: Recorded): string {
  const row = (name: string, value: string | number) => `| ${name} | ${value} |`
  return `# hypertwin demo

${report.users} users, ${report.seconds.toFixed(1)} s of load on one machine, recorded and replayed.

| | |
|---|---|
${[
  row('operations', count(report.operations)),
  row('acknowledged', count(report.acknowledged)),
  row('lost', report.lost),
  row('retransmissions', report.retransmissions),
  row('boundaries', count(report.boundaries)),
  row('log', `${bytes(Number(report.logBytes))}, of which ${bytes(Number(report.inputBytes))} came from outside`),
  row('dirty pages', `${count(report.dirtyPages)} (${count(report.workingSetPages)} different), by ${report.dirtyMode}`),
  row('recorded in', `${report.recordSeconds.toFixed(2)} s`),
  row('replayed in', `${report.replaySeconds.toFixed(2)} s`),
  row('state recorded', `\`${report.digestRecorded ?? '-'}\``),
  row('state replayed', `\`${report.digestReplayed ?? '-'}\``),
  row('equal', report.equal ? 'yes' : '**no**'),
  row('JavaScript thread busy', `${(report.javascriptBusy * 100).toFixed(0)} %`)
].join('\n')}

\`\`\`
${describe(recorded.load, recorded.loadSeconds)}
\`\`\`

![dirty pages over time](heat.svg)
`
}
