// An nbdkit that serves a file, for tests that kill it, stop it, and start it again.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { scratch } from './machine/support.js'

/** False, or why there can be no server with a client of ours. */
export const noNbdkit =
  (spawnSync('nbdkit', ['--version']).error && 'nbdkit is missing (Debian: nbdkit)') ||
  (!spawnSync('ldconfig', ['-p'], { encoding: 'utf8' }).stdout.includes('libnbd.so.0') && 'libnbd is missing (Debian: libnbd0)')

export class NbdKit {
  readonly uri: string
  readonly #socket: string
  #child: ChildProcess | undefined

  /**
   * @param options - of nbdkit
   * @param parameters - of its filters
   */
  constructor(
    t: Test,
    readonly image: string,
    readonly options: readonly string[] = [],
    readonly parameters: readonly string[] = []
  ) {
    this.#socket = path.join(scratch(t), 'socket')
    this.uri = `nbd+unix:///?socket=${this.#socket}`
    t.teardown(() => this.kill())
  }

  async start(): Promise<this> {
    const pid = `${this.#socket}.pid`
    for (const file of [pid, this.#socket]) rmSync(file, { force: true })
    const child = spawn('nbdkit', ['-f', '-U', this.#socket, '-P', pid, ...this.options, 'file', this.image, ...this.parameters], { stdio: 'ignore' })
    this.#child = child
    while (!existsSync(pid)) {
      if (child.exitCode !== null) throw new Error('nbdkit has ended')
      await new Promise(resolve => setTimeout(resolve, 5))
    }
    return this
  }

  async kill(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** It keeps its socket open and answers nothing; no thread of it runs any more. */
  async stop(): Promise<void> {
    const threads = `/proc/${this.#child?.pid}/task`
    this.#child?.kill('SIGSTOP')
    const isStopped = (id: string): boolean => /^\d+ \(.*\) T/s.test(readFileSync(`${threads}/${id}/stat`, 'utf8'))
    while (!readdirSync(threads).every(isStopped)) await new Promise(resolve => setTimeout(resolve, 1))
  }

  goOn(): void {
    this.#child?.kill('SIGCONT')
  }
}
