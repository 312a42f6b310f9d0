// The same calls through libvirt-python and through this binding, and what came of them side by side.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { Test } from 'tap'
import { Connect, CpuSet, Handle, LibvirtError } from '../../lib/libvirt/index.js'
import { Reference, type Answer, type Json } from './reference.js'

/** An object that an earlier call gave, in arguments. */
export class Ref {
  constructor(readonly name: string) {}
}
export const ref = (name: string): Ref => new Ref(name)

/** A set of CPUs as Python wants it. */
export class Cpus {
  constructor(readonly cpus: number[]) {}
}

export interface CallOptions {
  /** Keeps the result (of a list: NAME.0, NAME.1 and so on) for later calls. */
  as?: string
  /** The arguments for Python, where they are others. */
  python?: unknown[]
  /** The result as Python has it, where the rules below do not make it. */
  give?: (result: never) => unknown
  /** What changes by itself: numbers of it need not be equal, only be numbers. */
  varies?: boolean
  /** A list in no order. */
  unordered?: boolean
}

/** A function by libvirt's name, the object that it is called on, its arguments. */
export type Row = [name: string, on: string, args?: unknown[], options?: CallOptions]

const probe = spawnSync('/usr/bin/python3', ['-c', 'import libvirt; print(libvirt.__file__)'], { encoding: 'utf8' })

/** Why there is nothing to compare with, or false. */
export const noReference =
  probe.status === 0 ? false : 'python3-libvirt is not installed (apt-get install python3-libvirt): it is the reference'

/** libvirt-python gives None for these when they fail. */
const silent = new Set([
  'virDomainGetGuestVcpus',
  'virDomainMigrateGetCompressionCache',
  'virDomainMigrateGetMaxDowntime',
  'virNodeDeviceGetParent'
])

/** libvirt-python's method for each of libvirt's functions. */
function pythonMethods(): Map<string, string> {
  const methods = new Map<string, string>()
  let method = ''
  const pattern = /^ {4}def (\w+)\(self|libvirtmod\.(\w+)\(/gm
  for (const [, defined, called] of readFileSync(probe.stdout.trim(), 'utf8').matchAll(pattern))
    if (defined !== undefined) method = defined
    else if (called !== undefined && !methods.has(called)) methods.set(called, method)
  return methods
}

/** This binding's method for each, as its documentation has it. */
function ourMethods(): Map<string, string> {
  const methods = new Map<string, string>()
  const folder = path.resolve('lib/libvirt/generated')
  for (const file of readdirSync(folder)) {
    const text = readFileSync(path.join(folder, file), 'utf8')
    for (const [, name, method] of text.matchAll(/@see \[(\w+)\]\([^)]*\)\n(?: {3}\*[^\n]*\n)+? {2}(\w+)[(<]/g))
      methods.set(name as string, method as string)
  }
  return methods
}

/** One connection on each side. */
export class Comparison implements AsyncDisposable {
  readonly compared = new Set<string>()
  calls = 0
  failures = 0
  readonly #reference = new Reference()
  readonly #python = pythonMethods()
  readonly #ours = ourMethods()
  readonly #handles = new Map<string, Handle>()

  static async open(uri: string): Promise<Comparison> {
    const comparison = new Comparison()
    comparison.#handles.set('connect', await Connect.open(uri))
    await comparison.#reference.call({ object: 'libvirt', method: 'open', args: [uri], as: 'connect' })
    return comparison
  }

  async run(t: Test, rows: Row[]): Promise<void> {
    for (const row of rows) {
      const { what, difference } = await this.compare(row)
      if (difference === undefined) t.pass(what)
      else t.fail(`${what}: ${difference}`)
    }
  }

  /** In what the two sides differ, for people; undefined when they do not. */
  async compare([name, on, args = [], options = {}]: Row): Promise<{ what: string; difference: string | undefined }> {
    const call = `${name}(${args.map(show).join(', ')})`
    const method = this.#ours.get(name)
    const theirs = this.#python.get(name)
    const target = this.#handles.get(on)
    if (method === undefined || theirs === undefined)
      return { what: call, difference: `it is not in ${method === undefined ? 'hypertwin' : 'libvirt-python'}` }
    if (!target) return { what: call, difference: `there is no ${on}` }
    const answer = await this.#reference.call({
      object: on,
      method: theirs,
      args: (options.python ?? args).map(arg => toPython(arg)),
      ...(options.as === undefined ? {} : { as: options.as })
    })
    const body = (target as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]
    const given = args.map(arg => (arg instanceof Ref ? this.#handles.get(arg.name) : arg))
    this.calls++
    this.compared.add(name)
    let result: unknown
    try {
      result = await body?.apply(target, given)
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error
      this.failures++
      const swallowed = silent.has(name) && answer.result === null
      return { what: `${call} fails: ${error.code}`, difference: swallowed ? undefined : errorsDiffer(error, answer) }
    }
    this.#keep(result, options.as)
    if (options.give) result = options.give(result as never)
    if (options.unordered) for (const list of [result, answer.result]) if (Array.isArray(list)) list.sort()
    return { what: call, difference: resultsDiffer(result, answer, options.varies === true) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close()
    await this.#reference[Symbol.asyncDispose]()
  }

  #keep(result: unknown, as: string | undefined): void {
    if (as === undefined) return
    if (result instanceof Handle) this.#handles.set(as, result)
    if (Array.isArray(result))
      result.forEach((one, i) => {
        if (one instanceof Handle) this.#handles.set(`${as}.${i}`, one)
      })
  }
}

const show = (arg: unknown): string => {
  if (arg instanceof Ref) return arg.name
  if (typeof arg === 'string') return JSON.stringify(arg.slice(0, 30))
  return typeof arg === 'object' ? '…' : `${arg as number | bigint | boolean | undefined}`
}

function toPython(arg: unknown): Json {
  if (arg instanceof Ref) return { $handle: arg.name }
  if (arg instanceof Cpus)
    return { $tuple: Array.from({ length: Math.max(...arg.cpus) + 1 }, (_, cpu) => arg.cpus.includes(cpu)) }
  if (arg === undefined) return null
  if (typeof arg === 'bigint') return { $int: String(arg) }
  if (arg instanceof Uint8Array) return { $bytes: Buffer.from(arg).toString('hex') }
  if (Array.isArray(arg)) return arg.map(toPython)
  if (typeof arg === 'object' && arg !== null)
    return Object.fromEntries(Object.entries(arg).map(([key, value]) => [key, toPython(value)]))
  return arg as Json
}

function errorsDiffer(error: LibvirtError, { result, error: theirs }: Answer): string | undefined {
  if (!theirs) return `here ${error.code}: ${error.message}; there ${JSON.stringify(result)}`
  const pairs: [string, unknown, unknown][] = [
    ['code', error.number, theirs['code']],
    ['domain', error.domain, theirs['domain']],
    ['level', error.level, theirs['level']],
    ['str1', error.str1, theirs['str1']],
    ['str2', error.str2, theirs['str2']],
    ['str3', error.str3, theirs['str3']],
    ['int1', error.int1, theirs['int1']],
    ['int2', error.int2, theirs['int2']]
  ]
  const differing = pairs.find(([, here, there]) => (here ?? null) !== (there ?? null))
  // Ours says which function failed, first.
  if (!differing && error.message.endsWith(theirs.message)) return undefined
  return `${differing?.[0] ?? 'message'}: here ${error.message}; there ${JSON.stringify(theirs)}`
}

function resultsDiffer(result: unknown, { result: theirs, error }: Answer, varies: boolean): string | undefined {
  if (error) return `here ${describe(result)}; there ${error.type}: ${error.message}`
  return alike(result, theirs ?? null, varies) ? undefined : `here ${describe(result)}; there ${JSON.stringify(theirs)}`
}

const describe = (value: unknown): string =>
  JSON.stringify(value, (_, one: unknown) =>
    typeof one === 'bigint' ? `${one}n` : one instanceof Set ? [...one] : one instanceof Handle ? one.constructor.name : one
  ) ?? 'undefined'

const tagged = (value: Json, tag: string): string | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && typeof value[tag] === 'string' ? value[tag] : undefined

/** Whether a value of ours says what a value of Python's does. */
function alike(ours: unknown, theirs: Json, varies: boolean): boolean {
  // A function without a result: Python gives C's 0, or None.
  if (ours === undefined || ours === null) return theirs === null || theirs === 0 || theirs === ''
  if (typeof ours === 'boolean') return Number(ours) === Number(theirs)
  if (typeof ours === 'number' || typeof ours === 'bigint') {
    const number = tagged(theirs, '$int') ?? theirs
    if (typeof number !== 'number' && typeof number !== 'string' && typeof number !== 'boolean') return false
    return varies || String(ours) === String(typeof number === 'boolean' ? Number(number) : number)
  }
  const bytes = tagged(theirs, '$bytes')
  if (typeof ours === 'string') return bytes === undefined ? ours === theirs : ours.replaceAll('-', '') === bytes
  if (ours instanceof Uint8Array) return bytes === Buffer.from(ours).toString('hex')
  if (ours instanceof Handle) return tagged(theirs, '$object') === `vir${ours.constructor.name}`
  if (ours instanceof CpuSet)
    return Array.isArray(theirs) && [...ours].every(cpu => theirs[cpu] === true) && theirs.filter(Boolean).length === ours.size
  if (Array.isArray(ours))
    return Array.isArray(theirs) && ours.length === theirs.length && ours.every((one, i) => alike(one, theirs[i] as Json, varies))
  const entries = Object.entries(ours)
  if (Array.isArray(theirs))
    return entries.length === theirs.length && entries.every(([, one], i) => alike(one, theirs[i] as Json, varies))
  return (
    typeof theirs === 'object' &&
    theirs !== null &&
    Object.keys(theirs).length === entries.length &&
    entries.every(([key, one]) => key in theirs && alike(one, theirs[key] as Json, varies))
  )
}
