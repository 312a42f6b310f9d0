// What the tests of machines and logs share.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Test } from 'tap'
import { guestPath } from '../../lib/index.js'
import { Machine, type MachineOptions } from '../../lib/machine/index.js'

export { noKvm } from '../no_kvm.js'

/** A folder that goes with the test. */
export function scratch(t: Test): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A machine with one of our guests, closed with the test. */
export async function guest(
  t: Test,
  name: string,
  commandLine = '',
  options: Partial<MachineOptions> = {}
): Promise<Machine> {
  const machine = await Machine.create({ memory: '16MiB', kernel: guestPath(name), commandLine, ...options })
  t.teardown(() => machine.close())
  return machine
}

/** An error with this code, for t.rejects and t.throws. */
export const code = (expected: string): { code: string } => ({ code: expected })
