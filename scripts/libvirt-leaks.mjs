// Looks for what the libvirt binding does not give back: so many cycles of open, use and close in native code, under
// AddressSanitizer with LeakSanitizer and under valgrind.
//   --cycles 10000     --only asan|valgrind
import { mkdirSync } from 'node:fs'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { setup } from './setup.mjs'
import { ccache, has, must } from './support.mjs'

const { values } = parseArgs({ options: { cycles: { type: 'string', default: '10000' }, only: { type: 'string' } } })
setup({ tests: true })
const env = { ...process.env, HYPERTWIN_LIBVIRT_CYCLES: values.cycles }

function build(folder, ...options) {
  mkdirSync(folder, { recursive: true })
  must('cmake', ['-S', '.', '-B', folder, '-DBUILD_ADDON=OFF', '-DBUILD_TESTS=ON', '-DBUILD_CAMPAIGN=OFF', ...options, ...ccache])
  must('cmake', ['--build', folder, '-j2', '--target', 'hypertwin_tests'])
  return `${folder}/hypertwin_tests`
}

if (values.only !== 'valgrind') {
  const tests = build('build/asan', '-DSANITIZE=address,undefined')
  const options = 'detect_leaks=1:detect_stack_use_after_return=1:intercept_tls_get_addr=0'
  must(tests, ['--gtest_filter=Libvirt*:Fired*'], { env: { ...env, ASAN_OPTIONS: options } })
}
if (values.only !== 'asan') {
  if (!has('valgrind')) throw new Error('valgrind is not installed: `apt-get install valgrind`')
  const tests = build('build/leaks')
  const valgrind = ['--leak-check=full', '--show-leak-kinds=definite,indirect', '--errors-for-leak-kinds=definite,indirect']
  must('valgrind', [...valgrind, '--error-exitcode=9', '--num-callers=30', tests, '--gtest_filter=Libvirt*:Fired*'], { env })
}
