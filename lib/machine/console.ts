// The machine's serial console: what the guest wrote, and what is typed to it.
import { StringDecoder } from 'node:string_decoder'
import { Broadcast } from '../queue.js'
import type { NativeMachine } from './addon.js'
import { MachineError, invalid, machineErrors } from './errors.js'
import { whole } from './options.js'

const keptCharacters = 1 << 20

/**
 * The console: a serial port (a 16550A at port 0x3f8), or a virtio-console ({@link MachineOptions.console}). The guest
 * never waits for who reads it.
 *
 * @since 0.1.0
 */
export class Console {
  readonly #native: NativeMachine
  readonly #decoder = new StringDecoder('utf8')
  readonly #streams = new Broadcast<string>()
  #text = ''

  /** @internal */
  constructor(native: NativeMachine) {
    this.#native = native
  }

  /** What the guest wrote since the machine was made, as UTF-8: at least the last 1 Mi characters of it. */
  get text(): string {
    return this.#text
  }

  /**
   * Types to the guest. On the deterministic board it arrives at its next boundary.
   *
   * @param data - text (UTF-8) or bytes, at most 4,096 bytes
   * @returns false, and nothing is taken, when the machine's mailbox is full: try again later
   * @throws MachineError `EINVAL`, `ERANGE` (too long), `CLOSED`
   */
  write(data: string | Uint8Array): boolean {
    if (typeof data !== 'string' && !(data instanceof Uint8Array))
      throw invalid('console input must be a string or a Uint8Array')
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    return machineErrors(() => this.#native.sendConsole(bytes))
  }

  /**
   * Tells the guest how large the terminal is (virtio-console alone: a serial port has no way to).
   *
   * @param columns - characters in a row, from 1 to 65535
   * @throws MachineError `EINVAL`, `ERANGE` (no virtio-console), `BAD_BOARD`, `NOT_HERE` (its memory is still coming),
   *   `CLOSED`
   * @since 0.1.0
   */
  resize(columns: number, rows: number): void {
    machineErrors(() => this.#native.resizeConsole(whole(columns, 1, 65535, 'columns'), whole(rows, 1, 65535, 'rows')))
  }

  /**
   * What the guest writes from now on, in pieces as they come, until the machine stops. Who does not keep up
   * gets longer pieces, and loses the oldest text beyond 1 Mi characters.
   *
   * @param options - `signal`: ends the iteration with its reason
   */
  output(options: { signal?: AbortSignal } = {}): AsyncIterableIterator<string> {
    const onFull = (items: string[], item: string): string[] => [(items.join('') + item).slice(-keptCharacters)]
    return this.#streams.iterate({ limit: 1, onFull, signal: options.signal })
  }

  /**
   * Waits until the guest has written `pattern`, which may be in {@link text} already.
   *
   * @returns what came before it and the match itself
   * @throws MachineError `FINAL_STATE` when the machine stops before
   */
  async waitFor(pattern: string | RegExp, options: { signal?: AbortSignal } = {}): Promise<string> {
    if (typeof pattern !== 'string' && !(pattern instanceof RegExp))
      throw invalid('a pattern must be a string or a RegExp')
    const found = (): string | undefined => {
      if (typeof pattern === 'string') {
        const at = this.#text.indexOf(pattern)
        return at < 0 ? undefined : this.#text.slice(0, at + pattern.length)
      }
      const match = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, '')).exec(this.#text)
      return match ? this.#text.slice(0, match.index + match[0].length) : undefined
    }
    options.signal?.throwIfAborted()
    let result = found()
    if (result !== undefined) return result
    for await (const piece of this.output(options)) {
      void piece
      result = found()
      if (result !== undefined) return result
    }
    throw new MachineError(
      `the machine stopped before its console showed ${String(pattern)}; it ends with ${JSON.stringify(this.#text.slice(-200))}`,
      { code: 'FINAL_STATE' }
    )
  }

  /** Returns the text. @internal */
  push(bytes: Uint8Array): string {
    const text = this.#decoder.write(bytes)
    this.#text += text
    if (this.#text.length > 2 * keptCharacters) this.#text = this.#text.slice(-keptCharacters)
    if (text !== '') this.#streams.push(text)
    return text
  }

  /** @internal */
  end(): void {
    this.#streams.end()
  }
}
