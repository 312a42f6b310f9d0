// `hypertwin host`: the domains of a libvirt host: listed, watched, moved to another one, their dirty rates.
import process from 'node:process'
import {
  Connect,
  ConnectListAllDomainsFlags,
  DomainEventType,
  DomainState,
  migrate as move,
  watchEvents,
  type Domain,
  type DomainDirtyRateMode,
  type DomainMigration
} from '../libvirt/index.js'
import { bytes, count, Exit, interruption, nameOf, sleep, toJson, Ui, usage } from './common.js'
import { roundsTable } from './rounds.js'

interface HostOptions {
  connect?: string
  json?: boolean
}

const nameIn = (values: Record<string, number>, value: number): string =>
  (Object.entries(values).find(([, one]) => one === value)?.[0] ?? `${value}`).toLowerCase()

export const stateName = (state: number): string => nameIn(DomainState, state)

/** By its name, its UUID, or the number of one that runs. */
export async function findDomain(connect: Connect, which: string): Promise<Domain> {
  try {
    return await connect.domainLookupByName(which)
  } catch (error) {
    if (/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(which)) return connect.domainLookupByUUIDString(which)
    if (/^\d{1,9}$/.test(which)) return connect.domainLookupByID(Number(which))
    throw error
  }
}

/** Columns as wide as what is in them; those of numbers to the right. */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const cells = rows.map(row => row.map(String))
  const widths = (cells[0] ?? []).map((_, i) => Math.max(...cells.map(row => row[i]?.length ?? 0)))
  const isNumber = widths.map((_, i) => cells.slice(1).every(row => /^[-\d]/.test(row[i] ?? '')))
  const line = (row: string[]): string =>
    row.map((cell, i) => (isNumber[i] && cells.length > 1 ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))).join('  ')
  return cells.map(row => line(row).trimEnd()).join('\n')
}

export async function list(options: HostOptions & { all?: boolean }): Promise<number> {
  const ui = new Ui(options.json === true)
  const connect = await Connect.open(options.connect, { readOnly: true })
  try {
    const flags = ConnectListAllDomainsFlags.ACTIVE | (options.all ? ConnectListAllDomainsFlags.INACTIVE : 0)
    const domains = []
    for (const domain of await connect.listAllDomains(flags)) {
      const [name, uuid, id, info] = await Promise.all([
        domain.getName(),
        domain.getUUIDString(),
        domain.getID(),
        domain.getInfo()
      ])
      await domain.close()
      domains.push({ id: id ?? null, name, uuid, state: stateName(info.state), vcpus: info.nrVirtCpu, memory: info.memory * 1024n })
    }
    const rows = domains.map(({ id, name, state, vcpus, memory, uuid }) => [id ?? '-', name, state, vcpus, bytes(Number(memory)), uuid])
    ui.say(table([['id', 'name', 'state', 'vcpus', 'memory', 'uuid'], ...rows]))
    ui.result({ host: await connect.getHostname(), domains })
    return Exit.ok
  } finally {
    await connect.close()
  }
}

/** What happens to the domains, a line each, until Ctrl-C. */
export async function watch(options: HostOptions): Promise<number> {
  const signal = interruption()
  const tell = (event: { kind: string; domain?: string; detail?: string }): void => {
    const at = new Date()
    if (options.json) process.stdout.write(`${toJson({ at, ...event })}\n`)
    else {
      const words = [at.toISOString().slice(11, 23), event.kind, event.domain, event.detail].filter(word => word !== undefined)
      process.stdout.write(`${nameOf(words.join('  '))}\n`)
    }
  }
  const open = (): Promise<Connect> => Connect.open(options.connect, { readOnly: true })
  const kinds = ['domain.lifecycle', 'domain.reboot', 'domain.jobCompleted', 'domain.blockJob2', 'domain.agentLifecycle', 'domain.ioError'] as const
  try {
    for await (const event of watchEvents(open, kinds, { signal })) {
      if (event.kind === 'open') tell({ kind: 'open', detail: await event.connect.getURI() })
      else if (event.kind === 'gap') tell({ kind: 'gap', detail: `${((event.until - event.since) / 1000).toFixed(1)} s are not known` })
      else if (event.kind === 'dropped') tell({ kind: 'dropped', detail: `${event.count} events` })
      else {
        const domain = await event.domain.getName()
        await event.domain.close()
        const detail = event.kind === 'domain.lifecycle' ? { detail: nameIn(DomainEventType, event.args.event) } : {}
        tell({ kind: event.kind.slice('domain.'.length), domain, ...detail })
      }
    }
  } catch (error) {
    if (signal.aborted) return Exit.interrupted
    throw error
  }
  return Exit.ok
}

export interface HostMigrateOptions extends HostOptions {
  peer?: boolean
  tunnelled?: boolean
  migrateUri?: string
  bandwidth?: string | number
  maxBlackout?: number
  parallel?: number
  autoConverge?: boolean
  postCopyAfter?: number
  copyDisks?: boolean
  persist?: boolean
  undefineSource?: boolean
  unsafe?: boolean
}

export async function migrate(which: string, destination: string, options: HostMigrateOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  if (options.tunnelled && !options.peer) throw usage('--tunnelled needs --peer: the two libvirts connect to each other')
  const opened: Connect[] = []
  const open = async (uri: string | undefined): Promise<Connect> => {
    const connect = await Connect.open(uri)
    opened.push(connect)
    // A driver within this process has no connection to keep alive.
    await connect.setKeepAlive(5, 5).catch(() => undefined)
    return connect
  }
  try {
    const domain = await findDomain(await open(options.connect), which)
    const to = options.peer ? destination : await open(destination)
    const migration = move(domain, to, {
      signal,
      ...(options.tunnelled && { tunnelled: true }),
      ...(options.migrateUri !== undefined && { migrateUri: options.migrateUri }),
      ...(options.bandwidth !== undefined && { bandwidth: options.bandwidth }),
      ...(options.maxBlackout !== undefined && { maxBlackoutMs: options.maxBlackout }),
      ...(options.parallel !== undefined && { parallel: options.parallel }),
      ...(options.autoConverge && { autoConverge: true }),
      ...(options.postCopyAfter !== undefined && { postCopy: { afterRounds: options.postCopyAfter } }),
      ...(options.copyDisks && { disks: 'copy' as const }),
      ...(options.persist && { persist: true }),
      ...(options.undefineSource && { undefineSource: true }),
      ...(options.unsafe && { unsafe: true })
    })
    await showDomainMigration(migration, ui)
    const result = await migration.done
    ui.say(roundsTable(result))
    if (result.postCopy) ui.say('Its memory followed it (post-copy).')
    const { blackoutMs, totalMs, postCopy, rounds } = result
    ui.result({ domain: which, destination, blackoutMs: blackoutMs ?? null, totalMs, postCopy, rounds })
    return Exit.ok
  } catch (error) {
    if (signal.aborted && error === signal.reason) return Exit.interrupted
    throw error
  } finally {
    await Promise.all(opened.map(connect => connect.close()))
  }
}

/** A bar over each round; elsewhere than on a terminal a line a second. */
export async function showDomainMigration(migration: DomainMigration, ui: Ui): Promise<void> {
  let bar: ReturnType<Ui['bar']> | undefined
  let round = 0
  let total = 1
  let said = 0
  for await (const now of migration) {
    if (now.phase === 'connect' || now.phase === 'done') continue
    if (now.round !== round || !bar) {
      bar?.stop()
      round = now.round
      total = Math.max(1, now.remainingPages)
      bar = ui.bar(now.phase === 'memory' ? `round ${round}` : now.phase, total)
    }
    bar.update(total - now.remainingPages)
    if (ui.tty || now.elapsedMs < said + 1000) continue
    said = now.elapsedMs
    ui.say(
      `${now.phase} ${now.round}: ${bytes(now.remainingBytes)} left, ${bytes(now.bytesPerSecond)}/s, ` +
        `the guest writes ${count(now.dirtyPagesPerSecond)} pages/s`
    )
  }
  bar?.stop()
}

/** The dirty rates of domains, again and again. */
export async function dirty(
  names: string[],
  options: HostOptions & { mode: DomainDirtyRateMode; seconds: number; count?: number }
): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  const connect = await Connect.open(options.connect)
  const all: { time: string; domains: Record<string, number | null> }[] = []
  /** Domains that were shown last. */
  let before = -1
  try {
    for (let number = 0; options.count === undefined || number < options.count; number++) {
      const next = performance.now() + 1000 * options.seconds
      const rates = await dirtyRates(connect, names, options.mode, options.seconds, signal)
      const rows = rates.map(({ name, rate, why }) => [name, rate === undefined ? (why ?? '-') : `${bytes(rate)}/s`])
      if (rows.length > 0) ui.picture(table([['domain', 'written'], ...rows]), rows.length !== before)
      else if (before !== 0) ui.say('No domain runs.')
      before = rows.length
      if (options.count !== undefined)
        all.push({ time: new Date().toISOString(), domains: Object.fromEntries(rates.map(({ name, rate }) => [name, rate ?? null])) })
      // What cannot be measured takes no time.
      if (number + 1 !== options.count && !(await sleep(Math.max(0, next - performance.now()), signal))) throw signal.reason
    }
    ui.result({ mode: options.mode, seconds: options.seconds, samples: all })
    return Exit.ok
  } catch (error) {
    if (signal.aborted) return Exit.interrupted
    throw error
  } finally {
    await connect.close()
  }
}

/** Bytes a second, the busiest first; undefined, and why, where the hypervisor cannot say. */
export async function dirtyRates(
  connect: Connect,
  names: readonly string[],
  mode: DomainDirtyRateMode,
  seconds: number,
  signal: AbortSignal
): Promise<{ name: string; rate: number | undefined; why?: string }[]> {
  const domains =
    names.length > 0
      ? await Promise.all(names.map(name => findDomain(connect, name)))
      : await connect.listAllDomains(ConnectListAllDomainsFlags.RUNNING)
  const rates = await Promise.all(
    domains.map(async domain => {
      const name = await domain.getName()
      try {
        const { bytesPerSecond } = await domain.dirtyRate(mode).measure({ seconds, signal })
        return { name, rate: bytesPerSecond }
      } catch (error) {
        signal.throwIfAborted()
        if (names.length > 0) throw error
        return { name, rate: undefined, why: (error as Error).message }
      } finally {
        await domain.close()
      }
    })
  )
  return rates.sort((a, b) => (b.rate ?? -1) - (a.rate ?? -1))
}
