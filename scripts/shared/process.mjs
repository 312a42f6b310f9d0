// Programs run to their end, and processes told apart from later ones with the same number.
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { ToolError } from './error.mjs'

/** Runs a program to its end; a missing program rejects, a status other than 0 does not. */
export function execute([program, ...args], { input = '', timeout = 120_000, env = process.env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout, killSignal: 'SIGKILL', env })
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr']) child[name].setEncoding('utf8').on('data', text => (output[name] += text))
    child.once('error', error => reject(new ToolError(`${program}: ${error.message}`, { cause: error })))
    child.once('close', (status, signal) => resolve({ status, signal, ...output }))
    child.stdin.on('error', () => {})
    child.stdin.end(input)
  })
}

/** As execute(), but a status other than 0 rejects; the standard output. */
export async function must(command, options) {
  const { status, signal, stdout, stderr } = await execute(command, options)
  if (status === 0) return stdout
  throw new ToolError(`${command.join(' ')} ended with ${signal ?? status}: ${stderr.trim() || stdout.trim()}`)
}

const boot = () => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()

// The state letter and the time of its start, counted in ticks since the machine was booted.
function look(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { state: fields[0], start: fields[19] }
  } catch {
    return undefined
  }
}

/** What names this process and no later one. */
export function identify(pid) {
  const start = look(pid)?.start
  if (start === undefined) throw new ToolError(`process ${pid} has ended`)
  return { pid, start, boot: boot() }
}

/** @param identity - from identify(), also after it was written to a file and read */
export function isAlive(identity) {
  const now = identity && look(identity.pid)
  return now !== undefined && now.state !== 'Z' && now.start === identity.start && identity.boot === boot()
}

/** Sends a signal to a process unless it has ended. */
export function signalIfAlive(identity, signal) {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, signal)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

/** Resolves when a process has ended. */
export async function ended(identity, { timeout = 30_000 } = {}) {
  const deadline = Date.now() + timeout
  while (isAlive(identity)) {
    if (Date.now() > deadline) throw new ToolError(`process ${identity.pid} does not end`)
    await sleep(10)
  }
}

/** The processes of a PID namespace, given by one of them: their numbers here and in it, names and arguments. */
export function processesBeside(pid) {
  const namespaceOf = id => {
    try {
      return readlinkSync(`/proc/${id}/ns/pid`)
    } catch {
      return undefined
    }
  }
  const namespace = namespaceOf(pid)
  const found = []
  for (const entry of namespace ? readdirSync('/proc') : []) {
    if (!/^\d+$/.test(entry) || namespaceOf(entry) !== namespace) continue
    try {
      const status = readFileSync(`/proc/${entry}/status`, 'utf8')
      if (/^State:\s*Z/m.test(status)) continue
      found.push({
        pid: Number(entry),
        inner: Number(/^NSpid:.*\s(\d+)$/m.exec(status)[1]),
        name: /^Name:\s*(.*)$/m.exec(status)[1],
        args: readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').slice(0, -1)
      })
    } catch {
      // It has ended meanwhile.
    }
  }
  return found
}
