// `hypertwin backup`: waits for a primary, follows it, and runs its machine when that must be.
import process from 'node:process'
import { openArbiter } from '../arbiter/index.js'
import { backup as listen, statusServer, type HaEvent, type HaServer, type Standby } from '../ha/index.js'
import { sentence } from '../ha/events.js'
import { backupSettings } from '../ha/options.js'
import type { Machine } from '../machine/index.js'
import { CliError, Exit, interruption, note, toJson, Ui } from './common.js'
import { diskSentence, trouble, type RunEnd } from './guest.js'
import { checkKvm } from './kvm.js'
import { tlsFiles, type TlsFileOptions } from './tls.js'

interface BackupCommandOptions extends TlsFileOptions {
  listen: string
  arbiter: string
  disk?: string[]
  diskFolder?: string[]
  tap?: string[]
  pool?: string[]
  status?: string
  allowHost?: string[]
  name?: string
  silence?: number
  announce: boolean
  json?: boolean
  kvmDevice: string
}

export async function backup(options: BackupCommandOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const arbiter = openArbiter(options.arbiter)
  const tls = tlsFiles(options)
  const wanted = {
    listen: options.listen,
    arbiter,
    ...(tls && { tls }),
    disks: options.disk ?? [],
    diskFolders: options.diskFolder ?? [],
    // "-": a network device that is connected to nothing.
    taps: (options.tap ?? []).map(tap => (tap === '-' ? null : tap)),
    ...(options.pool && { pool: options.pool }),
    ...(options.silence !== undefined && { heartbeat: { minTimeoutMs: options.silence } }),
    announce: options.announce,
    device: options.kvmDevice,
    ...(options.name !== undefined && { name: options.name })
  }
  backupSettings(wanted)
  await checkKvm(options.kvmDevice)
  const standby = await listen(wanted)
  let server: HaServer | undefined
  try {
    if (options.status !== undefined)
      server = await statusServer(standby, { listen: options.status, allowedHosts: options.allowHost ?? [] })
    say(ui, { type: 'listening', listen: standby.listen, status: server?.url ?? null }, `Waiting for a primary on ${standby.listen}`)
    if (server) ui.say(`Status on ${server.url}`)
    const told = tell(standby, ui)
    const end = await serve(standby, ui, signal)
    await standby.close()
    await told
    if (!end) return Exit.interrupted
    say(ui, { type: 'ended', state: end.state, reason: end.reason, message: end.message }, ending(end))
    const problem = trouble(end) ?? (end.reason === 'fenced' ? new CliError(ending(end)) : undefined)
    if (problem) note(problem.message)
    return problem ? Exit.failed : signal.aborted && end.reason === 'requested' ? Exit.interrupted : Exit.ok
  } finally {
    await standby.close()
    await standby.machine?.close()
    await server?.close()
    await arbiter.close?.()
  }
}

function ending(end: RunEnd): string {
  return `The machine is ${end.state} (${end.reason})${end.message === '' ? '' : `: ${end.message}`}`
}

/** A line for people, an object a line for programs. */
function say(ui: Ui, object: object, text: string): void {
  ui.say(text)
  if (ui.json) process.stdout.write(`${toJson({ at: new Date(), ...object })}\n`)
}

async function tell(standby: Standby, ui: Ui): Promise<void> {
  const events: AsyncIterable<HaEvent> = standby.events()
  let first = true
  for await (const event of events) {
    // The present state is what the command has just said.
    if (first || event.type === 'step') {
      first = false
      continue
    }
    const text = sentence(event)
    if (text !== undefined) ui.say(`${event.time.toISOString().slice(11, 23)} ${text}`)
    if (ui.json) process.stdout.write(`${toJson(event)}\n`)
  }
}

/** Follows, and runs the machine once it is live, until it ends; undefined when interrupted before. */
async function serve(standby: Standby, ui: Ui, signal: AbortSignal): Promise<RunEnd | undefined> {
  const interrupted = new Promise<undefined>(resolve => {
    if (signal.aborted) resolve(undefined)
    signal.addEventListener('abort', () => resolve(undefined), { once: true })
  })
  const machine = await Promise.race([standby.live, interrupted])
  if (!machine) return undefined
  const ended = run(machine, ui)
  const end = await Promise.race([ended, interrupted])
  if (end) return end
  // Whoever stops a host that runs the machine wants it to go on where it can.
  const { protection } = standby
  if (protection?.state === 'protected') {
    ui.say('Handing the machine over to its backup')
    await protection.handOver()
  } else await machine.stop()
  return ended
}

async function run(machine: Machine, ui: Ui): Promise<RunEnd> {
  for await (const event of machine.events()) {
    const disk = diskSentence(event)
    if (disk !== undefined) process.stderr.write(`${disk}\n`)
    if (event.type === 'console' && !ui.json) ui.stream.write(event.text)
    if (event.type === 'state' && ['stopped', 'failed'].includes(event.state)) return event
  }
  return { state: machine.state, reason: machine.reason, message: machine.message }
}
