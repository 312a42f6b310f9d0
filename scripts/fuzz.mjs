// Builds every fuzzer of native/fuzz with clang and runs each for --seconds (30). A finding fails, and is kept
// in build/fuzz/findings. native/fuzz/corpus/<name> holds seeds.
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { ccache, has, must, root, run } from './support.mjs'

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '30' } },
  allowPositionals: true
})
if (!has('clang++')) {
  console.error('The fuzzers need clang with libFuzzer: apt-get install clang libclang-rt-dev (or libclang-rt-14-dev)')
  process.exit(1)
}
must('cmake', ['-S', '.', '-B', 'build/fuzz', '-DCMAKE_C_COMPILER=clang', '-DCMAKE_CXX_COMPILER=clang++', '-DBUILD_FUZZERS=ON',
  '-DBUILD_ADDON=OFF', '-DBUILD_GUESTS=OFF', ...ccache])
must('cmake', ['--build', 'build/fuzz', '-j2'])

const folder = path.join(root, 'native/fuzz')
const names = (existsSync(folder) ? readdirSync(folder) : [])
  .filter(file => file.endsWith('_fuzz.cc'))
  .map(file => path.basename(file, '.cc'))
  .filter(name => positionals.length === 0 || positionals.includes(name))
const failed = []
for (const name of names) {
  console.error(`${name}: ${values.seconds} s`)
  const corpus = path.join(root, 'build/fuzz/corpus', name)
  const findings = path.join(root, 'build/fuzz/findings', name)
  for (const made of [corpus, findings]) mkdirSync(made, { recursive: true })
  const seeds = path.join(folder, 'corpus', name)
  const args = [`-max_total_time=${values.seconds}`, `-artifact_prefix=${findings}/`, '-print_final_stats=1', '-verbosity=0',
    corpus, ...(existsSync(seeds) ? [seeds] : [])]
  if (run(path.join(root, 'build/fuzz', name), args) !== 0) failed.push(name)
}
console.log(`${names.length - failed.length} fuzzers without a finding, ${failed.length} with: ${failed.join(', ') || 'none'}`)
process.exit(failed.length > 0 || names.length === 0 ? 1 : 0)
