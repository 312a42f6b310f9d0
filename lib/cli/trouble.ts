// Turns what went wrong into a sentence, and an exit code.
import { HypertwinError } from '../errors.js'
import { CliError, Exit } from './common.js'

/** Codes that say that what the user gave cannot be. */
const argumentCodes = new Set(['LOG_NOT_FOUND', 'LOG_EXISTS', 'BAD_KERNEL', 'BAD_CONFIG', 'BAD_ADDRESS', 'EINVAL'])

/** What to tell about an error. One that nobody foresaw comes with its stack. */
export function explain(error: Error): { message: string; exitCode: number; code: string } {
  // What went wrong first; that closing went wrong too is a consequence.
  if (error.name === 'SuppressedError') return explain((error as SuppressedError).suppressed as Error)
  if (error instanceof CliError) return { message: error.message, exitCode: error.exitCode, code: error.code }
  if (error instanceof HypertwinError) {
    const exitCode = argumentCodes.has(error.code) && error.errno === undefined ? Exit.usage : Exit.failed
    return { message: error.message, exitCode, code: error.code }
  }
  const { code, syscall } = error as NodeJS.ErrnoException
  if (code !== undefined && syscall !== undefined) return { message: error.message, exitCode: Exit.failed, code }
  return { message: error.stack ?? error.message, exitCode: Exit.failed, code: code ?? 'EUNEXPECTED' }
}
