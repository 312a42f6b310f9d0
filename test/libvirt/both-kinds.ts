// A process that tries to open both kinds of libvirt's connections, in the order of its argument.
import { AdminConnect, Connect, admGetVersion } from '../../lib/libvirt/index.js'

const outcome = async (open: () => Promise<AsyncDisposable>): Promise<string> => {
  try {
    await using connect = await open()
    return typeof connect
  } catch (error) {
    return (error as { code: string }).code
  }
}
const connection = () => outcome(() => Connect.open('test:///default'))
// There is no daemon at this URI: libvirt refuses, which counts as use.
const administration = () => outcome(() => AdminConnect.open('libvirtd:///system?socket=/nonexistent'))

const outcomes =
  process.argv[2] === 'connection'
    ? [await connection(), await administration(), await connection()]
    : [await administration(), await connection(), await administration()]
process.send?.([...outcomes, typeof (await admGetVersion())])
