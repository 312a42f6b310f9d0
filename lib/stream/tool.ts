// Runs the programs that the work is left to: qemu-img, sfdisk, debugfs, readelf.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { StreamError } from './errors.js'

/** Which Debian package has a program, for the error. */
const packages: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-system-x86_64': 'qemu-system-x86',
  nbdkit: 'nbdkit',
  sfdisk: 'fdisk',
  debugfs: 'e2fsprogs',
  readelf: 'binutils',
  setpriv: 'util-linux'
}

/** What to say when a program is not there. @internal */
export function missing(program: string, cause?: unknown): StreamError {
  const name = packages[program]
  return new StreamError(`The program ${program} is not there${name === undefined ? '' : `: install it (Debian's package ${name})`}`, {
    code: 'TOOL_MISSING',
    ...(cause !== undefined && { cause })
  })
}

/** Why a program did not start. @internal */
export function startError(program: string, error: Error): Error {
  return (error as NodeJS.ErrnoException).code === 'ENOENT' ? missing(program, error) : error
}

/** This process's environment, with the folders where only root looks: e2fsprogs, fdisk and nbdkit lie there. @internal */
export const toolEnvironment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  PATH: `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`
})

/** Whether a program is there. @internal */
export function isInstalled(program: string): boolean {
  return (toolEnvironment()['PATH'] ?? '').split(':').some(folder => existsSync(path.join(folder, program)))
}

/**
 * Its standard output.
 *
 * @param options.limit - of the output, in bytes; default 64 MiB
 * @param options.anyStatus - none is a failure
 * @param options.cwd - the folder in which it runs
 * @throws StreamError `TOOL_MISSING`, `TOOL_FAILED`
 * @internal
 */
export function runTool(
  [program, ...args]: readonly [string, ...string[]],
  options: { signal?: AbortSignal; limit?: number; input?: string; anyStatus?: boolean; cwd?: string } = {}
): Promise<string> {
  const { signal, limit = 64 << 20, input, anyStatus = false, cwd } = options
  return new Promise((resolve, reject) => {
    const env = { ...toolEnvironment(), LC_ALL: 'C' }
    const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'], ...(signal && { signal }), ...(cwd !== undefined && { cwd }) })
    const out: Buffer[] = []
    let size = 0
    let said = ''
    child.stdout.on('data', (piece: Buffer) => {
      size += piece.length
      if (size > limit) child.kill('SIGKILL')
      else out.push(piece)
    })
    child.stderr.on('data', (piece: Buffer) => {
      if (said.length < 4096) said += piece.toString()
    })
    child.stdin.on('error', () => undefined)
    child.stdin.end(input ?? '')
    child.once('error', error => {
      if (signal?.aborted) reject(signal.reason as Error)
      else reject(startError(program, error))
    })
    child.once('close', (status, killed) => {
      if (status === 0 || (anyStatus && status !== null)) return resolve(Buffer.concat(out).toString('utf8'))
      const how = size > limit ? `it printed more than ${limit} bytes` : [killed, said.trim()].filter(Boolean).join(': ') || `status ${status}`
      reject(new StreamError(`${program} ${args.join(' ').slice(0, 200)}: ${how}`, { code: 'TOOL_FAILED' }))
    })
  })
}
