// What the tests of machines and logs share.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
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

/** `hypertwin` with these words, and what it writes for people. Ended with the test. */
export class Talking {
  out = ''
  said = ''
  readonly #child
  readonly #closed

  constructor(t: Test, words: readonly string[]) {
    this.#child = spawn(process.execPath, ['dist/cli/main.js', ...words])
    this.#closed = once(this.#child, 'close')
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => (this.out += text))
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => (this.said += text))
    t.teardown(() => this.#child.kill('SIGKILL'))
  }

  /** Or until it has ended. */
  async until(done: () => boolean): Promise<void> {
    while (!done() && this.#child.exitCode === null) await new Promise(resolve => setTimeout(resolve, 10))
  }

  async interrupt(): Promise<void> {
    this.#child.kill('SIGINT')
    await this.#closed
  }
}

/** An error with this code, for t.rejects and t.throws. */
export const code = (expected: string): { code: string } => ({ code: expected })
