// The seam between this layer and libvirt: what is called on an object goes to libvirt, or to the backend that the
// object was given (one that captures, one that replays). Without any backend it costs nothing.
import { addon, direct } from './addon.js'

/** What is called on an object; libvirtOff() on a registration's number. @internal */
export const routed = [
  'libvirtCall',
  'libvirtClose',
  'libvirtIsClosed',
  'libvirtSame',
  'libvirtOn',
  'libvirtOff',
  'libvirtStreamRecv',
  'libvirtStreamSend',
  'libvirtStreamSendHole',
  'libvirtStreamListen',
  'libvirtStreamRearm',
  'libvirtStreamFinish',
  'libvirtStreamAbort'
] as const

/** @internal */
export type Routed = (typeof routed)[number]

/**
 * Answers instead of libvirt, as the addon would: with the same arguments, results and errors.
 *
 * @internal
 */
export interface Backend {
  invoke(name: Routed, args: unknown[]): unknown
}

const backends = new WeakMap<object, Backend>()
const registrations = new Map<number, Backend>()
let installed = false

/** The classes of libvirt's objects by their names; classes.ts fills it. @internal */
export const handleClasses = new Map<string, new () => object>()

/** @internal */
export function backendOf(handle: object): Backend | undefined {
  return backends.get(handle)
}

/** From now on `backend` answers for this object. @internal */
export function assignBackend(handle: object, backend: Backend): void {
  if (!installed) install()
  backends.set(handle, backend)
}

/** The same for a registration of events. @internal */
export function assignRegistration(id: number, backend: Backend): void {
  registrations.set(id, backend)
}

/** @internal */
export function forgetRegistration(id: number): void {
  registrations.delete(id)
}

/** Calls libvirt itself. @internal */
export function invokeDirectly(name: Routed, args: unknown[]): unknown {
  return (direct[name] as (...args: unknown[]) => unknown)(...args)
}

function find(name: Routed, args: unknown[]): Backend | undefined {
  if (name === 'libvirtOff') return registrations.get(args[0] as number)
  for (const arg of args) {
    const one: unknown = Array.isArray(arg) ? arg[0] : arg
    const found = typeof one === 'object' && one !== null ? backends.get(one) : undefined
    if (found) return found
  }
  return undefined
}

function install(): void {
  installed = true
  const table = addon as unknown as Record<Routed, (...args: unknown[]) => unknown>
  for (const name of routed)
    table[name] = (...args) => {
      const backend = find(name, args)
      return backend ? backend.invoke(name, args) : invokeDirectly(name, args)
    }
}
