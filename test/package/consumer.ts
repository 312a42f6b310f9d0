// What a strict consumer compiles against. It is compiled only; esm.mjs and cjs.cjs run.
import { HypertwinError, guestPath, version } from 'hypertwin'
import * as kvm from 'hypertwin/kvm'
import * as machine from 'hypertwin/machine'
import * as dirty from 'hypertwin/dirty'
import * as eventlog from 'hypertwin/eventlog'
import * as libvirt from 'hypertwin/libvirt'

const text: string = version
const path: string = guestPath('hello')
const modules: object[] = [kvm, machine, dirty, eventlog, libvirt]

// Each layer's error carries the same fields.
function describe(error: unknown): string {
  if (!(error instanceof HypertwinError)) return 'another error'
  const code: string = error.code
  const errno: number | undefined = error.errno
  const call: string | undefined = error.call
  return `${code} ${errno ?? 0} ${call ?? ''}`
}
const kvmError: HypertwinError = new kvm.KvmError('text', { code: 'EINVAL' })
// @ts-expect-error a code is a string
new kvm.KvmError('text', { code: 7 })

export { describe, kvmError, modules, path, text }
