// The console of a domain as one of Node's streams.
import type { Duplex } from 'node:stream'
import type { Domain } from './domain.js'
import { DomainConsoleFlags, StreamFlags } from './generated/enums.js'
import type { Stream } from './stream.js'

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
  const { signal } = options
  signal?.throwIfAborted()
  const stream = await open(domain, options)
  // Nobody could hear yet of an error of Node's stream.
  if (signal?.aborted) {
    await stream.close()
    throw signal.reason
  }
  return stream.duplex({ ...(signal && { signal }) })
}

async function open(domain: Domain, { device, force, safe }: ConsoleOptions): Promise<Stream> {
  await using connect = await domain.getConnect()
  const stream = await connect.streamNew(StreamFlags.NONBLOCK)
  try {
    await domain.openConsole(device, stream, (force ? DomainConsoleFlags.FORCE : 0) | (safe ? DomainConsoleFlags.SAFE : 0))
    return stream
  } catch (error) {
    await stream.close()
    throw error
  }
}
