// Which tracking mode this host can be trusted with, found out by trying each in a child process that is
// killed when it goes silent: there are hosts whose kernel offers the ring and then never returns from KVM_RUN.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { createInterface } from 'node:readline'
import { addonPath } from '../native.js'
import { DirtyError } from './errors.js'

/**
 * How KVM is asked for dirty pages:
 * - `'bitmap'`: KVM_GET_DIRTY_LOG reads the bitmap and protects the pages again in one step
 * - `'manual'`: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: reads, then clears just what was read, in chunks
 * - `'ring'`: KVM_CAP_DIRTY_LOG_RING: each vCPU's own ring; has to be turned on before the first vCPU is created
 *
 * @since 0.1.0
 */
export type DirtyMode = 'bitmap' | 'manual' | 'ring'

/**
 * What trying one mode showed.
 *
 * @since 0.1.0
 */
export interface DirtyModeVerdict {
  /** Which. */
  mode: DirtyMode
  /** Whether every page that a guest wrote, at CPL 3 and at CPL 0, was reported. */
  works: boolean
  /** What was seen, in words. */
  reason: string
}

/**
 * A mode and why it was taken.
 *
 * @since 0.1.0
 */
export interface DirtyModeChoice {
  /** The chosen one. */
  mode: DirtyMode
  /** Why, in words. */
  reason: string
  /** What trying showed, for each mode that was tried. */
  verdicts: DirtyModeVerdict[]
}

/** Why one would want it, best first. */
const virtues: Record<DirtyMode, string> = {
  manual: 'it clears just what it has read, in chunks, so that a running guest waits least',
  ring: 'its cost follows the dirty pages, not the memory',
  bitmap: 'every KVM has it'
}

const program = `
const { dirty } = require(process.argv[1])
for (const user of [true, false]) console.log(JSON.stringify(dirty.probe(process.argv[2], user)))
`

const verdicts = new Map<string, Promise<DirtyModeVerdict>>()

function hostKey(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${os.release()}`
  } catch {
    return os.release()
  }
}

function tryMode(mode: DirtyMode, firstMs: number, silenceMs: number): Promise<DirtyModeVerdict> {
  return new Promise(resolve => {
    const child = spawn(process.execPath, ['-e', program, addonPath, mode], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ELECTRON_RUN_AS_NODE: '1', NODE_OPTIONS: '' }
    })
    const lines: { works: boolean; reason: string }[] = []
    let complaint = ''
    let silent = false
    const kill = (): void => {
      silent = true
      child.kill('SIGKILL')
    }
    let timer = setTimeout(kill, firstMs)
    createInterface({ input: child.stdout }).on('line', line => {
      clearTimeout(timer)
      timer = setTimeout(kill, silenceMs)
      lines.push(JSON.parse(line) as { works: boolean; reason: string })
    })
    child.stderr.on('data', (data: Buffer) => (complaint += data.toString()))
    const end = (what: string): void => {
      clearTimeout(timer)
      const failed = lines.find(line => !line.works)
      const where = lines.length === 0 ? 'at CPL 3' : 'at CPL 0'
      if (failed) resolve({ mode, works: false, reason: failed.reason })
      else if (lines.length === 2)
        resolve({ mode, works: true, reason: lines.map(line => line.reason).join('; ') })
      else if (silent)
        resolve({
          mode,
          works: false,
          reason: `guest writes ${where}: wedges, KVM_RUN did not return within ${lines.length === 0 ? firstMs : silenceMs} ms`
        })
      else {
        const said = /Error: .*/.exec(complaint)?.[0]
        resolve({ mode, works: false, reason: `guest writes ${where}: ${said ?? `the probe ended with ${what}`}` })
      }
    }
    child.on('error', error => end(error.message))
    child.on('close', (code, signal) => end(signal ?? `exit code ${code ?? 'unknown'}`))
  })
}

/**
 * Tries one tracking mode on this host, once per boot and process: later calls give the same verdict.
 *
 * A child process runs a tiny guest that writes known pages, from CPL 3 and from CPL 0, many more than a small ring
 * holds, and compares page for page.
 *
 * @param options - `silenceMs`: how long the child may be silent before it is killed (default 60 s until its first finding, with
 *   which comes its start, then 10 s; usual is 0.3 s)
 * @since 0.1.0
 */
export function probeDirtyMode(mode: DirtyMode, options: { silenceMs?: number } = {}): Promise<DirtyModeVerdict> {
  const key = `${hostKey()} ${mode}`
  let verdict = verdicts.get(key)
  if (!verdict) {
    verdict = tryMode(mode, options.silenceMs ?? 60_000, options.silenceMs ?? 10_000)
    verdicts.set(key, verdict)
  }
  return verdict
}

/**
 * Chooses the first mode of `modes` that works on this host, by trying them all.
 *
 * @param options - `modes`: those to choose from, the most wanted first. Default manual, ring, bitmap.
 * @throws DirtyError `DIRTY_UNUSABLE` when none works, with what was seen of each
 * @since 0.1.0
 */
export async function chooseDirtyMode(options: { modes?: DirtyMode[] } = {}): Promise<DirtyModeChoice> {
  const modes = options.modes ?? ['manual', 'ring', 'bitmap']
  const seen = await Promise.all(modes.map(mode => probeDirtyMode(mode)))
  const chosen = seen.find(verdict => verdict.works)
  const others = seen.filter(verdict => !verdict.works).map(({ mode, reason }) => `${mode} is unusable (${reason})`)
  if (!chosen)
    throw new DirtyError(`dirty pages cannot be tracked on this host: ${others.join(', ')}`, {
      code: 'DIRTY_UNUSABLE'
    })
  return {
    mode: chosen.mode,
    reason: [`${chosen.mode}: ${virtues[chosen.mode]}`, ...others].join('; '),
    verdicts: seen
  }
}
