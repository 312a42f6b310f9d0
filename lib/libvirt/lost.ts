// Tells a failure of libvirt's work from the loss of a connection, after which nobody here knows how the work ended.
import type { Connect } from './connect.js'
import { LibvirtError } from './errors.js'

/**
 * The error to throw: `CONNECTION_LOST` when one of the connections is dead.
 *
 * @internal
 */
export async function lostConnection(work: string, error: unknown, connections: Record<string, Connect>): Promise<unknown> {
  for (const [name, connect] of Object.entries(connections)) {
    const alive = await connect.isAlive().catch(() => false)
    if (!alive)
      return new LibvirtError(
        `the connection to the ${name} was lost during ${work}: look there how it ended (${(error as Error).message})`,
        { code: 'CONNECTION_LOST', cause: error }
      )
  }
  return error
}
