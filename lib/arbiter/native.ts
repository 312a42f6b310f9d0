// An arbiter as the addon calls it. Its layers are migrate and ha.
import type { Arbiter } from './arbiter.js'
import { invalid } from './errors.js'

/** Calls `answer` once: 0 won, 1 lost, 2 unreachable. @internal */
export type NativeArbiter = (key: string, who: string, answer: (claim: 0 | 1 | 2) => void) => void

/** @internal */
export function nativeArbiter(arbiter: Arbiter): NativeArbiter {
  if (typeof arbiter !== 'object' || arbiter === null || typeof arbiter.claim !== 'function')
    throw invalid('an arbiter must have a method claim()')
  const ask = async (key: string, who: string): Promise<0 | 1 | 2> => {
    try {
      const claim = await arbiter.claim(key, who)
      return claim === 'won' ? 0 : claim === 'lost' ? 1 : 2
    } catch {
      return 2
    }
  }
  return (key, who, answer) => void ask(key, who).then(answer)
}
