// `hypertwin migrate`: runs a guest and moves it to another process. `hypertwin receive`: the other process.
import { writeFileSync } from 'node:fs'
import process from 'node:process'
import { openArbiter } from '../arbiter/index.js'
import { listen, migrate as move, type Migration, type MigrationProgress } from '../migrate/index.js'
import { addressOf } from '../migrate/options.js'
import type { Machine } from '../machine/index.js'
import { bytes, CliError, count, Exit, interruption, note, resolveGuest, toJson, Ui } from './common.js'
import { createGuest, diskSentence, runGuest, trouble, type GuestOptions } from './guest.js'
import { checkKvm } from './kvm.js'
import { roundsSvg, roundsTable } from './rounds.js'
import { tlsFiles, type TlsFileOptions } from './tls.js'

interface MigrateCommandOptions extends GuestOptions, TlsFileOptions {
  to: string
  after: number
  arbiter?: string
  copyDisks?: boolean
  bandwidth?: string | number
  maxBlackout: number
  mustConverge?: boolean
  svg?: string
  json?: boolean
}

export async function migrate(guest: string, options: MigrateCommandOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  resolveGuest(guest)
  addressOf(options.to)
  const tls = tlsFiles(options)
  const arbiter = options.arbiter === undefined ? undefined : openArbiter(options.arbiter)
  await checkKvm(options.kvmDevice)
  try {
    await using machine = await createGuest(guest, options)
    const end = await runGuest(machine, ui, options.after, signal)
    if (signal.aborted) return Exit.interrupted
    if (end.state !== 'running') throw new CliError(`The guest ended (${end.reason}) before it could be moved`)
    const migration = move(machine, options.to, {
      ...(tls && { tls }),
      ...(arbiter && { arbiter }),
      ...(options.bandwidth === undefined ? {} : { bandwidth: options.bandwidth }),
      disks: options.copyDisks ? 'copy' : 'shared',
      maxBlackoutMs: options.maxBlackout,
      mustConverge: options.mustConverge === true,
      signal
    })
    await showProgress(migration, ui)
    const result = await migration.done
    ui.say(roundsTable(result))
    if (options.svg !== undefined) writeFileSync(options.svg, roundsSvg(result))
    ui.result(result)
    return Exit.ok
  } catch (error) {
    if (signal.aborted && error === signal.reason) return Exit.interrupted
    throw error
  } finally {
    await arbiter?.close?.()
  }
}

/** A bar over the first round and then over each following one, until the migration ends. */
export async function showProgress(migration: Migration, ui: Ui): Promise<void> {
  let bar: ReturnType<Ui['bar']> | undefined
  let before: MigrationProgress | undefined
  let total = 1
  for await (const now of migration) {
    if (now.phase !== 'memory') continue
    if (now.round !== before?.round) {
      bar?.stop()
      total = Math.max(1, now.remainingPages)
      bar = ui.bar(`round ${now.round}`, total)
    }
    bar?.update(total - now.remainingPages)
    before = now
  }
  bar?.stop()
}

interface ReceiveCommandOptions extends TlsFileOptions {
  listen: string
  disk?: string[]
  diskFolder?: string[]
  tap?: string[]
  arbiter?: string
  once?: boolean
  json?: boolean
  kvmDevice: string
}

export async function receive(options: ReceiveCommandOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const tls = tlsFiles(options)
  const arbiter = options.arbiter === undefined ? undefined : openArbiter(options.arbiter)
  await checkKvm(options.kvmDevice)
  const say = (object: object, text: string): void => {
    ui.say(text)
    if (ui.json) process.stdout.write(`${toJson({ at: new Date(), ...object })}\n`)
  }
  const listener = await listen(options.listen, {
    ...(tls && { tls }),
    ...(arbiter && { arbiter }),
    disks: options.disk ?? [],
    diskFolders: options.diskFolder ?? [],
    taps: (options.tap ?? []).map(tap => (tap === '-' ? 'queue' : tap)),
    device: options.kvmDevice,
    onRefused: reason => say({ type: 'refused', reason }, `Turned away: ${reason}`)
  })
  try {
    say({ type: 'listening', address: listener.address }, `Waiting for a machine on ${listener.address}`)
    for (;;) {
      const incoming = await listener.accept({ signal })
      let machine: Machine
      try {
        const received = await incoming.done
        machine = received.machine
        say(
          { type: 'received', peer: incoming.peer, session: received.session, digest: received.digest.combined, state: machine.state },
          `A machine came from ${incoming.peer}: ${count(received.progress.pages)} pages, ${bytes(received.progress.bytes)}`
        )
      } catch (error) {
        if (signal.aborted) return Exit.interrupted
        const { code, message } = error as Error & { code?: string }
        say({ type: 'failed', peer: incoming.peer, code: code ?? null, message }, `Nothing came from ${incoming.peer}: ${message}`)
        if (options.once) return Exit.failed
        continue
      }
      await using here = machine
      if (signal.aborted) process.stderr.write('hypertwin: the arbiter gave the machine to this side all the same; Ctrl-C again ends it\n')
      const end = await watch(here, ui, signal.aborted ? new AbortController().signal : signal)
      say({ type: 'ended', ...end }, `The machine is ${end.state} (${end.reason})${end.message === '' ? '' : `: ${end.message}`}`)
      const problem = trouble(end)
      if (problem) note(problem.message)
      if (problem) return Exit.failed
      return signal.aborted ? Exit.interrupted : Exit.ok
    }
  } catch (error) {
    if (signal.aborted && error === signal.reason) return Exit.interrupted
    throw error
  } finally {
    await listener.close()
    await arbiter?.close?.()
  }
}

/** Shows the console until the machine ends or the user interrupts. */
async function watch(
  machine: Machine,
  ui: Ui,
  signal: AbortSignal
): Promise<{ state: string; reason: string; message: string }> {
  try {
    for await (const event of machine.events({ signal })) {
      const disk = diskSentence(event)
      if (disk !== undefined) process.stderr.write(`${disk}\n`)
      if (event.type === 'console' && !ui.json) ui.stream.write(event.text)
      if (event.type === 'state' && ['stopped', 'failed'].includes(event.state)) break
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
  const { state, reason, message } = machine
  return { state, reason, message }
}
