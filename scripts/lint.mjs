// `npm run lint`: ESLint, Prettier and clang-format, checking only. `fix` rewrites instead; `tidy` runs
// clang-tidy over the native code (slow) with the compile commands of build/native.
import process from 'node:process'
import { bin, has, output, run } from './support.mjs'

const mode = process.argv[2] ?? 'check'
const listed = output('git', ['ls-files', '-co', '--exclude-standard', 'native'])
const native = (listed ?? '').split('\n').filter(file => /\.(cc|h|c)$/.test(file))
const failed = []
const step = (name, command, args, options) => {
  console.error(`${name} …`)
  if (run(command, args, options) !== 0) failed.push(name)
}
const need = (program, mend) => {
  if (!has(program)) {
    console.error(`${program} is missing: ${mend}`)
    process.exit(1)
  }
}

if (mode === 'tidy') {
  need('clang-tidy', 'apt-get install clang-tidy')
  const sources = native.filter(file => /^native\/(core|addon)\/.*\.cc$/.test(file))
  step('clang-tidy', 'xargs', ['-P2', '-n4', 'clang-tidy', '--quiet', '-p', 'build/native'], {
    input: sources.join('\n'),
    stdio: ['pipe', 2, 2]
  })
} else {
  need('clang-format', '`npm run setup -- --lint` installs it, or: apt-get install clang-format')
  const fix = mode === 'fix'
  step('eslint', bin('eslint'), ['.', '--max-warnings=0', ...(fix ? ['--fix'] : [])])
  step('prettier', bin('prettier'), ['.', '--log-level=warn', fix ? '--write' : '--check'])
  step('clang-format', 'clang-format', fix ? ['-i', ...native] : ['--dry-run', '-Werror', ...native])
}

if (failed.length > 0) {
  console.error(`Found by ${failed.join(', ')}. \`npm run format\` mends what can be mended by a program.`)
  process.exit(1)
}
