// The cost of an exit against a bare ioctl loop: runs native/bench/kvm_exit_bench and prints its JSON lines
// ({name, value, unit, baseline, ratio}, microseconds an exit). Build it with -DBUILD_BENCH=ON.
// Usage: node bench/kvm-exit.mjs [build folder, default build/native]
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const program = path.join(path.resolve(root, process.argv[2] ?? 'build/native'), 'kvm_exit_bench')
if (!existsSync('/dev/kvm')) {
  console.error('skipped: no /dev/kvm')
} else if (!existsSync(program)) {
  console.error(`${program} is missing: cmake -B build/native -DBUILD_BENCH=ON && cmake --build build/native --target kvm_exit_bench`)
  process.exitCode = 1
} else {
  process.exitCode = spawnSync(program, { stdio: 'inherit' }).status ?? 1
}
