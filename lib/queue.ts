// Bounded queues between what happens and who iterates over it. They know nothing of what they carry.

/** For `onFull`, where only how things are now matters: the oldest goes. @internal */
export const keepNewest = <T>(items: T[], item: T): T[] => [...items.slice(1), item]

/**
 * One consumer's bounded queue, as an async iterable that is iterated once.
 *
 * @internal
 */
export class Queue<T> implements AsyncIterableIterator<T> {
  #items: T[] = []
  #waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = []
  #ended = false
  #error: { error: unknown } | undefined
  readonly #limit: number
  readonly #onFull: (items: T[], item: T) => T[]
  readonly #onClose: () => void
  readonly #signal: AbortSignal | undefined
  readonly #abort = (): void => this.fail(this.#signal?.reason)

  /**
   * @param onFull - gives what the queue holds instead, when `item` comes and `limit` items are there
   * @param onClose - called once, when nothing is delivered any more
   */
  constructor(options: {
    limit: number
    onFull: (items: T[], item: T) => T[]
    onClose: () => void
    signal: AbortSignal | undefined
  }) {
    this.#limit = options.limit
    this.#onFull = options.onFull
    this.#onClose = options.onClose
    this.#signal = options.signal
    if (this.#signal?.aborted) {
      // Its maker does not know it yet, so onClose is not for it.
      this.#error = { error: this.#signal.reason }
      this.#ended = true
    } else this.#signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** Whether nothing comes any more. */
  get ended(): boolean {
    return this.#ended
  }

  push(item: T): void {
    if (this.#ended) return
    const waiting = this.#waiting.shift()
    if (waiting) waiting.resolve({ done: false, value: item })
    else if (this.#items.length < this.#limit) this.#items.push(item)
    else this.#items = this.#onFull(this.#items, item)
  }

  /** What is queued is still delivered. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#signal?.removeEventListener('abort', this.#abort)
    for (const waiting of this.#waiting.splice(0)) waiting.resolve({ done: true, value: undefined })
    this.#onClose()
  }

  fail(error: unknown): void {
    if (this.#ended) return
    this.#items = []
    const first = this.#waiting.shift()
    if (first) first.reject(error)
    else this.#error = { error }
    this.end()
  }

  next(): Promise<IteratorResult<T>> {
    if (this.#items.length > 0) return Promise.resolve({ done: false, value: this.#items.shift() as T })
    if (this.#error) {
      const { error } = this.#error
      this.#error = undefined
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the signal's reason as it is
      return Promise.reject(error)
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  return(): Promise<IteratorResult<T>> {
    this.#items = []
    this.end()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

/**
 * Gives all that it is told to everybody who iterates, each with a queue of their own.
 *
 * @internal
 */
export class Broadcast<T> {
  readonly #queues = new Set<Queue<T>>()
  #over = false

  /** Whether anybody iterates. */
  get heard(): boolean {
    return this.#queues.size > 0
  }

  /**
   * A new iteration, of `first` and of all that is pushed from now on.
   *
   * @param options - as those of a {@link Queue}
   */
  iterate(
    options: { limit: number; onFull: (items: T[], item: T) => T[]; signal?: AbortSignal | undefined },
    ...first: T[]
  ): Queue<T> {
    const queue: Queue<T> = new Queue<T>({ ...options, signal: options.signal, onClose: () => this.#queues.delete(queue) })
    for (const item of first) queue.push(item)
    if (this.#over) queue.end()
    else if (!queue.ended) this.#queues.add(queue)
    return queue
  }

  push(item: T): void {
    for (const queue of this.#queues) queue.push(item)
  }

  /** For all, and for who comes later. */
  end(): void {
    this.#over = true
    for (const queue of this.#queues) queue.end()
  }
}
