// A process that is a host: it boots the mailroom and has it protected, or it is somebody's backup, and has the
// mailroom protected in its turn once that runs here.
import process from 'node:process'
import { openArbiter } from '../../arbiter/index.js'
import { backup, protect, type HaSource, type Protection } from '../../ha/index.js'
import type { Machine } from '../../machine/index.js'
import { createMailroom } from '../mailroom/boot.js'
import { HubPlug } from './hub.js'
import { clock, dieWithParent, REPORT_MS, tell, type HostConfig, type HostOrder, type HostReport } from './messages.js'

function report(message: HostReport): void {
  tell(message)
}

function failed(error: unknown): void {
  report({ is: 'failed', message: error instanceof Error ? error.message : String(error) })
}

/** Tells of what happens, until there is nothing to tell any more. */
async function watch(source: HaSource, status: boolean, begun: number): Promise<void> {
  let syncing = begun
  const show = () => report({ is: 'status', status: source.status() })
  if (status) setInterval(show, REPORT_MS)
  for await (const event of source.events()) {
    if (event.type === 'failover' && event.timeline.live !== undefined) {
      const { detected, claimed, replayed, live, boundary, cause } = event.timeline
      const moments = { detected: detected ?? live, claimed: claimed ?? live, replayed: replayed ?? live, live, boundary, cause }
      report({ is: 'live', moments })
    }
    if (event.type === 'attempt') syncing = event.at
    if (event.type !== 'state') continue
    if (status) show()
    const { at, state, code, message, role, peer } = event
    if (state === 'protected' && role === 'primary') report({ is: 'protected', at, by: peer, syncMs: at - syncing })
    else report({ is: 'state', at, state, code, message })
  }
}

/** Tells of the channel's figures while the machine runs here and is protected. */
function measure(protection: () => Protection | undefined): void {
  setInterval(() => {
    const now = protection()
    if (now?.state !== 'protected') return
    const { lagMs, logBytes, heldOutputs } = now.stats()
    report({ is: 'channel', lagMs, logBytes: Number(logBytes), held: Number(heldOutputs) })
  }, REPORT_MS)
}

async function digest(machine: Machine): Promise<void> {
  const { boundary, combined } = await machine.stateDigest()
  report({ is: 'digest', boundary, combined })
}

/** Obeys. */
function obey(machine: Machine, protection: () => Protection | undefined): void {
  const orders: Record<HostOrder['do'], () => Promise<void>> = {
    async handOver() {
      await protection()?.handOver()
      await digest(machine)
    }
  }
  process.on('message', (order: HostOrder) => void orders[order.do]().catch(failed))
}

function heartbeat({ silence }: HostConfig): { heartbeat?: { minTimeoutMs: number } } {
  return silence === undefined ? {} : { heartbeat: { minTimeoutMs: silence } }
}

async function bePrimary(config: HostConfig): Promise<void> {
  const { wire, host, pool } = config
  const machine = await createMailroom({
    disk: config.disk,
    memory: config.memory,
    device: config.device,
    ...(wire.kind === 'tap' ? { tap: wire.tap } : {})
  })
  if (wire.kind === 'hub') (await HubPlug.connect(wire.socket)).plugIn(machine.net(0))
  await machine.start()
  report({ is: 'up' })
  const begun = clock()
  const protection = await protect(machine, { backup: pool, arbiter: openArbiter(config.arbiter), name: `host ${host}`, ...heartbeat(config) })
  void watch(protection, config.status, begun)
  measure(() => protection)
  obey(machine, () => protection)
}

async function beBackup(config: HostConfig, listen: string): Promise<void> {
  const { wire, host, pool } = config
  const plug = wire.kind === 'hub' ? await HubPlug.connect(wire.socket) : undefined
  const standby = await backup({
    listen,
    arbiter: openArbiter(config.arbiter),
    disks: [config.disk],
    taps: [wire.kind === 'tap' ? wire.tap : null],
    device: config.device,
    name: `host ${host}`,
    ...heartbeat(config),
    ...(pool.length > 0 ? { pool } : {})
  })
  report({ is: 'listening' })
  void watch(standby, config.status, clock())
  const machine = await standby.live
  plug?.plugIn(machine.net(0))
  measure(() => standby.protection)
  obey(machine, () => standby.protection)
  if (standby.timeline()?.cause === 'HAND_OVER') {
    // The users rest, so it has not moved since.
    await machine.pause()
    await digest(machine)
    await machine.resume()
  }
}

dieWithParent()
const config = JSON.parse(process.argv[2] ?? '{}') as HostConfig
process.title = `hypertwin demo: host ${config.host}`
;(config.listen === undefined ? bePrimary(config) : beBackup(config, config.listen)).catch(failed)
