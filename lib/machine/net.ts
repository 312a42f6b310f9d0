// A network device's queue in this process: packets to the guest and from it.
import type { NativeMachine } from './addon.js'
import { MachineError, invalid, machineErrors } from './errors.js'

/**
 * The host's end of a network device whose backend is `'queue'`. A packet is an Ethernet frame without its
 * checksum, of 14 to 65,562 bytes.
 *
 * Packets from the guest wait in a queue of 4,096 packets or 16 MiB. When it is full the oldest are dropped and
 * counted, as networks do; the guest never waits.
 *
 * @since 0.1.0
 */
export class NetPort {
  /** The device's number in the machine. */
  readonly index: number
  /** The guest's address, `'52:54:00:68:74:01'`. */
  readonly mac: string
  readonly #native: NativeMachine
  readonly #tap: string | undefined
  #ended = false
  #callback: ((packets: Buffer[]) => void) | undefined
  #iterating = false
  readonly #waiting: (() => void)[] = []

  /** @internal */
  constructor(native: NativeMachine, index: number, mac: Uint8Array, tap: string | undefined) {
    this.#native = native
    this.#tap = tap
    this.index = index
    this.mac = Array.from(mac, byte => byte.toString(16).padStart(2, '0')).join(':')
  }

  /** The tap interface that the device is connected to instead; undefined for a queue. */
  get tap(): string | undefined {
    return this.#tap
  }

  /**
   * Whether the kernel moves this device's packets at this moment, by vhost-net: see {@link NetOptions.backend}. They
   * are not in {@link MachineCounters}; the tap's own counters have them.
   *
   * @throws MachineError `CLOSED`
   */
  get vhost(): boolean {
    return machineErrors(() => this.#native.kernelServes(this.index))
  }

  /** Packets from the guest that were dropped because nobody took them. */
  get dropped(): bigint {
    return machineErrors(() => this.#native.droppedPackets(this.index))
  }

  /**
   * Gives packets to the guest. They arrive at its next boundary; a guest without a driver or without buffers
   * loses them.
   *
   * @param packets - one packet or several
   * @returns how many were accepted, from the first on: fewer than given when the machine's mailbox (4,096
   *   packets, 16 MiB) is full. Send the others again later, for example after the next packets from the guest.
   * @throws MachineError `EINVAL`, `ERANGE` (length), `CLOSED`
   */
  send(packets: Uint8Array | readonly Uint8Array[]): number {
    this.#queueOnly()
    const list = packets instanceof Uint8Array ? [packets] : packets
    if (!Array.isArray(list)) throw invalid('packets must be a Uint8Array or an array of them')
    return machineErrors(() => this.#native.sendPackets(this.index, list as Uint8Array[]))
  }

  /**
   * Calls `callback` with every batch of packets from the guest, as soon as they are there. A port has one
   * consumer at a time.
   *
   * @returns a function that ends it
   * @throws MachineError `BUSY` when the port has a consumer already
   */
  onPackets(callback: (packets: Buffer[]) => void): () => void {
    if (typeof callback !== 'function') throw invalid('onPackets needs a function')
    this.#claim()
    this.#callback = callback
    // Also announces what comes next.
    queueMicrotask(() => this.notify())
    return () => {
      if (this.#callback === callback) this.#callback = undefined
    }
  }

  /**
   * The packets from the guest in batches, until the machine stops. A port has one consumer at a time.
   *
   * @param options - `signal`: ends the iteration with its reason
   * @throws MachineError `BUSY` when the port has a consumer already
   */
  packets(options: { signal?: AbortSignal } = {}): AsyncIterableIterator<Buffer[]> {
    this.#claim()
    this.#iterating = true
    const { signal } = options
    const abort = (): void => this.#wake()
    signal?.addEventListener('abort', abort)
    let over = false
    const finish = (): void => {
      if (over) return
      over = true
      this.#iterating = false
      signal?.removeEventListener('abort', abort)
      this.#wake()
    }
    const iterator: AsyncIterableIterator<Buffer[]> = {
      next: async () => {
        for (;;) {
          if (over) return { done: true, value: undefined }
          if (signal?.aborted) {
            finish()
            throw signal.reason
          }
          const batch = this.take()
          if (batch.length > 0) return { done: false, value: batch }
          if (this.#ended) finish()
          else
            await new Promise<void>(resolve => {
              this.#waiting.push(resolve)
            })
        }
      },
      return: () => {
        finish()
        return Promise.resolve({ done: true as const, value: undefined })
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  /**
   * Takes the packets that are there, without waiting: an empty array when there are none.
   */
  take(): Buffer[] {
    let batch
    try {
      batch = machineErrors(() => this.#native.takePackets(this.index))
    } catch (error) {
      if (error instanceof MachineError && error.code === 'CLOSED') return []
      throw error
    }
    if (!batch) return []
    const all = Buffer.from(batch.bytes.buffer, batch.bytes.byteOffset, batch.bytes.byteLength)
    let at = 0
    return Array.from(batch.lengths, length => all.subarray(at, (at += length)))
  }

  #queueOnly(): void {
    if (this.#tap !== undefined)
      throw new MachineError(
        `network device ${this.index} is connected to the tap interface ${this.#tap}: its packets do not pass here`,
        { code: 'BAD_STATE' }
      )
  }

  #claim(): void {
    this.#queueOnly()
    if (this.#callback || this.#iterating)
      throw new MachineError(`network device ${this.index} has a consumer already: end that one first`, {
        code: 'BUSY'
      })
  }

  /** Packets are there. @internal */
  notify(): void {
    this.#wake()
    if (!this.#callback) return
    const batch = this.take()
    if (batch.length > 0) this.#callback(batch)
  }

  /** No packets come any more. @internal */
  end(): void {
    this.notify()
    this.#ended = true
    this.#wake()
  }
}
