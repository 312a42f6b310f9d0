// `npm test`: set-up, native tests, node tests, and the sum as the last line.
//   test.mjs [native|node] [--failed=step,…] [--built] [arguments for ctest or tap]
// --failed names steps of a caller that failed before: they are counted. --built: without set-up, and the node tests as
// scripts/rig/compile.mjs has compiled them.
import process from 'node:process'
import { Results, runNative, runNode } from './results.mjs'
import { runCompiled } from './rig/node-tests.mjs'
import { setup } from './setup.mjs'

const [first, ...others] = process.argv.slice(2)
const only = first === 'native' || first === 'node' ? first : undefined
const rest = only ? others : process.argv.slice(2)
const built = rest.includes('--built')
const args = rest.filter(arg => !arg.startsWith('--failed=') && arg !== '--built')
const results = new Results()
for (const arg of rest)
  if (arg.startsWith('--failed='))
    for (const step of arg.slice('--failed='.length).split(',')) if (step) results.failures.push(step)

try {
  if (!built) setup({ tests: only !== 'node' })
  if (only !== 'node') runNative(results, 'build/native', { args: only ? args : [] })
  if (only !== 'native') await (built ? runCompiled : runNode)(results, { args })
} catch (error) {
  console.error(error.message)
  results.failures.push('set-up')
}
process.exitCode = results.print()
