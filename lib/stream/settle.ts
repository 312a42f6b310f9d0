// A promise that is settled from outside, and that nobody need await.

/** @internal */
export interface Settle<T = void> {
  promise: Promise<T>
  resolve: (value: T) => void
  reject: (error: unknown) => void
}

/** @internal */
export function settleLater<T = void>(): Settle<T> {
  let settle!: Pick<Settle<T>, 'resolve' | 'reject'>
  const promise = new Promise<T>((resolve, reject) => (settle = { resolve, reject }))
  promise.catch(() => undefined)
  return { promise, ...settle }
}
