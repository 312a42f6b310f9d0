// Events as async iterables: of a connection, and of one that is opened again whenever it is lost.
import { setTimeout as sleep } from 'node:timers/promises'
import { addon } from './addon.js'
import type { Connect } from './connect.js'
import type { Domain } from './domain.js'
import { LibvirtError, libvirtErrors } from './errors.js'
import { ErrorNumber, type ConnectCloseReason } from './generated/enums.js'
import {
  domainEventIds,
  networkEventIds,
  nodeDeviceEventIds,
  secretEventIds,
  storagePoolEventIds,
  type DomainEventArgs,
  type NetworkEventArgs,
  type NodeDeviceEventArgs,
  type QemuMonitorEventArgs,
  type SecretEventArgs,
  type StoragePoolEventArgs
} from './generated/events.js'
import type { Network } from './network.js'
import type { NodeDevice } from './node_device.js'
import { EventFamily } from './registration.js'
import type { Secret } from './secret.js'
import type { StoragePool } from './storage_pool.js'

interface Timed {
  /** Counts the events of the iteration from 1 on; those that were dropped are counted too. */
  sequence: number
  /** When it came, in ms since 1970. */
  time: number
}

type Family<Prefix extends string, Args, Key extends string, About> = {
  [Name in keyof Args & string]: Timed & {
    /** Family and libvirt's name. */
    kind: `${Prefix}.${Name}`
    /** What it tells, by libvirt's names. */
    args: Args[Name]
  } & {
    /** What it is about. */
    [K in Key]: About
  }
}[keyof Args & string]

/**
 * An event of a domain, for example `'domain.lifecycle'`.
 *
 * @since 0.1.0
 */
export type DomainEvent = Family<'domain', DomainEventArgs, 'domain', Domain>
/**
 * An event of a virtual network.
 *
 * @since 0.1.0
 */
export type NetworkEvent = Family<'network', NetworkEventArgs, 'network', Network>
/**
 * An event of a storage pool.
 *
 * @since 0.1.0
 */
export type StoragePoolEvent = Family<'storagePool', StoragePoolEventArgs, 'pool', StoragePool>
/**
 * An event of a device of the host.
 *
 * @since 0.1.0
 */
export type NodeDeviceEvent = Family<'nodeDevice', NodeDeviceEventArgs, 'device', NodeDevice>
/**
 * An event of a secret.
 *
 * @since 0.1.0
 */
export type SecretEvent = Family<'secret', SecretEventArgs, 'secret', Secret>
/**
 * An event of QEMU's monitor, as QEMU words it.
 *
 * @since 0.1.0
 */
export type QemuMonitorEvent = Timed & {
  /** QEMU's, whatever its name. */
  kind: 'qemu.monitor'
  /** What it is about. */
  domain: Domain
  /** The event's name, its time, and its data as JSON. */
  args: QemuMonitorEventArgs['qemuMonitor']
}

/**
 * Any event of libvirt's, told apart by `kind`.
 *
 * @since 0.1.0
 */
export type AnyEvent = DomainEvent | NetworkEvent | StoragePoolEvent | NodeDeviceEvent | SecretEvent | QemuMonitorEvent

/**
 * A kind of event: `'domain.lifecycle'`, `'storagePool.refresh'`, `'qemu.monitor'` and so on.
 *
 * @since 0.1.0
 */
export type EventKind = AnyEvent['kind']

/**
 * Stands in for events that nobody took in time: the oldest are dropped.
 *
 * @since 0.1.0
 */
export interface DroppedEvents {
  /** Always this. */
  kind: 'dropped'
  /** How many. */
  count: number
  /** That of the last of them. */
  sequence: number
}

/**
 * Which events of a connection, and how many of them may wait.
 *
 * @since 0.1.0
 */
export interface EventOptions {
  /** Only of this domain. Other families than domain and QEMU monitor are not narrowed by it. */
  domain?: Domain
  /** Of `'qemu.monitor'`: only events of this name. */
  qemuEvent?: string
  /** How many may wait to be taken; 1024 if left out. Then the oldest are dropped. */
  limit?: number
  /** Ends the iteration at once, with the signal's reason. */
  signal?: AbortSignal
}

interface Source {
  family: number
  id: number
  key: string
}

const sources = new Map<string, Source>()
const addFamily = (prefix: string, key: string, family: number, ids: Record<string, number>): void => {
  for (const [name, id] of Object.entries(ids)) sources.set(`${prefix}.${name}`, { family, id, key })
}
addFamily('domain', 'domain', EventFamily.domain, domainEventIds)
addFamily('network', 'network', EventFamily.network, networkEventIds)
addFamily('storagePool', 'pool', EventFamily.storagePool, storagePoolEventIds)
addFamily('nodeDevice', 'device', EventFamily.nodeDevice, nodeDeviceEventIds)
addFamily('secret', 'secret', EventFamily.secret, secretEventIds)
addFamily('qemu', 'domain', EventFamily.qemuMonitor, { monitor: 0 })

/** All kinds that there are. @internal */
export const eventKinds = [...sources.keys()] as EventKind[]

interface Item {
  kind: string
  sequence: number
  count?: number
}

/** A bounded queue; the oldest give way to a record that counts them. */
class EventQueue {
  #items: Item[] = []
  #dropped = 0
  #sequence = 0
  #over: { error: unknown } | true | undefined
  #waiters: (() => void)[] = []

  constructor(private readonly limit: number) {}

  /** `missing`: so many were lost before it on the way here. */
  push(item: Omit<Item, 'sequence'>, missing: number): void {
    if (this.#over) return
    this.#drop(missing)
    if (this.#items.length >= this.limit) {
      this.#items.shift()
      this.#dropped++
    }
    this.#items.push({ ...item, sequence: ++this.#sequence })
    this.#wake()
  }

  /** Those that wait are still given; then `error` is thrown, if it is given. */
  end(over: { error: unknown } | true): void {
    this.#over ??= over
    this.#wake()
  }

  clear(): void {
    this.#items = []
    this.#dropped = 0
  }

  async next(): Promise<Item | undefined> {
    for (;;) {
      if (this.#dropped > 0) {
        const count = this.#dropped
        this.#dropped = 0
        const first = this.#items[0]
        return { kind: 'dropped', count, sequence: first ? first.sequence - 1 : this.#sequence }
      }
      const item = this.#items.shift()
      if (item) return item
      if (this.#over === true) return undefined
      if (this.#over) {
        const { error } = this.#over
        this.#over = true
        throw error
      }
      await new Promise<void>(resolve => this.#waiters.push(resolve))
    }
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake()
  }

  #drop(missing: number): void {
    if (missing === 0) return
    // What was lost lies behind what waits, so that goes too: one record then stands for all of it.
    this.#sequence += missing
    this.#dropped += missing + this.#items.length
    this.#items = []
  }
}

/**
 * Events of a connection, iterated once. Its end (a `break`, return(), the signal) takes the registration at
 * libvirt back. When the connection is lost the iteration ends with a {@link LibvirtError} `CONNECTION_LOST`, after
 * what came before; when it is closed here, it just ends.
 *
 * @since 0.1.0
 */
export class EventStream<T> implements AsyncIterableIterator<T, undefined>, AsyncDisposable {
  /** Resolves when all that happens from now on is delivered; rejects as the iteration would. */
  readonly ready: Promise<void>
  readonly #queue: EventQueue
  readonly #signal: AbortSignal | undefined
  readonly #abort = (): void => {
    const error: unknown = this.#signal?.reason
    this.#queue.clear()
    this.#queue.end({ error })
    this.#rejectReady(error)
    void this.#stop()
  }
  #rejectReady: (error: unknown) => void = () => undefined
  #ids: number[] = []
  #stopped: Promise<void> | undefined
  #starting: Promise<void> = Promise.resolve()

  /** @internal */
  constructor(connect: Connect, kinds: readonly string[], options: EventOptions) {
    const { limit = 1024, signal } = options
    if (!Number.isInteger(limit) || limit < 1)
      throw new LibvirtError(`events: limit must be an integer from 1 on; it is ${limit}`, { code: 'EINVAL' })
    for (const kind of kinds)
      if (!sources.has(kind))
        throw new LibvirtError(`events: there is no kind '${kind}'; kinds are ${eventKinds.join(', ')}`, { code: 'EINVAL' })
    this.#queue = new EventQueue(limit)
    this.#signal = signal
    this.ready = new Promise((resolve, reject) => {
      this.#rejectReady = reject
      if (!signal?.aborted) libvirtErrors(() => this.#start(connect, kinds, options)).then(resolve, reject)
    })
    // Who does not look at it hears of its error from next().
    this.ready.catch((error: unknown) => {
      this.#queue.end({ error })
      void this.#stop()
    })
    if (signal?.aborted) this.#abort()
    else signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** The next event, when there is one. */
  async next(): Promise<IteratorResult<T, undefined>> {
    let item: Item | undefined
    try {
      item = await this.#queue.next()
    } catch (error) {
      void this.#stop()
      throw error
    }
    if (item) return { done: false, value: item as T }
    await this.#stop()
    return { done: true, value: undefined }
  }

  /** Ends the iteration; resolves when libvirt has taken the registration back. */
  async return(): Promise<IteratorResult<T, undefined>> {
    this.#queue.clear()
    this.#queue.end(true)
    await this.#stop()
    return { done: true, value: undefined }
  }

  /** This. */
  [Symbol.asyncIterator](): this {
    return this
  }

  /** See {@link return}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  #start(connect: Connect, kinds: readonly string[], options: EventOptions): Promise<void> {
    const on = async (kind: string, { family, id, key }: Source): Promise<void> => {
      const of = family === EventFamily.domain || family === EventFamily.qemuMonitor ? options.domain : undefined
      const name = family === EventFamily.qemuMonitor ? options.qemuEvent : undefined
      const number = await addon.libvirtOn(family, id, connect, of, name, 0, batch => {
        if (batch === null) this.#queue.end(true)
        else
          for (const { time, object, args, dropped } of batch)
            this.#queue.push({ kind, time, [key]: object, args } as Omit<Item, 'sequence'>, dropped)
      })
      this.#ids.push(number)
    }
    const all = [...new Set(kinds)].map(kind => on(kind, sources.get(kind) as Source))
    this.#starting = Promise.allSettled([...all, this.#onClose(connect)]).then(results => {
      for (const result of results) if (result.status === 'rejected') throw result.reason
    })
    return this.#starting
  }

  async #onClose(connect: Connect): Promise<void> {
    try {
      this.#ids.push(
        await addon.libvirtOn(EventFamily.close, 0, connect, undefined, undefined, 0, batch => {
          const reason = (batch?.[0]?.args as { reason: ConnectCloseReason } | undefined)?.reason
          if (reason !== undefined) this.#queue.end({ error: lost(reason) })
        })
      )
    } catch (error) {
      // A driver within this process has no connection that could be lost.
      if ((error as { libvirt?: { code: number } }).libvirt?.code !== ErrorNumber.NO_SUPPORT) throw error
    }
  }

  #stop(): Promise<void> {
    this.#stopped ??= (async () => {
      this.#signal?.removeEventListener('abort', this.#abort)
      await this.#starting.catch(() => undefined)
      await Promise.all(this.#ids.splice(0).map(id => addon.libvirtOff(id)))
    })()
    return this.#stopped
  }
}

function lost(reason: number): LibvirtError {
  const why = ['an error of the connection', 'its end at the other side', 'no sign of life', 'the client'][reason]
  return new LibvirtError(`the connection to libvirt was lost: ${why ?? `reason ${reason}`}`, { code: 'CONNECTION_LOST' })
}

/**
 * The events of these kinds, from now on.
 *
 * @internal
 */
export function connectEvents<K extends EventKind>(
  connect: Connect,
  kinds: K | readonly K[],
  options: EventOptions = {}
): EventStream<Extract<AnyEvent, { kind: K }> | DroppedEvents> {
  return new EventStream(connect, typeof kinds === 'string' ? [kinds] : kinds, options)
}

/**
 * The connection of {@link watchEvents} is open: the first thing that it tells. What happens from here on is
 * told; what was before can be asked.
 *
 * @since 0.1.0
 */
export interface WatchOpen {
  /** Always this. */
  kind: 'open'
  /** To make calls on; it is closed by the watch. */
  connect: Connect
}

/**
 * The connection was lost and is open again. What happened between is not known: ask for what is.
 *
 * @since 0.1.0
 */
export interface WatchGap {
  /** Always this. */
  kind: 'gap'
  /** When the loss was noticed, in ms since 1970. */
  since: number
  /** When all is delivered again, in ms since 1970. */
  until: number
  /** How often opening was tried. */
  attempts: number
  /** Why it was lost. */
  reason: unknown
  /** The new connection; the old one is closed, and objects of it are of no use. */
  connect: Connect
}

/**
 * What is watched, and how patiently.
 *
 * @since 0.1.0
 */
export interface WatchOptions extends Omit<EventOptions, 'domain'> {
  /** True if left out: a connection that is lost is opened again, for ever. False: then the iteration throws. */
  reconnect?: boolean
  /** How long to wait before the first new attempt; doubled for each that fails; 200 ms if left out. */
  minDelayMs?: number
  /** The longest wait; 30 s if left out. */
  maxDelayMs?: number
}

/**
 * Events of a connection that is opened by `open`, and again whenever it is lost. Give it a `keepalive`, or a dead
 * host is not noticed.
 *
 * ```ts
 * for await (const event of watchEvents(() => Connect.open('qemu+tls://host/system', { keepalive: { interval: 5 } }), 'domain.lifecycle'))
 *   if (event.kind === 'gap') await listAgain(event.connect)
 * ```
 *
 * @param open - opens one connection; the watch closes it
 * @param kinds - one kind of event, or several
 * @throws LibvirtError when the first connection cannot be opened; without `reconnect` `CONNECTION_LOST`
 * @since 0.1.0
 */
export async function* watchEvents<K extends EventKind>(
  open: () => Promise<Connect>,
  kinds: K | readonly K[],
  options: WatchOptions = {}
): AsyncGenerator<Extract<AnyEvent, { kind: K }> | DroppedEvents | WatchOpen | WatchGap, void, undefined> {
  const { reconnect = true, minDelayMs = 200, maxDelayMs = 30_000, signal } = options
  let gap: Pick<WatchGap, 'since' | 'attempts' | 'reason'> | undefined
  for (;;) {
    signal?.throwIfAborted()
    let connect: Connect | undefined
    try {
      connect = await open()
      const events = connectEvents(connect, kinds, options)
      await events.ready
      yield gap ? { kind: 'gap', ...gap, attempts: gap.attempts + 1, until: Date.now(), connect } : { kind: 'open', connect }
      gap = undefined
      yield* events
      return
    } catch (error) {
      signal?.throwIfAborted()
      const began = gap !== undefined || (error as { code?: unknown }).code === 'CONNECTION_LOST'
      if (!reconnect || !began) throw error
      gap = gap ? { ...gap, attempts: gap.attempts + 1 } : { since: Date.now(), attempts: 0, reason: error }
    } finally {
      await connect?.close()
    }
    const delay = Math.min(maxDelayMs, minDelayMs * 2 ** gap.attempts)
    // Many that lost the same host do not come back all at once.
    await sleep(delay * (0.5 + Math.random() / 2), undefined, signal ? { signal } : {})
  }
}
