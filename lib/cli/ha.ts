// `hypertwin ha`: what other processes' protections are at, as a page or as lines.
import { once } from 'node:events'
import { servePage, type HaStatus } from '../ha/index.js'
import { look, Watched } from '../ha/watch.js'
import { bytes, CliError, count, Exit, interruption, Ui } from './common.js'

/** A host that runs more than it has processors for answers late. */
const PATIENCE_MS = 15_000

interface ServeOptions {
  listen: string
  watch: string[]
  allowHost?: string[]
  json?: boolean
}

/** Serves the page until it is interrupted. */
export async function serve(options: ServeOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  await using server = await servePage({
    listen: options.listen,
    watch: options.watch,
    allowedHosts: options.allowHost ?? []
  })
  ui.say(`The page is at ${server.url}`)
  ui.result({ url: server.url, watch: options.watch })
  if (!signal.aborted) await once(signal, 'abort')
  return Exit.interrupted
}

/** Says what a status server's protection or standby is at. */
export async function status(address: string, options: { json?: boolean }): Promise<number> {
  const ui = new Ui(options.json === true)
  const url = Watched.check(address)
  let sources: HaStatus[]
  try {
    sources = await look(url, undefined, PATIENCE_MS)
  } catch (error) {
    const { cause, message } = error as Error & { cause?: { code?: string; message?: string } }
    const why = cause?.message || cause?.code || message
    throw new CliError(`No status at ${url.origin}: ${why}`, Exit.failed, cause?.code ?? 'EFAILED')
  }
  for (const one of sources) ui.say(lines(one).join('\n'))
  ui.result({ sources })
  // Of one that does not answer nobody knows.
  return sources.some(({ code }) => code === 'UNREACHABLE') ? Exit.failed : Exit.ok
}

function lines(status: HaStatus): string[] {
  const { name, role, state, code, message, peer, listen, session, stats, failover, machine, sync } = status
  const row = (label: string, value: string): string => `  ${label.padEnd(12)}${value}`
  return [
    `${name}: ${code === 'UNREACHABLE' ? 'unknown' : `${role}, ${state}`}${message === '' ? '' : ` (${message})`}`,
    ...(machine ? [row('machine', `${machine.state} (${machine.reason})`)] : []),
    ...(listen ? [row('listens', listen)] : []),
    ...(peer ? [row(role === 'primary' ? 'backup' : 'primary', peer)] : []),
    ...(session ? [row('session', session)] : []),
    ...(sync ? [row('copying', `round ${sync.round}, ${bytes(sync.bytesSent)} sent, ${bytes(sync.remainingBytes)} left`)] : []),
    ...(stats.logBytes > 0 ? [row('log', `${bytes(stats.logBytes)}, ${count(stats.logRecords)} records`)] : []),
    ...(stats.lagMaxMs > 0
      ? [row('lag', `${stats.lagMs.toFixed(1)} ms (half ${stats.lagP50Ms.toFixed(1)}, 99 % ${stats.lagP99Ms.toFixed(1)})`)]
      : []),
    ...(state === 'protected' && role === 'primary'
      ? [row('outputs', `${count(stats.heldOutputs)} held, ${count(stats.releasedOutputs)} let out`)]
      : []),
    ...(typeof failover?.live === 'number'
      ? [row('failover', `${failover.at}: paused ${failover.live.toFixed(1)} ms (${failover.cause})`)]
      : [])
  ]
}
