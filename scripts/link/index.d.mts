/** Why there can be no slow links here, or false. */
export function whyNoLinks(): Promise<string | false>

export interface SlowLink {
  /** The address of this end. */
  readonly near: string
  /** The address of the other end. */
  readonly far: string
  /** A command as it runs at the far end, for spawn(). */
  command(...words: string[]): [string, ...string[]]
  /** The link is gone with all that is at its far end. */
  close(): Promise<void>
}

/** Makes a link: `mbit` megabits a second in each direction, `roundTripMs` when idle, a queue of `queueMs` (200). */
export function slowLink(options: { mbit: number; roundTripMs: number; queueMs?: number }): Promise<SlowLink>
