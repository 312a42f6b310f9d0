// What texts and programs hint at: paths, commands, modules, libraries. Nothing here looks at any file system; whoever asks
// takes what exists of it. Hints mislead at worst.

/** Of a text, so much is looked at. */
const MAX_PATHS = 2000
const MAX_NAMES = 10_000
/** Of Python, longer lines hold data, and longer names are none. */
const MAX_LINE = 4096
const MAX_MODULE = 255

/** A text without those letters at its end; an expression would look for their end from each of them on. @internal */
export function withoutEnd(text: string, letters: string): string {
  let end = text.length
  while (end > 0 && letters.includes(text.charAt(end - 1))) end--
  return text.slice(0, end)
}

/** Absolute paths that stand in it. @internal */
export function pathsIn(text: string): string[] {
  const found = new Set<string>()
  for (const [, name = ''] of text.matchAll(/(?:^|[\s"'=(`:,<[{\0-])(\/(?:bin|sbin|usr|etc|lib|lib64|opt|srv|home|var\/(?:lib|www|cache|spool))\/[\w./@+-]{1,4096})/gm)) {
    if (found.size >= MAX_PATHS) break
    found.add(withoutEnd(name, './-'))
  }
  return [...found]
}

/** Commands that a shell script runs by their names. @internal */
export function commandsIn(script: string): string[] {
  const found = new Set<string>()
  const text = script.replace(/^[ \t]*#.*$/gm, '')
  for (const [, name = ''] of text.matchAll(/(?:^|[;&|`({])[ \t]*(?:(?:if|then|else|elif|while|until|do|exec|command|nohup|!)[ \t]+)*([a-z][\w.-]*)(?=[\s;)`|&]|$)/gm))
    if (!shellWords.has(name) && found.size < MAX_NAMES) found.add(name)
  return [...found]
}

/** The shell's own. */
const shellWords = new Set('alias bg break case cd command continue do done echo elif else esac eval exec exit export false fi for function getopts if in let local printf pwd read readonly return set shift test then time times trap true type ulimit umask unset until wait while'.split(' '))

/** What must hold for a systemd unit to be started. @internal */
export interface Condition {
  /** Without Condition, `'PathExists'`. */
  kind: string
  /** Of those that have this, one is enough. */
  trigger: boolean
  /** It must not hold. */
  not: boolean
  value: string
}

/** Of a unit, so many are looked at. */
const MAX_CONDITIONS = 200

/** A unit's conditions. An empty one takes back all before it. @internal */
export function conditionsIn(unit: string): Condition[] {
  let found: Condition[] = []
  for (const [, kind = '', marks = '', rest = ''] of unit.matchAll(/^[ \t]*Condition(\w+)[ \t]*=[ \t]*((?:\|[ \t]*)?(?:![ \t]*)?)(.*)$/gm)) {
    const value = rest.trimEnd()
    if (value === '' && marks === '') found = []
    else if (value !== '' && found.length < MAX_CONDITIONS) found.push({ kind, trigger: marks.startsWith('|'), not: marks.includes('!'), value })
  }
  return found
}

/** Names of shared objects that configuration loads: `LoadModule x modules/mod_x.so`, `extension=x.so`. @internal */
export function objectsIn(text: string): string[] {
  return [...new Set([...text.replace(/^[ \t]*[#;].*$/gm, '').matchAll(/(?:^|[\s"'=/])([\w+-]+\.so)(?=[\s"']|$)/gm)].map(([, name = '']) => name))].slice(0, MAX_NAMES)
}

/**
 * Modules that a Python file imports when it is imported itself: not what its functions import when they are called.
 *
 * @param module - its own name, for relative imports; with `.__init__` where it is a package
 * @internal
 */
export function pythonImports(source: string, module = ''): string[] {
  const found = new Set<string>()
  const add = (name: string): void => {
    if (name.length > MAX_MODULE || found.size >= MAX_NAMES) return
    const parts = name.split('.').filter(part => /^\w+$/.test(part))
    for (let count = 1; count <= parts.length; count++) found.add(parts.slice(0, count).join('.'))
  }
  let body: number | undefined
  // A list in parentheses, on one line.
  const lines = source.replace(/^([ \t]*from[ \t]+[\w.]+[ \t]+import[ \t]*)\(([^()]{0,4000})\)/gm, (_, start: string, list: string) => start + list.replace(/#.*$/gm, '').replace(/\s+/g, ' ')).split('\n')
  for (const line of lines) {
    const text = line.trim()
    if (text === '' || text.startsWith('#') || text.length > MAX_LINE) continue
    const indent = line.length - line.trimStart().length
    if (body !== undefined && indent > body) continue
    body = undefined
    if (/^(?:async\s+def|def|if\s+(?:typing\.|t\.)?TYPE_CHECKING|if __name__)\b/.test(text)) {
      body = indent
      continue
    }
    const from = /^from\s+([\w.]*)\s+import\s+\(?(.*)$/.exec(text)
    if (from) {
      const [, whole = '', list = ''] = from
      const name = whole.replace(/^\.+/, '')
      const dots = whole.length - name.length
      const base = dots === 0 ? name : [...module.split('.').slice(0, -dots), ...(name === '' ? [] : [name])].join('.')
      if (base !== '') add(base)
      for (const one of list.split(',')) {
        const word = one.trim().split(/\s/)[0] ?? ''
        if (/^\w+$/.test(word)) add(base === '' ? word : `${base}.${word}`)
      }
    } else if (/^import\s/.test(text)) for (const one of text.slice(7).split(',')) add(one.trim().split(/\s/)[0] ?? '')
    // A class by its name, which is imported when it is needed.
    for (const [, name = ''] of text.matchAll(/["']([a-z_]\w*(?:\.\w+){1,6})["']/g)) add(name)
  }
  return [...found]
}

/** Modules that a Perl file uses. @internal */
export function perlUses(source: string): string[] {
  const text = withoutPod(source.replace(/^__(?:END|DATA)__$[\s\S]*/m, ''))
  return [...new Set([...text.matchAll(/^[ \t]*(?:use|require|no)\s+(?:parent\s+(?:-norequire,\s*)?(?:qw\(|['"]))?([A-Za-z_]\w*(?:::\w+)*)/gm)].map(([, name = '']) => name))].slice(0, MAX_NAMES)
}

/** A Perl file without the documentation in it. */
function withoutPod(source: string): string {
  let pod = false
  const code = source.split('\n').filter(line => {
    if (/^=\w/.test(line)) pod = line.trimEnd() !== '=cut'
    return !pod && !line.startsWith('=')
  })
  return code.join('\n')
}

/** What a JavaScript file requires or imports. @internal */
export function nodeRequires(source: string): string[] {
  const text = source.replace(/^[ \t]*(?:\/\/|\*).*$/gm, '')
  return [...new Set([...text.matchAll(/(?:\brequire\(\s{0,99}|\bfrom\s{1,99}|\bimport\s{0,99}\(?\s{0,99})['"]([^'"\n]+)['"]/g)].map(([, name = '']) => name))].slice(0, MAX_NAMES)
}

const MAX_LIBRARIES = 1000
const MAX_PLACES = 100

/** What a program is linked to, and where it looks for that first, by what readelf says of it. @internal */
export function linksIn(said: string): { loader: string | undefined; libraries: string[]; places: string[] } {
  const libraries = [...said.matchAll(/^ *0x[0-9a-f]+ \(NEEDED\)[^[\n]*\[([^\]/\n]{1,255})\]$/gm)].slice(0, MAX_LIBRARIES).map(([, name = '']) => name)
  const [, places = ''] = /^ *0x[0-9a-f]+ \((?:RUNPATH|RPATH)\)[^[\n]*\[([^\]\n]*)\]$/m.exec(said) ?? []
  return { loader: /^ *\[Requesting program interpreter: (\/[^\]\n]{1,4096})\]$/m.exec(said)?.[1], libraries, places: places.split(':', MAX_PLACES) }
}

/** Of what is looked into, so many words. */
const MAX_WORDS = 1 << 20

/** Words as names of files are, in letters of one byte or of two. @internal */
export function addWords(words: Set<string>, text: string): void {
  for (const [word] of text.matchAll(/[\w.+-]{4,255}/g)) if (words.size < MAX_WORDS) words.add(word)
  for (const [word] of text.matchAll(/(?:[\w.+-]\0){4,255}/g)) if (words.size < MAX_WORDS) words.add(word.replaceAll('\0', ''))
}
