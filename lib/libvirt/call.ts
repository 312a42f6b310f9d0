// The one way from the generated classes to libvirt: a call by its number in the addon's table.
import { HypertwinError } from '../errors.js'
import { addon } from './addon.js'
import { toLibvirtError, type CallSite } from './errors.js'
import { tableHash } from './generated/table.js'

if (addon.libvirtTableHash() !== tableHash)
  throw new HypertwinError(
    'The native addon and the JavaScript of hypertwin/libvirt are of different versions: reinstall hypertwin, or run `npm run build`',
    { code: 'ENATIVE' }
  )

/**
 * Calls a function of libvirt on a thread of its own pool; errors carry the stack of who calls now.
 *
 * @internal
 */
export function call<T>(index: number, ...args: unknown[]): Promise<T> {
  const site: CallSite = {}
  Error.captureStackTrace(site, call)
  return (addon.libvirtCall(index, ...args) as Promise<T>).catch((error: unknown) => {
    throw toLibvirtError(error, site)
  })
}
