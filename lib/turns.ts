// Turns at what only one may wait for at a time. They know nothing of what that is.

/** What `work` comes to, or a rejection with the signal's reason when that comes first; the work goes on then. @internal */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  let abort!: () => void
  const aborted = new Promise<never>((_resolve, reject) => {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the signal's reason as it is
    abort = () => reject(signal.reason)
  })
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/**
 * Who comes first goes first; who is aborted leaves the queue at once.
 *
 * @internal
 */
export class Turns {
  #last: Promise<void> = Promise.resolve()

  /** Calls `body` when its turn has come; the turn lasts until that settles. Rejects with the signal's reason before. */
  async take<T>(signal: AbortSignal | undefined, body: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted()
    const before = this.#last
    let leave!: () => void
    const own = new Promise<void>(resolve => (leave = resolve))
    this.#last = before.then(() => own)
    try {
      await unlessAborted(before, signal)
      signal?.throwIfAborted()
      return await body()
    } finally {
      leave()
    }
  }
}
