// Joins libvirt's API description with the annotations: for every function how each parameter is given to
// libvirt and what comes back. Most follows from the C types; the annotations say the rest.
import { readApi } from './api.mjs'
import * as annotations from './annotations.mjs'

/** The C++ `Scalar` of a C type. */
const scalars = {
  char: 'i8',
  'unsigned char': 'u8',
  'unsigned short': 'u16',
  int: 'i',
  'unsigned int': 'u',
  long: 'l',
  'unsigned long': 'ul',
  'long long': 'll',
  'unsigned long long': 'ull',
  virDomainBlockJobCursor: 'ull',
  size_t: 'z',
  double: 'd'
}
export const wide = new Set(['l', 'ul', 'll', 'ull', 'z'])

/** `GetInfo` -> `getInfo`, `FSFreeze` -> `fsFreeze`. */
export function lowerCamel(name) {
  const run = /^[A-Z]+/.exec(name)?.[0] ?? ''
  if (run.length === name.length) return name.toLowerCase()
  const length = run.length > 1 ? run.length - 1 : run.length
  return name.slice(0, length).toLowerCase() + name.slice(length)
}

/** `nr_stats` -> `nrStats`. */
export function camel(name) {
  return name.replace(/_+(\w)/g, (_, letter) => letter.toUpperCase())
}

const versionNumber = text => {
  const [major, minor, release] = text.split('.').map(Number)
  return major * 1_000_000 + minor * 1_000 + (release ?? 0)
}

/** `'out_bytes length=size filled=return ts=cpumap'` as an object. */
function parseSpec(text) {
  const [kind, ...rest] = text.split(' ')
  const spec = { kind }
  for (const word of rest) {
    const [key, value = true] = word.split('=')
    spec[key] = value
  }
  return spec
}

class Describer {
  constructor(api) {
    this.api = api
    this.flagEnums = new Set()
    this.classOf = new Map(annotations.classes.map(entry => [`${entry.type}Ptr`, entry]))
    this.structOf = new Map()
    for (const struct of api.structs) {
      if (annotations.structs[struct.name] === undefined) continue
      this.structOf.set(`${struct.name}Ptr`, struct.name)
      this.structOf.set(`${struct.name.replace(/Struct$/, '')}Ptr`, struct.name)
    }
  }

  /** The result is in the table's order: that of the API description, libraries one after the other. */
  functions(lenient) {
    const bound = this.api.functions.filter(
      ({ name }) =>
        annotations.internal[name] === undefined &&
        annotations.custom[name] === undefined &&
        !(lenient && annotations.functions[name] === undefined)
    )
    this.indexOf = new Map(bound.map(({ name }, index) => [name, index]))
    return bound.map((entry, index) => this.#function(entry, index))
  }

  #function(entry, index) {
    const note = annotations.functions[entry.name]
    if (note === undefined) throw new Error(`annotations.mjs says nothing of ${entry.name}`)
    const [summary, options = {}] = note
    const params = this.#params(entry, options)
    const owner = options.owner ?? this.classOf.get(entry.params[0]?.type)?.name
    const cls = annotations.classes.find(candidate => candidate.name === owner)
    const prefix = cls && entry.name.startsWith(cls.type) ? cls.type : 'vir'
    return {
      index,
      name: entry.name,
      library: entry.library,
      module: entry.module,
      since: entry.since,
      version: versionNumber(entry.since),
      summary,
      lane: options.lane ?? 'quick',
      owner,
      method: options.method ?? lowerCamel(entry.name.slice(prefix.length)),
      params,
      ret: this.#result(entry, options, params),
      ctypes: entry.params.map(param => this.#ctype(param.type)),
      creturn: this.#ctype(entry.result.type),
      out: options.out ?? annotations.typedOutputs[entry.name],
      absent: options.absent === true
    }
  }

  /** The member of `Slot` for a C type. */
  #ctype(type) {
    if (type === 'void') return 'void'
    if (type.includes('*') || type.endsWith('Ptr')) return 'p'
    const scalar = scalars[type]
    if (scalar === undefined) throw new Error(`unknown type ${type}`)
    return scalar
  }

  #params(entry, options) {
    const specs = entry.params.map((param, at) => this.#param(entry, param, at, options))
    const place = name => {
      if (name === undefined || typeof name === 'number') return name
      if (name === 'return') return -2
      const at = entry.params.findIndex(param => param.name === name)
      if (at < 0) throw new Error(`${entry.name} has no parameter ${name}`)
      return at
    }
    for (const spec of specs) for (const key of ['length', 'times', 'filled']) spec[key] = place(spec[key])
    // Lengths that other parameters name are no arguments.
    specs.forEach((spec, at) => {
      for (const user of specs) {
        const isInput = ['in_strings', 'in_values', 'in_bytes', 'in_typed'].includes(user.kind)
        if (isInput && user.length === at && spec.kind === 'in_value') spec.kind = 'length'
      }
    })
    return specs
  }

  #param(entry, { name, type, info }, at, options) {
    const next = entry.params[at + 1]
    const override = options.params?.[name]
    const base = { name: camel(name), cname: name, ctype: type }
    const element = scalars[type.replace(/ \*$/, '')]
    const nullable =
      options.nullable?.includes(name) ?? (/\bNULL\b|optional/i.test(info) && !options.required?.includes(name))
    if (override !== undefined) {
      const spec = { ...base, ...parseSpec(override) }
      if (spec.scalar === undefined && (element ?? scalars[type])) spec.scalar = element ?? scalars[type]
      if (spec.cls) spec.cls = annotations.classes.find(candidate => candidate.name === spec.cls)
      if (spec.nullable === undefined && spec.kind.startsWith('in_')) spec.nullable = false
      return spec
    }
    if (name === 'flags') return { ...base, kind: 'in_value', scalar: scalars[type], flags: this.#flags(entry, info, options) }
    const cls = this.classOf.get(type)
    if (cls) return { ...base, kind: 'in_handle', cls, nullable: at > 0 && nullable }
    if (type === 'const char *') return { ...base, kind: 'in_string', nullable }
    if (type === 'const char **') return { ...base, kind: 'in_strings', length: next.name, nullable }
    if (type === 'const unsigned char *' && name === 'uuid') return { ...base, kind: 'in_uuid' }
    if (type === 'const unsigned char *') return { ...base, kind: 'in_bytes', length: next.name }
    if (type === 'unsigned char *' && name === 'uuid') return { ...base, kind: 'out_uuid' }
    if (type === 'unsigned char *' && name === 'cpumap' && /Pin(Emulator|IOThread|Vcpu)/.test(entry.name))
      return { ...base, kind: 'in_bytes', length: next.name, ts: 'cpumap' }
    if (type === 'char *' && name === 'buf') return { ...base, kind: 'out_uuid_string' }
    if (/^char \*\* ?(const)?$/.test(type) && next?.type === 'int')
      return { ...base, kind: 'out_strings', length: next.name, filled: 'return' }
    if (type === 'char **') return { ...base, kind: 'out_string' }
    if (type === 'char ***') return { ...base, kind: 'out_list_strings', filled: 'return' }
    if (type === 'virTypedParameterPtr') {
      if (next.type.includes('*')) return { ...base, kind: 'out_typed', length: next.name, filled: next.name }
      return { ...base, kind: 'in_typed', length: next.name, group: options.typed, nullable }
    }
    if (type === 'virTypedParameterPtr *') return { ...base, kind: 'out_list_typed', filled: next.name }
    const before = entry.params[at - 1]
    if (name === 'nparams' && type.includes('*')) {
      const own = before.type === 'virTypedParameterPtr *'
      const count = own ? undefined : (options.count ?? `by_counter<${this.indexOf.get(entry.name)}, ${at - 1}, ${at}>`)
      return { ...base, kind: 'counter', scalar: element, count }
    }
    if (before && /^char \*\* ?(const)?$/.test(before.type) && type === 'int') {
      const [counter, ...args] = options.count
      const places = args.map(arg => entry.params.findIndex(param => param.name === arg))
      const counterIndex = this.indexOf.get(counter)
      if (counterIndex === undefined || places.includes(-1)) throw new Error(`${entry.name}: bad count`)
      return { ...base, kind: 'capacity', scalar: 'i', count: `by_function<${[counterIndex, ...places].join(', ')}>` }
    }
    const list = /^(vir\w+Ptr) \*\*$/.exec(type)
    if (list && this.classOf.has(list[1]))
      return { ...base, kind: 'out_list_handles', cls: this.classOf.get(list[1]), filled: 'return' }
    if (list && this.structOf.has(list[1]))
      return { ...base, kind: 'out_list_structs', struct: this.structOf.get(list[1]), filled: 'return' }
    if (this.structOf.has(type)) return { ...base, kind: 'out_struct', struct: this.structOf.get(type) }
    if (type.endsWith(' *') && element) {
      const flag = name === 'autostart'
      return { ...base, kind: 'out_value', scalar: flag ? 'flag' : element, enumeration: options.enums?.[name] }
    }
    if (scalars[type]) {
      const flag = name === 'autostart'
      return { ...base, kind: 'in_value', scalar: flag ? 'flag' : scalars[type], enumeration: options.enums?.[name] }
    }
    throw new Error(`${entry.name}: what is ${type} ${name}?`)
  }

  /** The enums whose values the flags are made of; none: reserved. */
  #flags(entry, info, options) {
    const names = options.flags ?? [...info.matchAll(/vir\w+/g)].map(match => match[0]).filter(
      name => this.api.enums.has(name) && !annotations.hiddenEnums.includes(name)
    )
    for (const name of names) if (!this.api.enums.has(name)) throw new Error(`${entry.name}: there is no enum ${name}`)
    for (const name of names) this.flagEnums.add(name)
    return [...new Set(names)]
  }

  #result(entry, options, params) {
    const { type } = entry.result
    const base = { name: 'result', ...options.ret }
    const override = options.returns === undefined ? {} : parseSpec(options.returns)
    const cls = this.classOf.get(type)
    const counted = params.some(param => param.filled === -2)
    let result
    if (cls) result = { kind: options.borrowed || /GetConnect$|GetDomain$|PortGetNetwork$/.test(entry.name) ? 'borrowed_handle' : 'handle', cls, failure: 'null' }
    else if (type === 'char *') result = { kind: 'string', failure: 'null' }
    else if (type === 'const char *') result = { kind: 'borrowed_string', failure: 'null' }
    else if (type === 'unsigned char *') result = { kind: 'bytes', failure: 'null' }
    else if (type === 'void') result = { kind: 'nothing', failure: 'never' }
    else if (counted) result = { kind: 'count', scalar: scalars[type], failure: 'negative' }
    else if (/(Is|Has)[A-Z]\w*$/.test(entry.name)) result = { kind: 'value', scalar: 'flag', failure: 'negative' }
    else if (/(NumOf|GetMaxVcpus|SnapshotNum)/.test(entry.name)) result = { kind: 'value', scalar: 'i', failure: 'negative' }
    else if (type === 'int') result = { kind: 'nothing', scalar: 'i', failure: 'negative' }
    else if (/^unsigned long/.test(type)) result = { kind: 'value', scalar: scalars[type], failure: 'zero' }
    else if (options.returns === undefined) throw new Error(`${entry.name}: what does it return?`)
    result = { failure: 'negative', ...base, ...result, ...override }
    if (result.enumeration === undefined && options.enums?.return) result.enumeration = options.enums.return
    if (result.length !== undefined) result.length = entry.params.findIndex(param => param.name === result.length)
    if (result.checked !== undefined) result.checked = true
    return result
  }

  /** The structures that a description or the annotations know fully. */
  structs() {
    return this.api.structs
      .filter(struct => annotations.structs[struct.name] !== undefined)
      .map(struct => {
        const note = annotations.structs[struct.name]
        const fields = struct.fields.map(field => this.#field(struct, field, note))
        for (const field of fields)
          if (field.length !== undefined) {
            const at = fields.findIndex(other => other.cname === field.length)
            fields[at].kind = 'hidden'
            field.length = at
          }
        return { ...struct, ...note, tsName: annotations.typeName(struct.name), fields }
      })
  }

  #field(struct, { name, type, info }, note) {
    const override = note.fields?.[name]
    const array = /^char \w+\[(\w+)\]$/.exec(type)
    const base = { name: camel(name), cname: name, ctype: type, info }
    const rest = override === undefined ? {} : parseSpec(override)
    if (array) return { ...base, kind: 'chars', size: annotations.lengths[array[1]] ?? Number(array[1]), ...rest }
    if (override !== undefined && rest.kind !== 'value') {
      if (rest.cls) rest.cls = annotations.classes.find(candidate => candidate.name === rest.cls)
      return { ...base, ...rest }
    }
    if (type === 'char *') return { ...base, kind: 'string', ...rest }
    if (scalars[type]) return { ...base, kind: 'value', scalar: scalars[type], ...rest }
    throw new Error(`${struct.name}: what is ${type} ${name}?`)
  }

  /** Enums with their values as numbers and their names as TypeScript has them. */
  enums() {
    const values = new Map()
    for (const entry of this.api.enums.values()) for (const { name, value } of entry.members) values.set(name, value)
    const number = value => {
      let seen = value
      while (values.has(seen)) seen = values.get(seen)
      if (!/^-?\d+$/.test(seen)) throw new Error(`value ${value}`)
      return Number(seen)
    }
    return [...this.api.enums.values()]
      .filter(({ name }) => !annotations.hiddenEnums.includes(name))
      .map(entry => {
        const members = entry.members.filter(({ name }) => !/_LAST$/.test(name) || annotations.realLast.includes(name))
        const prefix = enumPrefix(entry.name, members.map(({ name }) => name))
        return {
          ...entry,
          tsName: annotations.typeName(entry.name),
          isFlags: this.flagEnums.has(entry.name) || /Flags|StatsTypes|GuestInfoTypes/.test(entry.name),
          members: members
            .map(member => {
              const short = member.name.startsWith(prefix) ? member.name.slice(prefix.length) : member.name.slice('VIR_'.length)
              return { ...member, short: /^\d/.test(short) ? `_${short}` : short, number: number(member.value) }
            })
            .sort((a, b) => a.number - b.number || (a.short < b.short ? -1 : 1))
        }
      })
  }
}

/** What all members' names begin with, up to an underscore; of a single member what its type's name says. */
function enumPrefix(type, names) {
  const own = annotations.enumPrefixes[type]
  if (own !== undefined) return own
  if (names.length === 1) throw new Error(`enumPrefixes says nothing of ${type}: ${names[0]}`)
  let prefix = names[0]
  for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1)
  return prefix.slice(0, prefix.lastIndexOf('_') + 1)
}

/** Everything that the emitters need. `lenient` leaves out functions that the annotations do not know. */
export function describe({ lenient = false } = {}) {
  const api = readApi()
  const describer = new Describer(api)
  const functions = describer.functions(lenient)
  return { api, functions, structs: describer.structs(), enums: describer.enums(), macros: api.macros }
}
