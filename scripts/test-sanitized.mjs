// Tests under sanitizers: `address,undefined` or `thread` run the native tests in a build of their own;
// `node` builds the addon with ASan and UBSan and runs the node tests with the sanitizers' libraries preloaded.
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { Results, runNative, runNode } from './results.mjs'
import { setup } from './setup.mjs'
import { ccache, must, output, root } from './support.mjs'

const [kind = 'address,undefined', ...args] = process.argv.slice(2)
const results = new Results()
setup({ tests: true })

const suppressions = path.join(root, 'native/test/tsan.supp')
const env = {
  // intercept_tls_get_addr: LeakSanitizer crashes otherwise where libraries with thread-local data are opened at run time.
  // handle_sigbus: what the guests' memory does not handle ends a process as it would without a sanitizer.
  ASAN_OPTIONS: 'detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1:intercept_tls_get_addr=0:handle_sigbus=0',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  TSAN_OPTIONS: `halt_on_error=1:handle_sigbus=0:second_deadlock_stack=1:suppressions=${suppressions}`
}

if (kind === 'node') {
  const folder = 'build/asan-node'
  mkdirSync(path.join(root, folder), { recursive: true })
  must(process.execPath, [
    'scripts/build-native.mjs',
    '--sanitize=address,undefined',
    `--build-dir=${folder}`,
    `--out=${folder}/package/build/Release`
  ])
  // What hangs under a sanitizer that it was not built with.
  const programs = path.join(root, folder, 'bin')
  mkdirSync(programs, { recursive: true })
  for (const name of ['qemu-img', 'qemu-io', 'qemu-nbd', 'qemu-system-x86_64', 'chromium']) {
    const program = output('sh', ['-c', `command -v ${name}`])
    if (program) writeFileSync(path.join(programs, name), `#!/bin/sh\nunset LD_PRELOAD\nexec ${program} "$@"\n`, { mode: 0o755 })
  }
  const libraries = ['libasan.so', 'libubsan.so'].map(name => output('g++', [`-print-file-name=${name}`]))
  await runNode(results, {
    args: ['--jobs=1', '--timeout=600', ...args],
    env: {
      ...env,
      PATH: `${programs}:${process.env.PATH}`,
      CHROMIUM: path.join(programs, 'chromium'),
      // Node itself and its workers do not free everything at their end.
      ASAN_OPTIONS: 'detect_leaks=0:strict_string_checks=1:intercept_tls_get_addr=0',
      LD_PRELOAD: libraries.join(':'),
      HYPERTWIN_PREBUILD: path.join(root, folder, 'package'),
      HYPERTWIN_SANITIZED: 'address'
    }
  })
} else {
  const folder = `build/${kind === 'thread' ? 'tsan' : 'asan'}`
  must('cmake', ['-S', '.', '-B', folder, `-DSANITIZE=${kind}`, '-DBUILD_ADDON=OFF', '-DBUILD_TESTS=ON', ...ccache])
  must('cmake', ['--build', folder, '-j2'])
  runNative(results, folder, { env, args })
}
process.exitCode = results.print()
