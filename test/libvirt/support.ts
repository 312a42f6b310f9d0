// What the tests of the libvirt binding share.
import type { Test } from 'tap'
import { Connect, LibvirtError, libraryVersion } from '../../lib/libvirt/index.js'

function missing(): string | false {
  try {
    libraryVersion()
    return false
  } catch (error) {
    return `libvirt is not installed: ${(error as Error).message}`
  }
}

/** False, or why nothing of libvirt can be called here. */
export const noLibvirt = missing()

/** libvirt's test driver: a host of its own in this process, with one domain, network, pool and interface. */
export function testHost(): Promise<Connect> {
  return Connect.open('test:///default')
}

/** What the call fails with; fails the test when it does not, or with another kind of error. */
export async function failure(t: Test, call: () => Promise<unknown>): Promise<LibvirtError> {
  try {
    await call()
  } catch (error) {
    if (error instanceof LibvirtError) return error
    throw error
  }
  t.fail('it must fail')
  throw new Error('it must fail')
}
