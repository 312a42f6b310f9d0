// Another process that holds a primary, to be killed.
import process from 'node:process'
import { FileArbiter } from '../../lib/arbiter/index.js'
import { HubPlug } from '../../lib/cli/demo/hub.js'
import { createMailroom } from '../../lib/cli/mailroom/boot.js'
import { protect, statusServer } from '../../lib/ha/index.js'
import { guestPath } from '../../lib/index.js'
import { Machine } from '../../lib/machine/index.js'
import { endless, patient, type HolderOptions, type Said } from './support.js'

const say = (said: Said): void => void process.send?.(said)

async function hold(options: HolderOptions): Promise<void> {
  const { mailroom } = options
  const machine = mailroom
    ? await createMailroom({ disk: mailroom.disk, memory: '16MiB', diskSize: 8 << 20 })
    : await Machine.create({ kernel: guestPath('hello'), memory: '8MiB', commandLine: endless })
  if (mailroom) (await HubPlug.connect(mailroom.hub)).plugIn(machine.net(0))
  await machine.start()
  const protection = await protect(machine, {
    backup: options.backup,
    arbiter: new FileArbiter(options.claims),
    heartbeat: patient,
    wait: true,
    name: 'holder',
    ...options.options
  })
  const server = options.status ? await statusServer(protection) : undefined
  say({ type: 'ready', status: server?.url ?? '' })
  void (async () => {
    for await (const event of machine.events())
      if (event.type === 'state') say({ type: 'machine', state: event.state, reason: event.reason })
  })()
  for await (const event of protection.events()) say({ type: 'event', event })
  await server?.close()
}

if (process.send && process.argv[2]?.startsWith('{')) {
  process.on('disconnect', () => process.exit())
  hold(JSON.parse(process.argv[2]) as HolderOptions).catch((error: Error) =>
    say({ type: 'failed', message: error.stack ?? error.message })
  )
  setInterval(() => undefined, 1e6)
}
