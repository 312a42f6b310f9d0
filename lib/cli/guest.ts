// The machine that the record and dirty commands run a guest in.
import { Machine, type MachineEvent } from '../machine/index.js'
import { CliError, printable, resolveGuest, type Ui } from './common.js'

/** The options that these commands share. */
export interface GuestOptions {
  memory: string | number
  append: string
  initrd?: string
  disk?: string[]
  net?: boolean
  tap?: string[]
  kvmDevice: string
}

/** A machine as the command line says. */
export function createGuest(guest: string, options: GuestOptions, dirtyRing = false): Promise<Machine> {
  return Machine.create({
    kernel: resolveGuest(guest),
    memory: options.memory,
    commandLine: options.append,
    ...(options.initrd === undefined ? {} : { initrd: options.initrd }),
    disks: (options.disk ?? []).map(path => ({ path })),
    nets: [
      ...(options.net ? [{}] : []),
      ...(options.tap ?? []).map(tap => ({ backend: { tap } as const }))
    ],
    dirtyRing,
    device: options.kvmDevice
  })
}

/** Why a guest's run ended. */
export interface RunEnd {
  /** The machine's state, or `'running'` when time was up or the user interrupted. */
  state: string
  reason: string
  message: string
}

/**
 * Starts the machine, shows its console, and waits until it ends, time is up, or the signal is aborted.
 */
export async function runGuest(
  machine: Machine,
  ui: Ui,
  seconds: number | undefined,
  signal: AbortSignal
): Promise<RunEnd> {
  const over = new AbortController()
  const stop = AbortSignal.any([signal, over.signal])
  const timer = seconds === undefined ? undefined : setTimeout(() => over.abort(), seconds * 1000)
  const events = machine.events({ signal: stop })
  await machine.start()
  try {
    for await (const event of events) {
      const end = show(event, ui)
      if (end) return end
    }
  } catch (error) {
    if (!stop.aborted) throw error
  } finally {
    clearTimeout(timer)
  }
  return { state: machine.state, reason: machine.reason, message: machine.message }
}

function show(event: MachineEvent, ui: Ui): RunEnd | undefined {
  if (event.type === 'console' && !ui.json) ui.stream.write(event.text)
  if (event.type === 'state' && ['paused', 'stopped', 'failed'].includes(event.state)) return event
  return undefined
}

/** What to say when a guest ended otherwise than by its own wish; undefined when it did not. */
export function trouble(end: RunEnd): CliError | undefined {
  if (end.state === 'failed' || ['halted', 'triple-fault', 'error', 'capture-failed'].includes(end.reason))
    return new CliError(`The guest ended by ${end.reason}${end.message === '' ? '' : `: ${end.message}`}`)
  return undefined
}

/** Why a guest may wait: what became of a disk's server; undefined for all other events. */
export function diskSentence(event: MachineEvent): string | undefined {
  return event.type === 'disk' ? printable(`hypertwin: disk ${event.disk}, ${event.link}: ${event.message}`) : undefined
}
