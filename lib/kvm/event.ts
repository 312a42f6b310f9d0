// eventfd(2): what irqfd and ioeventfd are bound to.
import { Turns } from '../turns.js'
import { nativeKvm, type NativeEvent } from './addon.js'
import { closedError, kvmErrors } from './errors.js'

/**
 * An eventfd. Signal one that is bound by `Vm.assignIrqfd` and the guest gets an interrupt; wait for one that is
 * bound by `Vm.assignIoeventfd` and learn that the guest wrote there.
 *
 * @since 0.1.0
 */
export class EventFd implements AsyncDisposable {
  readonly #native: NativeEvent
  #closing: Promise<void> | undefined
  /** One waits natively, whom cancel() ends. */
  readonly #turns = new Turns()

  /** @throws KvmError `EMFILE` when the process has no descriptor left */
  constructor() {
    this.#native = kvmErrors(() => new nativeKvm.Event())
  }

  get #open(): NativeEvent {
    if (this.#closing) throw closedError('The event')
    return this.#native
  }

  /** The descriptor; it belongs to this object. */
  get fd(): number {
    return this.#open.fd()
  }

  /**
   * Adds to the counter.
   *
   * @throws KvmError `EAGAIN` when the counter is full; `CLOSED`
   */
  signal(count = 1n): void {
    kvmErrors(() => {
      this.#open.signal(count)
    })
  }

  /** Takes the counter: 0n when nothing was signalled since the last take. */
  take(): bigint {
    return kvmErrors(() => this.#open.take())
  }

  /**
   * Waits on a native thread until the counter is not 0, and takes it.
   *
   * @throws KvmError `CLOSED`, also when the event is closed while it waits; the signal's reason when aborted
   */
  async wait(options: { signal?: AbortSignal } = {}): Promise<bigint> {
    const { signal } = options
    return this.#turns.take(signal, async () => {
      const cancel = (): void => {
        if (!this.#closing) this.#native.cancel()
      }
      signal?.addEventListener('abort', cancel, { once: true })
      try {
        for (;;) {
          const count = await kvmErrors(() => this.#open.wait())
          if (count > 0n) return count
          signal?.throwIfAborted()
        }
      } finally {
        signal?.removeEventListener('abort', cancel)
      }
    })
  }

  /** Closes the descriptor and ends waits; twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close()
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
