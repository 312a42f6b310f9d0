// The demo's first act: the mailroom serves its users through an in-process packet queue while its dirty pages are
// tracked and its event log is captured; then a second machine replays the log to the identical state.
import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { DirtyMode } from '../../dirty/index.js'
import { Recording, Replay, type RecordingResult, type ReplayResult } from '../../eventlog/index.js'
import type { Machine } from '../../machine/index.js'
import { bytes, CliError, count, sleep, type Ui } from '../common.js'
import { connectMailroom, createMailroom } from '../mailroom/boot.js'
import type { MailroomClient } from '../mailroom/client.js'
import { MailLoad, type LoadStats, type Verdict } from '../mailroom/load.js'
import { divergenceText, replayWithBar } from '../replay.js'
import { picture, Tracking } from '../tracking.js'

/** What the act is made with. */
export interface RecordedOptions {
  users: number
  /** How long the load lasts. */
  seconds: number
  memory: string | number
  seed: number
  mode: DirtyMode | 'auto'
  keep?: boolean
  kvmDevice: string
}

/** Where it puts what it finds. */
export interface RecordedFiles {
  log: string
  png: string
  svg: string
}

/** What a recorded load gave. */
interface RecordedLoad {
  load: LoadStats
  verdict: Verdict
  recording: RecordingResult
  loadSeconds: number
  recordSeconds: number
  javascriptBusy: number
}

/** What the act gave. */
export interface RecordedAct extends RecordedLoad {
  tracking: Tracking
  replayed: ReplayResult
  replaySeconds: number
}

/** Plays the act. Undefined when interrupted; the log is then whole. */
export async function recordAndReplay(
  options: RecordedOptions,
  files: RecordedFiles,
  ui: Ui,
  signal: AbortSignal
): Promise<RecordedAct | undefined> {
  const disk = path.join(path.dirname(files.log), 'mail.img')
  const machine = await createMailroom({
    disk,
    memory: options.memory,
    device: options.kvmDevice,
    dirtyRing: options.mode === 'ring'
  })
  let recorded: RecordedLoad | undefined
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
    return undefined
  }
  await writeFile(files.png, tracking.heat.toPng())
  await writeFile(files.svg, tracking.heat.toSvg())
  await using replay = await Replay.open(files.log, { device: options.kvmDevice })
  const { result: replayed, seconds: replaySeconds } = await replayWithBar(replay, ui, { signal })
  if (replayed.stop === 'cancelled') {
    ui.say(`Interrupted while replaying. The log is whole: ${files.log}`)
    return undefined
  }
  return { ...recorded, tracking, replayed, replaySeconds }
}

/** True when the replay reached the state that was recorded. */
export function statesEqual({ recording, replayed }: RecordedAct): boolean {
  return replayed.stop === 'log-end' && replayed.complete && recording.state?.combined === replayed.state.combined
}

/** What a person wants to know of it. */
export function tellRecorded(ui: Ui, act: RecordedAct): void {
  const { load, verdict, recording, tracking, replayed, recordSeconds, replaySeconds } = act
  ui.say(
    `${count(load.operations)} operations (${count(load.operations / act.loadSeconds)}/s), ${count(load.acknowledged)} acknowledged, ` +
      `${count(verdict.lost)} lost; p50 ${load.latency.all.p50} ms, p99 ${load.latency.all.p99} ms`
  )
  for (const problem of verdict.problems) ui.say(`  ${problem}`)
  ui.say(
    `${count(recording.lastBoundary - recording.firstBoundary)} boundaries, ${bytes(Number(recording.stats.bytes))} of log ` +
      `(${bytes(Number(recording.stats.inputBytes))} came from outside), ${count(tracking.pages)} dirty pages, ` +
      `${count(tracking.uniquePages)} different ones`
  )
  ui.say(
    `Replayed in ${replaySeconds.toFixed(2)} s what took ${recordSeconds.toFixed(2)} s: ${(recordSeconds / replaySeconds).toFixed(1)}x real time`
  )
  for (const line of divergenceText(replayed)) ui.say(line)
  if (replayed.stop === 'failed') ui.say(replayed.message)
  ui.say(`  recorded ${recording.state?.combined ?? 'no digest: the guest reached no boundary'}`)
  ui.say(`  replayed ${replayed.state.combined}`)
  ui.say(statesEqual(act) ? '  The states are equal.' : '  THE STATES DIFFER.')
  ui.say()
  ui.picture(picture(tracking.heat, ui), true)
}

/** Serves users for a while and checks what they did, all recorded. Undefined when interrupted. */
async function recordLoad(
  machine: Machine,
  tracking: Tracking,
  log: string,
  options: RecordedOptions,
  ui: Ui,
  signal: AbortSignal
): Promise<RecordedLoad | undefined> {
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

