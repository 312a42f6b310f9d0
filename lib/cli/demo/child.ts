// A process of the demo, as the one that started it sees it.
import { type ChildProcess } from 'node:child_process'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { CliError } from '../common.js'
import { fork } from './topology.js'

const here = path.dirname(fileURLToPath(import.meta.url))

/** One process, its reports and its end. */
export class Child<Report extends { is: string }, Order extends object> {
  readonly #process: ChildProcess
  readonly #name: string
  readonly #closed: Promise<void>
  readonly #listeners = new Set<(report: Report) => void>()
  readonly #failures = new Set<(error: Error) => void>()
  #failure: Error | undefined
  /** Its end is wanted. */
  #expected = false

  /**
   * @param script - a file beside this one
   * @param within - puts a command into a namespace
   */
  constructor(name: string, script: string, config: object, within: (...command: string[]) => string[]) {
    this.#name = name
    const file = path.join(here, `${script}.js`)
    this.#process = fork(within(process.execPath, ...process.execArgv, file, JSON.stringify(config)))
    this.#closed = new Promise(resolve => {
      this.#process.once('error', error => {
        resolve()
        this.#fail(error.message)
      })
      this.#process.once('close', (code, signal) => {
        resolve()
        if (!this.#expected) this.#fail(`ended by itself (${signal ?? `exit code ${String(code)}`})`)
      })
    })
    this.#process.on('message', (report: Report | { is: 'failed'; message: string }) => {
      if (report.is === 'failed') this.#fail((report as { message: string }).message)
      else for (const listener of [...this.#listeners]) listener(report as Report)
    })
  }

  get pid(): number {
    return this.#process.pid!
  }

  /** Calls back with every report, until the function that is returned is called. */
  onReport(listener: (report: Report) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Calls back once when it fails, or ends unasked. */
  onFailure(listener: (error: Error) => void): void {
    if (this.#failure) listener(this.#failure)
    else this.#failures.add(listener)
  }

  /** The next report of a kind. Rejects when the process fails first, or with the signal's reason. */
  next<Is extends Report['is']>(is: Is, signal?: AbortSignal): Promise<Extract<Report, { is: Is }>> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        end()
        this.#failures.delete(failed)
        signal?.removeEventListener('abort', aborted)
      }
      const failed = (error: Error) => {
        settle()
        reject(error)
      }
      const aborted = () => failed(signal?.reason as Error)
      const end = this.onReport(report => {
        if (report.is !== is) return
        settle()
        resolve(report as Extract<Report, { is: Is }>)
      })
      this.onFailure(failed)
      signal?.addEventListener('abort', aborted)
      if (signal?.aborted) aborted()
    })
  }

  order(order: Order): void {
    if (this.#process.connected) this.#process.send(order)
  }

  /** From now on its end is nothing to tell of. */
  expectEnd(): void {
    this.#expected = true
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#expected = true
    this.#process.kill('SIGKILL')
    await this.#closed
  }

  /** Resolves when it is gone, however. */
  get closed(): Promise<void> {
    return this.#closed
  }

  #fail(why: string): void {
    if (this.#failure || this.#expected) return
    this.#failure = new CliError(`${this.#name}: ${why}`)
    for (const listener of [...this.#failures]) listener(this.#failure)
    this.#failures.clear()
  }
}
