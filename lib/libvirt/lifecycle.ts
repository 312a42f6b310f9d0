// A domain's states: waited for, and brought about patiently.
import { day, within } from './checks.js'
import type { Connect } from './connect.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import type {
  DomainShutdownFlags} from './generated/enums.js';
import {
  DomainCreateFlags,
  DomainDefineFlags,
  DomainDestroyFlags,
  DomainState,
  ErrorNumber
} from './generated/enums.js'
import { domainXml, type DomainSpec } from './spec.js'

/**
 * How a domain comes to be.
 *
 * @since 0.1.0
 */
export interface CreateDomainOptions {
  /** True (default): it is defined, and stays so when it ends. False: it is gone then. */
  persistent?: boolean
  /** Start it. Default true. */
  start?: boolean
  /** It is started paused. Default false. */
  paused?: boolean
  /** It ends with this connection. Only of one that is not persistent. Default false. */
  autoDestroy?: boolean
  /** Check the XML against libvirt's schema. Default false. */
  validate?: boolean
}

/**
 * How a domain is waited for.
 *
 * @since 0.1.0
 */
export interface WaitOptions {
  /** Give up after so many milliseconds, with `TIMEOUT`. Default: never. */
  timeoutMs?: number
  /** Gives up with its reason. */
  signal?: AbortSignal
}

/**
 * How a domain is stopped.
 *
 * @since 0.1.0
 */
export interface StopOptions {
  /** How long its guest may take to shut down, in milliseconds; 0: it is not asked. Default 60,000. */
  timeoutMs?: number
  /** When it has not: destroy it (default), or reject with `TIMEOUT`. */
  then?: 'destroy' | 'fail'
  /** How the guest is asked, of `DomainShutdownFlags`. Default: as the hypervisor likes it. */
  how?: DomainShutdownFlags
  /** Gives up waiting, with its reason: the domain is left as it is. */
  signal?: AbortSignal
}

/** @internal */
export async function createDomain(connect: Connect, of: string | DomainSpec, options: CreateDomainOptions): Promise<Domain> {
  const { persistent = true, start = true, paused, autoDestroy, validate } = options
  const xml = typeof of === 'string' ? of : domainXml(of)
  const flags =
    (paused ? DomainCreateFlags.START_PAUSED : 0) |
    (autoDestroy ? DomainCreateFlags.START_AUTODESTROY : 0) |
    (validate && !persistent ? DomainCreateFlags.START_VALIDATE : 0)
  if (!persistent) {
    if (!start) throw new LibvirtError('a domain that is neither persistent nor started would be nothing', { code: 'EINVAL' })
    return connect.domainCreateXML(xml, flags)
  }
  const domain = await connect.domainDefineXMLFlags(xml, validate ? DomainDefineFlags.VALIDATE : 0)
  if (!start) return domain
  try {
    await domain.createWithFlags(flags)
  } catch (error) {
    await domain.close()
    throw error
  }
  return domain
}

const off: readonly DomainState[] = [DomainState.SHUTOFF, DomainState.CRASHED]

/** Undefined: libvirt does not know the domain any more. */
async function stateOf(domain: Domain): Promise<DomainState | undefined> {
  try {
    return (await domain.getState()).state
  } catch (error) {
    if (error instanceof LibvirtError && error.number === ErrorNumber.NO_DOMAIN) return undefined
    throw error
  }
}

function gone(states: readonly DomainState[]): undefined {
  if (states.some(state => off.includes(state))) return undefined
  throw new LibvirtError('the domain is gone: it was not persistent, and has ended', { code: 'DOMAIN_GONE' })
}

/**
 * Resolves with the state when it is one of `states`; undefined when libvirt does not know the domain any more and
 * being off would do.
 *
 * @internal
 */
export async function waitForState(
  domain: Domain,
  states: readonly DomainState[],
  options: WaitOptions
): Promise<DomainState | undefined> {
  const { timeoutMs, signal } = options
  signal?.throwIfAborted()
  const limit = timeoutMs === undefined ? undefined : AbortSignal.timeout(within(timeoutMs, 'timeoutMs', 0, day))
  const signals = [signal, limit].filter(one => one !== undefined)
  await using connect = await domain.getConnect()
  const events = connect.events('domain.lifecycle', { domain, ...(signals.length > 0 && { signal: AbortSignal.any(signals) }) })
  try {
    await events.ready
    for (;;) {
      const state = await stateOf(domain)
      if (state === undefined) return gone(states)
      if (states.includes(state)) return state
      await events.next()
    }
  } catch (error) {
    // Events of a domain that is gone cannot be asked for.
    if (error instanceof LibvirtError && error.number !== undefined && (await stateOf(domain)) === undefined)
      return gone(states)
    if (limit?.aborted && !signal?.aborted && error === limit.reason)
      throw new LibvirtError(`the domain has not reached the state in ${timeoutMs} ms`, { code: 'TIMEOUT' })
    throw error
  } finally {
    await events.return()
  }
}

/**
 * True: the guest has shut down by itself.
 *
 * @internal
 */
export async function stop(domain: Domain, options: StopOptions): Promise<boolean> {
  const { timeoutMs = 60_000, then = 'destroy', how = 0, signal } = options
  within(timeoutMs, 'timeoutMs', 0, day)
  signal?.throwIfAborted()
  if (timeoutMs > 0) {
    const over = new AbortController()
    try {
      const waiting = waitForState(domain, off, { timeoutMs, signal: AbortSignal.any([over.signal, ...(signal ? [signal] : [])]) })
      waiting.catch(() => undefined)
      await domain.shutdownFlags(how)
      await waiting
      return true
    } catch (error) {
      if (await isOff(domain)) return true
      const slow = error instanceof LibvirtError && (error.code === 'TIMEOUT' || error.number !== undefined)
      if (!slow || then === 'fail') throw error
    } finally {
      over.abort()
    }
  }
  try {
    await domain.destroyFlags(DomainDestroyFlags.DEFAULT)
  } catch (error) {
    if (!(await isOff(domain))) throw error
  }
  return false
}

async function isOff(domain: Domain): Promise<boolean> {
  const state = await stateOf(domain).catch(() => DomainState.NOSTATE)
  return state === undefined || off.includes(state)
}
