// A raw image behind nbdkit's own curl plugin, and nothing of ours: what reading on demand alone gives. What was read, and how
// long it took, is in the log of nbdkit's own filter.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { ToolError } from '../../scripts/shared/error.mjs'

const STALL_MS = 100
/** As many requests as our disk has under way: with 1.34 and later; before one goes behind the other. */
const THREADS = 16
const START_MS = 30_000

/** Reads of a log, each `{ atMs, ms, bytes }`, by this process's clock; those without an answer yet are left out. */
export function readsOf(log) {
  const under = new Map()
  const reads = []
  for (const line of log.split('\n')) {
    const [, day, time, connection, answer, id, rest] = /^(\S+) (\S+) connection=(\d+) (\.\.\.)?Read id=(\d+) (.*)$/.exec(line) ?? []
    if (id === undefined) continue
    // Of the time the milliseconds are all that a date can hold.
    const [seconds, fraction] = time.split('.')
    const atMs = Date.parse(`${day}T${seconds}Z`) + Number(`0.${fraction}`) * 1000 - performance.timeOrigin
    const key = `${connection} ${id}`
    if (answer === undefined) under.set(key, { atMs, bytes: Number(/count=(\S+)/.exec(rest)?.[1] ?? 0) })
    else {
      const read = under.get(key)
      under.delete(key)
      if (read) reads.push({ ...read, ms: atMs - read.atMs })
    }
  }
  return reads
}

export function counted(reads) {
  return {
    stalls: reads.filter(({ ms }) => ms > STALL_MS).length,
    waited: { reads: reads.length, ms: reads.reduce((sum, { ms }) => sum + ms, 0), longestMs: Math.max(0, ...reads.map(({ ms }) => ms)) }
  }
}

/** As the streamed disk of a start. @param where.url - of the raw image */
export async function plainDisk({ url }, { processors, closing }) {
  const folder = mkdtempSync(path.join(tmpdir(), 'bench-nbdkit-'))
  closing.push(() => rmSync(folder, { recursive: true, force: true }))
  const socket = path.join(folder, 'socket')
  const log = path.join(folder, 'log')
  const parallel = spawnSync('nbdkit', ['curl', '--help'], { encoding: 'utf8' }).stdout.includes('connections=') ? [`connections=${THREADS}`] : []
  const words = ['nbdkit', '--exit-with-parent', '-f', '-r', '-U', socket, '-t', String(THREADS), '--filter=log', 'curl', `url=${url}`, ...parallel, `logfile=${log}`]
  const [command, ...args] = processors ? ['taskset', '--cpu-list', processors.rest, ...words] : words
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, TZ: 'UTC', LC_ALL: 'C' } })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', text => (said += text))
  const ended = once(child, 'close')
  closing.push(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const late = Date.now() + START_MS
  while (!existsSync(socket)) {
    if (child.exitCode !== null || Date.now() > late) throw new ToolError(`nbdkit does not serve ${url}: ${said.trim()}`)
    await sleep(10)
  }
  const reads = () => readsOf(readFileSync(log, 'utf8'))
  const bytes = () => reads().reduce((sum, { bytes }) => sum + bytes, 0)
  return { server: { socket }, progress: () => ({ bytes: bytes() }), counters: async () => counted(reads()), seen: async () => ({ seen: counted(reads()) }) }
}
