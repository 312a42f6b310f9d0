// A process that finds another libvirt, or none: what it can tell of it, as one message.
import { Connect, getVersion, libraryVersion, supports } from '../../lib/libvirt/index.js'

const told = async (body: () => unknown): Promise<unknown> => {
  try {
    return await body()
  } catch (error) {
    const { name, code, message, stack } = error as Error & { code: string }
    return { name, code, message, caller: /other-library/.test(stack ?? '') }
  }
}

process.send?.({
  version: await told(libraryVersion),
  supports: [supports('virConnectOpen'), supports('virDomainFDAssociate')],
  getVersion: await told(getVersion),
  open: await told(() => Connect.open('test:///default').then(connect => typeof connect)),
  old: await told(async () => {
    const connect = await Connect.open('test:///default')
    return connect.getStoragePoolCapabilities()
  }),
  admin: await told(async () => (await import('../../lib/libvirt/index.js')).admGetVersion())
})
process.disconnect?.()
