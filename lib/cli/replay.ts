// `hypertwin replay`: runs a machine from its log alone.
import { Replay, type ReplayResult } from '../eventlog/index.js'
import { count, Exit, interruption, needLog, Ui, usage } from './common.js'
import { checkKvm } from './kvm.js'

interface ReplayCommandOptions {
  to?: bigint
  json?: boolean
  kvmDevice: string
}

/** Replays at full speed behind a progress bar. */
export async function replayWithBar(
  replay: Replay,
  ui: Ui,
  options: { to?: bigint | undefined; signal: AbortSignal }
): Promise<{ result: ReplayResult; seconds: number }> {
  const first = replay.firstBoundary
  const last = options.to ?? replay.lastBoundary
  const bar = ui.bar('replay', last === undefined ? 0 : Number(last - first))
  const begun = performance.now()
  try {
    const result = await replay.run({
      ...(options.to === undefined ? {} : { to: options.to }),
      signal: options.signal,
      onProgress: ({ boundary }) => bar.update(Number(boundary - first))
    })
    return { result, seconds: (performance.now() - begun) / 1000 }
  } finally {
    bar.stop()
  }
}

/** What a divergence says, in lines. */
export function divergenceText({ divergence }: ReplayResult): string[] {
  if (!divergence) return []
  return [
    `The replay strays from the log at boundary ${divergence.boundary} (${divergence.kind}): ${divergence.message}`,
    ...divergence.suspects.map(
      ({ instruction, address }) => `  a likely cause: ${instruction} at 0x${address.toString(16)}`
    )
  ]
}

export async function replay(folder: string, options: ReplayCommandOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  needLog(folder)
  await checkKvm(options.kvmDevice)
  await using machine = await Replay.open(folder, { device: options.kvmDevice })
  const { firstBoundary, lastBoundary } = machine
  if (options.to !== undefined && (options.to < firstBoundary || (lastBoundary !== undefined && options.to > lastBoundary)))
    throw usage(`Boundary ${options.to} is not in this log: give --to from ${firstBoundary} to ${lastBoundary}`)
  const { result, seconds } = await replayWithBar(machine, ui, { to: options.to, signal })
  const boundaries = result.boundary - firstBoundary
  const diverged = result.stop === 'diverged'
  ui.say(
    `${count(boundaries)} boundaries in ${seconds.toFixed(2)} s, ${count(result.checks)} checks, ` +
      `${count(result.stateChecks)} of the whole state: ${diverged ? 'DIVERGED' : result.stop === 'failed' ? 'FAILED' : 'as recorded'}`
  )
  ui.say(`state ${result.state.combined} at boundary ${result.boundary}`)
  for (const line of divergenceText(result)) ui.say(line)
  if (result.stop === 'failed') ui.say(result.message)
  // What a killed recorder leaves behind is no damage.
  const damage = result.damages.find(({ gap, kind }) => gap && kind !== 'torn-tail')
  if (result.stop === 'log-end' && !result.complete)
    ui.say(
      damage
        ? `The log is damaged, and was replayed up to there: ${damage.text}`
        : 'The log has no end record: its recorder was killed. It was replayed as far as it goes.'
    )
  ui.result({
    directory: folder,
    stop: result.stop,
    complete: result.complete,
    firstBoundary,
    boundary: result.boundary,
    boundaries,
    seconds,
    checks: result.checks,
    stateChecks: result.stateChecks,
    digest: result.state.combined,
    diverged,
    divergence: result.divergence
      ? {
          ...result.divergence,
          rip: `0x${result.divergence.rip.toString(16)}`,
          suspects: result.divergence.suspects.map(({ instruction, address }) => ({
            instruction,
            address: `0x${address.toString(16)}`
          }))
        }
      : null,
    damages: result.damages.map(({ text }) => text),
    message: result.message
  })
  if (result.stop === 'cancelled') return Exit.interrupted
  return diverged || damage || result.stop === 'failed' ? Exit.failed : Exit.ok
}
