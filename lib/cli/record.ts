// `hypertwin record`: runs a guest and writes its event log.
import { Recording } from '../eventlog/index.js'
import { bytes, count, Exit, interruption, note, resolveGuest, Ui } from './common.js'
import { checkKvm } from './kvm.js'
import { createGuest, runGuest, trouble, type GuestOptions } from './guest.js'

interface RecordOptions extends GuestOptions {
  out: string
  seconds?: number
  json?: boolean
}

export async function record(guest: string, options: RecordOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  resolveGuest(guest)
  await checkKvm(options.kvmDevice)
  await using machine = await createGuest(guest, options)
  await using recording = await Recording.start(machine, options.out)
  for (const { instruction, address } of recording.suspects)
    process.stderr.write(
      `hypertwin: the guest may execute ${instruction} at 0x${address.toString(16)}, whose result no log holds\n`
    )
  const begun = performance.now()
  const end = await runGuest(machine, ui, options.seconds, signal)
  const problem = trouble(end)
  // When the log cannot be written this says why.
  const result = await recording.stop()
  const took = (performance.now() - begun) / 1000
  const boundaries = result.lastBoundary - result.firstBoundary
  ui.say(
    `${count(boundaries)} boundaries in ${took.toFixed(1)} s, ${bytes(Number(result.stats.bytes))} of log in ${options.out}`
  )
  if (result.state) ui.say(`state ${result.state.combined}`)
  ui.result({
    directory: options.out,
    state: end.state,
    reason: end.reason,
    seconds: took,
    firstBoundary: result.firstBoundary,
    lastBoundary: result.lastBoundary,
    boundaries,
    records: result.stats.records,
    logBytes: result.stats.bytes,
    inputBytes: result.stats.inputBytes,
    digest: result.state?.combined ?? null,
    suspects: recording.suspects.map(({ instruction, address }) => ({
      instruction,
      address: `0x${address.toString(16)}`
    })),
    interrupted: signal.aborted
  })
  if (problem) {
    note(problem.message)
    return Exit.failed
  }
  return signal.aborted ? Exit.interrupted : Exit.ok
}
