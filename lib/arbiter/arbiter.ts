// What an arbiter is: the one that says which side may run a machine when both could.

/**
 * An arbiter's answer.
 * - `'won'`: you, and for ever; asking again gives the same answer
 * - `'lost'`: the other side has it
 * - `'unreachable'`: nobody knows now: take no risk, ask again. The claim may or may not have been made.
 *
 * @since 0.1.0
 */
export type Claim = 'won' | 'lost' | 'unreachable'

/**
 * Decides who goes on when two sides could run the same machine: an atomic test-and-set that both reach
 * ({@link FileArbiter}, {@link EtcdArbiter}). An implementation of your own must keep three promises:
 * of all who claim a key at most one ever hears `'won'`, whatever is killed or loses power meanwhile; who has
 * won hears `'won'` again when asking again; what it does not know it calls `'unreachable'`, and it answers within
 * seconds. A claim that takes longer than 10 s, or rejects, counts as `'unreachable'`.
 *
 * @since 0.1.0
 */
export interface Arbiter {
  /**
   * Claims `key` for `who`.
   *
   * @param key - names the session: 32 hexadecimal digits
   * @param who - names the side: `'source'`, `'destination'`, `'primary'`, `'backup'`
   */
  claim(key: string, who: string): Promise<Claim>
  /**
   * Makes the first claim quick, for example by connecting. Called before a claim can be needed.
   *
   * @returns whether claims can be made now
   */
  prepare?(): Promise<boolean>
  /** Gives connections back. */
  close?(): Promise<void>
}
