// What the scripts of this folder share. Node's built-ins only: it runs before anything is installed.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { accessSync, constants, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')

/** Runs a command with its output on stderr, so that a script's own stdout stays clean; its exit status. */
export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], ...options })
  if (result.error) console.error(`${command}: ${result.error.message}`)
  if (result.signal) console.error(`${command} ended by ${result.signal}`)
  return result.status ?? 1
}

/** A step that failed after it had printed why. */
export class StepFailed extends Error {}

process.on('uncaughtException', error => {
  console.error(error instanceof StepFailed ? error.message : error)
  process.exit(1)
})

/** As run(), and throws when the command fails. */
export function must(command, args, options) {
  const status = run(command, args, options)
  if (status !== 0) throw new StepFailed(`Failed (status ${status}): ${command} ${args.join(' ')}`)
}

/** A command's output, or undefined when it fails or does not exist. */
export function output(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return result.status === 0 ? result.stdout.trim() : undefined
}

export function has(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0
}

/** Why nothing can run on KVM here; undefined where it can. */
export function whyNoKvm() {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK)
  } catch (error) {
    return `/dev/kvm cannot be used (${error.code}): \`npx hypertwin doctor\` says what to do`
  }
}

// Trees in different folders share what ccache has.
process.env.CCACHE_BASEDIR ??= root
process.env.CCACHE_NOHASHDIR ??= 'true'

export const ccache = has('ccache')
  ? ['-DCMAKE_CXX_COMPILER_LAUNCHER=ccache', '-DCMAKE_C_COMPILER_LAUNCHER=ccache']
  : []

/** The program of an installed npm package. */
export function bin(name) {
  return path.join(root, 'node_modules', '.bin', name)
}

/** The files below the given files and folders (relative to the root), sorted; what does not exist is left out. */
export function filesBelow(...names) {
  const found = []
  const visit = name => {
    let entries
    try {
      entries = readdirSync(path.join(root, name), { withFileTypes: true })
    } catch (error) {
      if (error.code === 'ENOTDIR') found.push(name)
      return
    }
    for (const entry of entries) {
      const child = path.join(name, entry.name)
      if (entry.isDirectory()) visit(child)
      else found.push(child)
    }
  }
  names.forEach(visit)
  return found.sort()
}

/** A hash over the names and contents of files, and over what else matters. */
export function hashOf(files, ...rest) {
  const hash = createHash('sha256')
  for (const file of files) hash.update(`${file}\0`).update(readFileSync(path.join(root, file))).update('\0')
  for (const text of rest) hash.update(`${text}\0`)
  return hash.digest('hex')
}

export function readStamp(file) {
  try {
    return readFileSync(path.join(root, file), 'utf8').trim()
  } catch {
    return ''
  }
}

export function writeStamp(file, value) {
  mkdirSync(path.dirname(path.join(root, file)), { recursive: true })
  writeFileSync(path.join(root, file), `${value}\n`)
}
