// libvirt-python as the reference that a binding is compared with: see reference.py.
import { spawn, type ChildProcess } from 'node:child_process'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** What to call; reference.py says what each field means. */
export interface Call {
  object: string
  method: string
  args?: Json[]
  named?: { [name: string]: Json }
  as?: string
}

/** What came of it. An error of libvirt has code, domain, level, message, str1-3, int1 and int2. */
export type Answer =
  { result: Json; error?: never } | { result?: never; error: { type: string; message: string } & Record<string, Json> }

// Debian's own: another python3 in front of it in PATH has no libvirt.
const python = '/usr/bin/python3'
const script = fileURLToPath(new URL('reference.py', import.meta.url))

export class Reference implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void }[] = []
  #said = ''

  constructor() {
    this.#child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } })
    this.#child.stdin!.on('error', () => {})
    this.#child.stderr!.on('data', (text: Buffer) => (this.#said += text.toString()))
    createInterface({ input: this.#child.stdout! }).on('line', line =>
      this.#waiting.shift()?.resolve(JSON.parse(line) as Answer)
    )
    const ended = (why: string) => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error(`the reference ended: ${why}`))
    }
    this.#child.once('error', error => ended(error.message))
    this.#child.once('close', status => ended(this.#said.trim() || `status ${String(status)}`))
  }

  /** Calls are done one after the other, in order. */
  call(call: Call): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null)
        return reject(new Error(`the reference has ended: ${this.#said.trim()}`))
      this.#waiting.push({ resolve, reject })
      this.#child.stdin!.write(`${JSON.stringify(call)}\n`)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const closed = new Promise(resolve => this.#child.once('close', resolve))
    this.#child.stdin!.end()
    await closed
  }
}
