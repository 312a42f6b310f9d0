// Where a script finds itself.
import { readFileSync } from 'node:fs'

/** True in a rig. */
export function insideRig() {
  return /(^| )rig\.name=/.test(readFileSync('/proc/cmdline', 'utf8'))
}
