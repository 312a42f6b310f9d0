// The error class of hypertwin/arbiter, and the check of what is claimed.
import { HypertwinError, type HypertwinErrorDetails } from '../errors.js'

/**
 * What hypertwin/arbiter throws and rejects with; a claim itself never rejects because an arbiter fails, it
 * answers `'unreachable'`. `code` is
 * - `'EINVAL'`: an argument of the wrong type or value
 * - `'CLOSED'`: the arbiter is closed
 *
 * @since 0.1.0
 */
export class ArbiterError extends HypertwinError {
  override name = 'ArbiterError'

  /** @param details - see {@link HypertwinError} */
  constructor(message: string, details: HypertwinErrorDetails) {
    super(message, details)
  }
}

/** @internal */
export function invalid(message: string): ArbiterError {
  return new ArbiterError(message, { code: 'EINVAL' })
}

/** Both become names of files and keys. @internal */
export function checkClaim(key: unknown, who: unknown): void {
  for (const [what, value] of [
    ['a key', key],
    ['who claims', who]
  ] as const)
    if (typeof value !== 'string' || !/^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$/.test(value))
      throw invalid(`${what} must be 1 to 100 letters, digits, '-' and '_', not ${JSON.stringify(value) ?? typeof value}`)
}

/** @internal */
export function milliseconds(value: unknown, what: string): number {
  if (typeof value !== 'number' || !(value >= 1 && value <= 600_000))
    throw invalid(`${what} must be a number of milliseconds from 1 to 600000`)
  return value
}

/**
 * What `work` gives, or an error after `ms`; the work then goes on unheard.
 *
 * @internal
 */
export function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => reject(new ArbiterError(`${what} took longer than ${ms} ms`, { code: 'ETIMEDOUT' })), ms)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

/**
 * Who has a claim, by its text.
 *
 * @throws ArbiterError `EBADMSG`
 * @internal
 */
export function winnerIn(text: string, where: string): string {
  let winner: unknown
  try {
    winner = (JSON.parse(text) as { winner?: unknown } | null)?.winner
  } catch {
    // Not even JSON.
  }
  if (typeof winner !== 'string') throw new ArbiterError(`${where} is no claim of hypertwin's`, { code: 'EBADMSG' })
  return winner
}
