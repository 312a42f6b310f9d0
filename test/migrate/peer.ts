// Another process as one end of a migration: it does what it is told, says how it went, and keeps the machine.
import process from 'node:process'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine } from '../../lib/machine/index.js'
import { listen, migrate, type MigrateError } from '../../lib/migrate/index.js'
import type { PeerOptions, Said } from './support.js'

const say = (said: Said): void => void process.send?.(said)

if (process.send && process.argv[2]?.startsWith('{')) {
  const options = JSON.parse(process.argv[2]) as PeerOptions
  const arbiter = options.arbiter === undefined ? {} : { arbiter: new FileArbiter(options.arbiter) }
  const onStep = (step: string): void => {
    if (step === options.killAt) process.kill(process.pid, 'SIGKILL')
    say({ type: 'step', step })
  }
  let machine: Machine | undefined
  process.on('message', () => {
    const { state = 'none', reason = 'none', boundary = 0n } = machine ?? {}
    say({ type: 'status', state, reason, boundary: String(boundary) })
  })
  process.on('disconnect', () => process.exit())
  const failed = (error: MigrateError): void =>
    say({
      type: 'failed',
      code: error.code,
      message: error.message,
      state: machine?.state ?? 'none',
      reason: machine?.reason ?? 'none'
    })
  if (options.role === 'destination') {
    const listener = await listen(options.address, { ...options.receive, ...arbiter, onStep })
    say({ type: 'ready', address: listener.address })
    for await (const incoming of listener)
      try {
        const received = await incoming.done
        machine = received.machine
        say({ type: 'done', session: received.session, digest: received.digest.combined, state: machine.state })
      } catch (error) {
        failed(error as MigrateError)
      }
  } else {
    machine = await Machine.create({
      kernel: guestPath(options.guest ?? 'hello'),
      memory: '16MiB',
      commandLine: options.commandLine ?? 'ticks=1000000'
    })
    await machine.start()
    say({ type: 'ready', address: '' })
    const migration = migrate(machine, options.address, { ...options.migrate, ...arbiter, onStep })
    try {
      const result = await migration.done
      say({ type: 'done', session: result.session, digest: result.digest.combined, state: machine.state })
    } catch (error) {
      failed(error as MigrateError)
    }
    setInterval(() => machine?.state, 1000)
  }
}
