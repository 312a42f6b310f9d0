// What the commands share: exit codes, arguments, output, interruption.
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { SingleBar } from 'cli-progress'
import { InvalidArgumentError } from 'commander'
import { HypertwinError } from '../errors.js'

/** How the command ends. docs/cli.md says the same. */
export const Exit = {
  /** Done, and all is well. */
  ok: 0,
  /** Done, and something is wrong: a divergence, a lost operation, a damaged log; or the work failed. */
  failed: 1,
  /** The arguments cannot be. */
  usage: 2,
  /** KVM cannot be used here. */
  noKvm: 3,
  /** Ctrl-C or SIGTERM. */
  interrupted: 130
} as const

/** Ends the command with a sentence and an exit code. */
export class CliError extends HypertwinError {
  override name = 'CliError'
  constructor(
    message: string,
    readonly exitCode: number = Exit.failed,
    code: string = exitCode === Exit.usage ? 'EUSAGE' : 'EFAILED'
  ) {
    super(message, { code })
  }
}

/** For arguments that cannot be; the message says what to do. */
export function usage(message: string): CliError {
  return new CliError(message, Exit.usage)
}

// ---- arguments

/** A whole number within limits, for commander. */
export function integer(min: number, max: number): (text: string) => number {
  return text => {
    const value = Number(text)
    if (!/^\d+$/.test(text) || value < min || value > max)
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
    return value
  }
}

/** A positive number of seconds, for commander. */
export function seconds(text: string): number {
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0 || value > 86400)
    throw new InvalidArgumentError('It must be a number of seconds, above 0 and at most 86400.')
  return value
}

/** A boundary's ordinal, for commander. */
export function boundary(text: string): bigint {
  if (!/^\d{1,19}$/.test(text)) throw new InvalidArgumentError('It must be a boundary: a whole number from 0 on.')
  return BigInt(text)
}

/** A size of memory such as 32MiB, for commander. */
export function memorySize(text: string): string | number {
  const match = /^(\d+)(\s*(KiB|MiB|GiB))?$/.exec(text)
  if (!match || Number(match[1]) === 0) throw new InvalidArgumentError('It must be a size such as 32MiB.')
  return match[2] === undefined ? Number(text) : text
}

/** Collects an option that may be given several times, for commander. */
export function collect(text: string, before: string[] = []): string[] {
  return [...before, text]
}

/** The ELF file that `guest` means: a path, or the name of one of the package's guests. */
export function resolveGuest(guest: string): string {
  if (guest.includes('/') || existsSync(guest)) {
    if (existsSync(guest)) return guest
    throw usage(`There is no file ${guest}: give the path of a Linux kernel (bzImage) or of an ELF file with a PVH entry, or one of ${guestNames()}`)
  }
  const file = path.join(guestsFolder, `${guest}.elf`)
  if (existsSync(file)) return file
  throw usage(`There is no guest "${guest}": give the path of a Linux kernel (bzImage) or of an ELF file with a PVH entry, or one of ${guestNames()}`)
}

const guestsFolder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../dist/guests')

function guestNames(): string {
  try {
    return readdirSync(guestsFolder)
      .filter(name => name.endsWith('.elf'))
      .map(name => name.slice(0, -4))
      .sort()
      .join(', ')
  } catch {
    return '(none are built: run `npm run build`)'
  }
}

/** Throws unless `folder` holds an event log. */
export function needLog(folder: string): string {
  if (!existsSync(folder)) throw usage(`There is no folder ${folder}: give the folder that a recording wrote`)
  return folder
}

// ---- output

/**
 * For a terminal. Images, guests and servers choose some of what is told, and a terminal obeys what it is shown: their
 * control characters are replaced, all but tabs and ends of lines.
 */
export function printable(text: string): string {
  return text.replace(CONTROLS, '\ufffd')
}

const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g

/** A name that somebody else chose, within a line: it makes no lines of its own. */
export function nameOf(text: string): string {
  return printable(text).replace(/[\t\n]/g, '\ufffd')
}

/** A line on standard error. */
export function note(text: string): void {
  process.stderr.write(`hypertwin: ${printable(text)}\n`)
}

/** What a person sees while a command works: on standard output, or beside the JSON on standard error. */
export class Ui {
  readonly stream: NodeJS.WriteStream
  readonly tty: boolean
  #live = false

  constructor(readonly json: boolean) {
    this.stream = json ? process.stderr : process.stdout
    this.tty = this.stream.isTTY === true
  }

  /** A line. */
  say(text = ''): void {
    this.#clear()
    this.stream.write(`${printable(text)}\n`)
  }

  /** A line that the next one replaces on a terminal, and that follows the last one elsewhere. */
  live(text: string): void {
    if (!this.tty) return this.say(text)
    this.#clear()
    this.stream.write(nameOf(text).slice(0, Math.max(20, (this.stream.columns ?? 80) - 1)))
    this.#live = true
  }

  /** Several lines, coloured or not, that replace those before, of the same number, on a terminal. */
  picture(text: string, first: boolean): void {
    this.#clear()
    if (this.tty && !first) this.stream.write(`\x1b[${text.split('\n').length}A\x1b[J`)
    this.stream.write(`${text}\n`)
  }

  /** A progress bar, on a terminal only. */
  bar(label: string, total: number): { update(value: number): void; stop(): void } {
    this.#clear()
    const bar = new SingleBar({
      stream: this.stream,
      format: `${label} {bar} {percentage}%  {value}/{total}  {eta_formatted}`,
      barsize: 30,
      hideCursor: true,
      clearOnComplete: true,
      noTTYOutput: false
    })
    if (!this.tty) return { update() {}, stop() {} }
    bar.start(Math.max(1, total), 0)
    return {
      update: value => bar.update(Math.min(value, Math.max(1, total))),
      stop: () => bar.stop()
    }
  }

  /** With --json: the one line on standard output. */
  result(value: object): void {
    if (this.json) process.stdout.write(`${toJson(value)}\n`)
  }

  #clear(): void {
    if (this.#live) this.stream.write('\r\x1b[K')
    this.#live = false
  }
}

/** JSON in one line; a bigint is a number where that is exact, else a string. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'bigint'
      ? item <= BigInt(Number.MAX_SAFE_INTEGER)
        ? Number(item)
        : item.toString()
      : item instanceof Uint8Array
        ? Buffer.from(item).toString('hex')
        : item
  )
}

/** A number of bytes for people. */
export function bytes(count: number): string {
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10]
  ] as const)
    if (count >= size) return `${(count / size).toFixed(count >= 100 * size ? 0 : 1)} ${unit}`
  return `${Math.round(count)} B`
}

/** A count for people. */
export function count(value: number | bigint): string {
  return (typeof value === 'bigint' ? value : Math.round(value)).toLocaleString('en-US')
}

// ---- the process

/** Aborted by Ctrl-C or SIGTERM; a second one ends the process. */
export function interruption(): AbortSignal {
  const controller = new AbortController()
  const handler = () => {
    if (controller.signal.aborted) process.exit(Exit.interrupted)
    controller.abort(new CliError('Interrupted', Exit.interrupted, 'EINTERRUPTED'))
  }
  process.on('SIGINT', handler)
  process.on('SIGTERM', handler)
  brokenPipe.end = handler
  return controller.signal
}

/** After so many milliseconds, or as soon as the signal is aborted; true in the first case. */
export function sleep(ms: number, signal: AbortSignal): Promise<boolean> {
  return new Promise(resolve => {
    if (signal.aborted) return resolve(false)
    const aborted = () => {
      clearTimeout(timer)
      resolve(false)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', aborted)
      resolve(true)
    }, ms)
    signal.addEventListener('abort', aborted, { once: true })
  })
}

/** Standard output that nobody reads any more ends the command as SIGPIPE would, with this exit code. */
export const brokenPipe = { exitCode: 141, happened: false, end: undefined as (() => void) | undefined }

/** How long a command whose output nobody reads may take to put things in order, in milliseconds. */
const UNREAD_MS = 10_000

/** Nobody reads standard output any more: a command that can be interrupted ends as if it were, any other one at once. */
export function endUnread(): void {
  if (brokenPipe.happened) return
  brokenPipe.happened = true
  if (!brokenPipe.end) process.exit(brokenPipe.exitCode)
  brokenPipe.end()
  setTimeout(() => process.exit(brokenPipe.exitCode), UNREAD_MS).unref()
}
