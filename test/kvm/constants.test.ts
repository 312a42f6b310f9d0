// The numbers in lib/kvm/constants.ts against the system's <linux/kvm.h>.
import { existsSync, readFileSync } from 'node:fs'
import t from 'tap'
import { Capability, ExitReason } from '../../lib/kvm/index.js'

const header = '/usr/include/linux/kvm.h'
const missing = !existsSync(header) && `${header} is not installed (linux-libc-dev)`

function defines(prefix: string): Map<string, number> {
  const found = new Map<string, number>()
  for (const [, name, value] of readFileSync(header, 'utf8').matchAll(
    new RegExp(`^#define\\s+${prefix}(\\w+)\\s+(\\d+)\\b`, 'gm')
  ))
    found.set(name as string, Number(value))
  return found
}

t.test('every capability of the header has its number', { skip: missing }, async t => {
  const inHeader = defines('KVM_CAP_')
  t.ok(inHeader.size > 200, `${inHeader.size} capabilities in the header`)
  for (const [name, value] of inHeader)
    if ((Capability as Record<string, number>)[name] !== value) t.fail(`Capability.${name} is not ${value}`)
})

t.test('every exit reason of the header has its number', { skip: missing }, async t => {
  // Direction and sub-type constants that share the prefix.
  const others = /^(IO_IN|IO_OUT|HYPERV_\w+|XEN_\w+|MEMORY_FAULT_\w+)$/
  const inHeader = [...defines('KVM_EXIT_')].filter(([name]) => !others.test(name))
  t.ok(inHeader.length > 35, `${inHeader.length} exit reasons in the header`)
  for (const [name, value] of inHeader)
    if ((ExitReason as Record<string, number>)[name] !== value) t.fail(`ExitReason.${name} is not ${value}`)
})
