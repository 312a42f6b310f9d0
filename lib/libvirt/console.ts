// The console of a domain as one of Node's streams.
import type { Duplex } from 'node:stream'
import type { Domain } from './domain.js'
import { DomainConsoleFlags, StreamFlags } from './generated/enums.js'

/**
 * Which console, and whose it is.
 *
 * @since 0.1.0
 */
export interface ConsoleOptions {
  /** The alias of a console, serial port or parallel port, `'serial0'`. Default: the first console. */
  device?: string
  /** Take it away from who has it. Default false: then it rejects. */
  force?: boolean
  /** Only where the hypervisor can keep others away from it. Default false. */
  safe?: boolean
  /** Ends the stream. */
  signal?: AbortSignal
}

/** @internal */
export async function openConsole(domain: Domain, options: ConsoleOptions): Promise<Duplex> {
  const { device, force, safe, signal } = options
  signal?.throwIfAborted()
  await using connect = await domain.getConnect()
  const stream = await connect.streamNew(StreamFlags.NONBLOCK)
  try {
    await domain.openConsole(device, stream, (force ? DomainConsoleFlags.FORCE : 0) | (safe ? DomainConsoleFlags.SAFE : 0))
  } catch (error) {
    await stream.close()
    throw error
  }
  return stream.duplex({ ...(signal && { signal }) })
}
