// A promise that is settled from outside, and that nobody need await.

/** @internal */
export interface Settle {
  promise: Promise<void>
  resolve: () => void
  reject: (error: unknown) => void
}

/** @internal */
export function settleLater(): Settle {
  let settle!: Pick<Settle, 'resolve' | 'reject'>
  const promise = new Promise<void>((resolve, reject) => (settle = { resolve, reject }))
  promise.catch(() => undefined)
  return { promise, ...settle }
}
