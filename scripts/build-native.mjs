// Builds the addon and the guests by CMake (through cmake-js) and puts them where they are looked for:
// build/Release/hypertwin.node (or --out), dist/guests and dist/nbdkit (of a package at --out, where it is sanitized). binding.gyp and prebuildify come here too.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const { values } = parseArgs({
  options: {
    arch: { type: 'string', default: process.env.PREBUILD_ARCH ?? process.arch },
    libc: { type: 'string', default: process.env.PREBUILD_LIBC ?? '' },
    config: { type: 'string', default: 'Release' },
    out: { type: 'string', default: 'build/Release' },
    'build-dir': { type: 'string' },
    sanitize: { type: 'string', default: '' },
    tests: { type: 'boolean', default: false },
    jobs: { type: 'string', default: '2' }
  }
})

const cross = process.env.HYPERTWIN_CROSS === '1'
const tuple = `${process.env.PREBUILD_PLATFORM ?? process.platform}-${values.arch}${values.libc ? `-${values.libc}` : ''}`
const buildDir = path.resolve(root, values['build-dir'] ?? (cross ? `build/cross-${tuple}` : 'build/native'))
const sanitize = values.sanitize

// Trees in different folders share what ccache has.
process.env.CCACHE_BASEDIR ??= root
process.env.CCACHE_NOHASHDIR ??= 'true'

function cmakeJs() {
  try {
    return createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js')
  } catch {
    console.error(
      'Building needs cmake-js: npm install --no-save cmake-js node-addon-api node-api-headers'
    )
    process.exit(1)
  }
}

function available(program) {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0
}

// Copies beside the target and renames: a process that has the old file open keeps it.
function place(from, to) {
  mkdirSync(path.dirname(to), { recursive: true })
  copyFileSync(from, `${to}.new`)
  renameSync(`${to}.new`, to)
}

const options = [
  `--directory=${root}`,
  `--out=${buildDir}`,
  `--config=${values.config}`,
  `--arch=${values.arch}`,
  `--parallel=${values.jobs}`,
  `--CDBUILD_TESTS=${values.tests ? 'ON' : 'OFF'}`,
  // Else what an earlier build without tests has cached stays.
  `--CDBUILD_CAMPAIGN=${values.tests ? 'ON' : 'OFF'}`,
  `--CDSANITIZE=${sanitize}`
]
if (cross) {
  options.push(`--CDCMAKE_TOOLCHAIN_FILE=${path.join(root, 'cmake/zig.cmake')}`)
  options.push(`--CDHYPERTWIN_TUPLE=${values.arch}-${values.libc || 'glibc'}`, '--CDBUILD_GUESTS=OFF')
} else if (available('ccache')) {
  options.push('--CDCMAKE_CXX_COMPILER_LAUNCHER=ccache', '--CDCMAKE_C_COMPILER_LAUNCHER=ccache')
}

// `build` alone would keep the options of an earlier configuration.
for (const command of ['configure', 'build']) {
  const result = spawnSync(process.execPath, [cmakeJs(), command, ...options], { cwd: root, stdio: 'inherit' })
  if (result.status !== 0) process.exit(result.status || 1)
}

place(path.join(buildDir, 'addon/hypertwin.node'), path.resolve(root, values.out, 'hypertwin.node'))
const guests = path.join(buildDir, 'guests')
if (existsSync(guests) && !sanitize)
  for (const file of readdirSync(guests))
    if (file.endsWith('.elf')) place(path.join(guests, file), path.join(root, 'dist/guests', file))
const plugin = path.join(buildDir, 'nbdkit/hypertwin.so')
const home = sanitize ? path.resolve(root, values.out, '../..') : root
if (existsSync(plugin)) place(plugin, path.join(home, 'dist/nbdkit/hypertwin.so'))
