// Callbacks for events, as libvirt registers them: one kind of event, one callback, one number to end it with.
import { addon } from './addon.js'
import { libvirtErrors } from './errors.js'
import type { Handle } from './handle.js'

/**
 * One event of libvirt.
 *
 * @since 0.1.0
 */
export interface LibvirtEvent<O, A> {
  /** What it is about; undefined where it is about the connection itself. */
  object: O
  /** What it tells, by libvirt's names. */
  args: A
  /** Counts the events of this registration, from 1 on; those that were dropped, too. */
  sequence: number
  /** How many of its events are missing just before this one, because JavaScript did not keep up. */
  dropped: number
  /** When it came, in ms since 1970. */
  time: number
}

/** The C++ enum of the same name. */
export const EventFamily = {
  domain: 0,
  network: 1,
  storagePool: 2,
  nodeDevice: 3,
  secret: 4,
  qemuMonitor: 5,
  close: 6,
  adminClose: 7
} as const

/** @internal */
export interface Registration<O, A> {
  family: number
  id: number
  connect: Handle
  object?: Handle | undefined
  name?: string | undefined
  flags?: number
  callback: (event: LibvirtEvent<O, A>) => void
}

/** @internal */
export function register<O, A>(
  { family, id, connect, object, name, flags = 0, callback }: Registration<O, A>
): Promise<number> {
  return libvirtErrors(() =>
    addon.libvirtOn(family, id, connect, object, name, flags, batch => {
      for (const event of batch ?? [])
        try {
          callback(event as unknown as LibvirtEvent<O, A>)
        } catch (error) {
          // Uncaught as before, but the others of the batch are still told.
          queueMicrotask(() => {
            throw error
          })
        }
    })
  )
}

/** @internal */
export function deregister(id: number): Promise<void> {
  return libvirtErrors(() => addon.libvirtOff(id))
}
