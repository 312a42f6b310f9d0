/** By this process's clock. */
export interface LoggedRead {
  atMs: number
  ms: number
  bytes: number
}

export function readsOf(log: string): LoggedRead[]
export function counted(reads: LoggedRead[]): {
  stalls: number
  waited: { reads: number; ms: number; longestMs: number }
}
