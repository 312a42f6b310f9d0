// Typed parameters that belong together, with the types that libvirt's prose or the annotations give them.
import { typedGroups } from './annotations.mjs'

const words = {
  ullong: 'ULLONG',
  'unsigned long long': 'ULLONG',
  llong: 'LLONG',
  'long long': 'LLONG',
  uint: 'UINT',
  'unsigned int': 'UINT',
  int: 'INT',
  string: 'STRING',
  boolean: 'BOOLEAN',
  bool: 'BOOLEAN',
  double: 'DOUBLE'
}

/** Of one group: its macros, each with the text that it stands for and its type. */
export function typedTypes(macros, group) {
  const { prefix, type, types = {} } = typedGroups[group]
  return macros
    .filter(({ name, string }) => name.startsWith(prefix) && !string.includes('%'))
    .map(macro => {
      const named = /VIR_TYPED_PARAM_(\w+)/.exec(macro.info)?.[1]
      const word = /\b(ullong|llong|uint|int|unsigned long long|long long|unsigned int|string|boolean|bool|double)\b/.exec(macro.info)?.[1]
      const found = types[macro.string] ?? type ?? named ?? words[word]
      if (found === undefined) throw new Error(`${macro.name} (${macro.string}) has no type: say it in typedGroups`)
      return { ...macro, short: macro.name.slice(prefix.length), type: found }
    })
}
