// A process that is a host: it boots the mailroom.
import process from 'node:process'
import { createMailroom } from '../mailroom/boot.js'
import { HubPlug } from './hub.js'
import { dieWithParent, tell, type HostConfig, type HostReport } from './messages.js'

function report(message: HostReport): void {
  tell(message)
}

async function boot(config: HostConfig): Promise<void> {
  const { wire } = config
  const machine = await createMailroom({
    disk: config.disk,
    memory: config.memory,
    device: config.device,
    ...(wire.kind === 'tap' ? { tap: wire.tap } : {})
  })
  if (wire.kind === 'hub') (await HubPlug.connect(wire.socket)).plugIn(machine.net(0))
  await machine.start()
  report({ is: 'up' })
}

function failed(error: unknown): void {
  report({ is: 'failed', message: error instanceof Error ? error.message : String(error) })
}

dieWithParent()
const config = JSON.parse(process.argv[2] ?? '{}') as HostConfig
process.title = `hypertwin demo: host ${config.host}`
boot(config).catch(failed)
