// Reads libvirt's API descriptions (the XML that Debian's libvirt-dev installs) into plain objects. It knows
// the few constructs that these files use, and nothing of what they mean.
import { existsSync, readFileSync } from 'node:fs'

/** The four libraries, in the order of the C++ enum `Library`. */
export const libraries = ['libvirt', 'libvirt-qemu', 'libvirt-lxc', 'libvirt-admin']

/** The newest version that the annotations know; what later ones brought is left out. */
export const newest = '9.0.0'

const folder = '/usr/share/libvirt/api'

/** True when the descriptions are installed. */
export function apiInstalled() {
  return libraries.every(name => existsSync(`${folder}/${name}-api.xml`))
}

const entities = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }

function decode(text) {
  return text.replace(/&(#x?[0-9a-fA-F]+|\w+);/g, (whole, name) => {
    if (name.startsWith('#x')) return String.fromCodePoint(parseInt(name.slice(2), 16))
    if (name.startsWith('#')) return String.fromCodePoint(Number(name.slice(1)))
    return entities[name] ?? whole
  })
}

/** An element: its name, attributes, text and children. */
function parse(xml) {
  const root = { tag: '', attributes: {}, text: '', children: [] }
  const open = [root]
  const token = /<!\[CDATA\[([\s\S]*?)\]\]>|<\?[\s\S]*?\?>|<!--[\s\S]*?-->|<\/([\w]+)>|<(\w+)((?:\s+\w+='[^']*'|\s+\w+="[^"]*")*)\s*(\/?)>|([^<]+)/g
  for (const [, cdata, closing, tag, attributes, empty, text] of xml.matchAll(token)) {
    const top = open.at(-1)
    if (cdata !== undefined) top.text += cdata
    else if (text !== undefined) top.text += decode(text)
    else if (closing !== undefined) {
      if (top.tag !== closing) throw new Error(`</${closing}> closes <${top.tag}>`)
      open.pop()
    } else if (tag !== undefined) {
      const element = { tag, attributes: {}, text: '', children: [] }
      for (const [, name, single, double] of attributes.matchAll(/(\w+)=(?:'([^']*)'|"([^"]*)")/g))
        element.attributes[name] = decode(single ?? double)
      top.children.push(element)
      if (!empty) open.push(element)
    }
  }
  if (open.length !== 1) throw new Error(`<${open.at(-1).tag}> is not closed`)
  return root.children[0]
}

const infoOf = element =>
  element.attributes.info ?? element.children.find(child => child.tag === 'info')?.text ?? ''

const number = version => version.split('.').reduce((sum, part) => sum * 1000 + Number(part), 0)
const known = ({ since }) => since === undefined || number(since) <= number(newest)

/** What one library's description says: functions, enums (by type), structs, callbacks and string macros. */
function readLibrary(library) {
  const symbols = parse(readFileSync(`${folder}/${library}-api.xml`, 'utf8')).children.find(
    child => child.tag === 'symbols'
  )
  const api = { functions: [], enums: new Map(), structs: [], callbacks: [], macros: [] }
  for (const symbol of symbols.children) {
    const { name, file, version, type, value, string } = symbol.attributes
    const info = infoOf(symbol)
    const members = tag => symbol.children.filter(child => child.tag === tag)
    const list = tag =>
      members(tag).map(child => ({ name: child.attributes.name, type: child.attributes.type, info: infoOf(child) }))
    if (symbol.tag === 'function' || symbol.tag === 'functype') {
      const [result] = list('return')
      const entry = { name, library, module: file, since: version, info, result, params: list('arg') }
      ;(symbol.tag === 'function' ? api.functions : api.callbacks).push(entry)
    } else if (symbol.tag === 'enum' && type) {
      if (!api.enums.has(type)) api.enums.set(type, { name: type, library, module: file, members: [] })
      api.enums.get(type).members.push({ name, value, since: version, info })
    } else if (symbol.tag === 'struct')
      api.structs.push({ name, library, module: file, since: version, fields: list('field') })
    else if (symbol.tag === 'macro' && string !== undefined)
      api.macros.push({ name, library, module: file, since: version, string, info })
  }
  return api
}

/** -1, 0 or 1: the installed descriptions are older than, of, or later than what the annotations know. */
export function installedAgainstNewest() {
  const all = readAll()
  const versions = [...all.functions, ...[...all.enums.values()].flatMap(({ members }) => members)]
    .filter(({ since }) => since !== undefined)
    .map(({ since }) => number(since))
  return Math.sign(Math.max(...versions) - number(newest))
}

/** The four descriptions as one, up to {@link newest}; throws with what to do when they are not installed. */
export function readApi() {
  const all = readAll()
  const enums = [...all.enums]
    .map(([name, entry]) => [name, { ...entry, members: entry.members.filter(known) }])
    .filter(([, { members }]) => members.length > 0)
  return {
    functions: all.functions.filter(known),
    enums: new Map(enums),
    structs: all.structs.filter(known),
    callbacks: all.callbacks.filter(known),
    macros: all.macros.filter(known)
  }
}

function readAll() {
  if (!apiInstalled())
    throw new Error(`libvirt's API descriptions are not in ${folder}: install the package libvirt-dev`)
  const all = { functions: [], enums: new Map(), structs: [], callbacks: [], macros: [] }
  for (const library of libraries) {
    const api = readLibrary(library)
    for (const part of ['functions', 'structs', 'callbacks', 'macros']) all[part].push(...api[part])
    for (const [name, entry] of api.enums) all.enums.set(name, entry)
  }
  return all
}
