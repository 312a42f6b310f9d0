// The plugin for nbdkit lies beside the addon, is the one that is used, and nbdkit takes it, where there is an nbdkit.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, existsSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { ImageStream, NbdServer, pack, whyNoNbd } from 'hypertwin/stream'

const [, , plugin] = process.argv
assert.ok(existsSync(plugin), `the package lacks ${plugin}`)
assert.ok(!existsSync('node_modules/hypertwin/dist/nbdkit'), 'one of the machine that packed it is in the package')
const env = { PATH: '/usr/bin:/usr/sbin' }
if (spawnSync('nbdkit', ['--version'], { env }).error) {
  console.error('package: skipped: the plugin in nbdkit, which is missing (Debian: nbdkit)')
  process.exit(0)
}
process.env.PATH = env.PATH
const { status, stdout, stderr } = spawnSync('nbdkit', [plugin, '--dump-plugin'], { env, encoding: 'utf8' })
assert.equal(status, 0, stderr)
assert.match(stdout, /^name=hypertwin$/m)

assert.equal(whyNoNbd(), undefined)
const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-package-nbdkit-'))
try {
  writeFileSync(path.join(folder, 'image'), Buffer.alloc(1 << 20, 'image'))
  await pack(path.join(folder, 'image'), path.join(folder, 'pack'))
  const stream = await ImageStream.open(path.join(folder, 'pack'), { cache: path.join(folder, 'cache') })
  await stream.complete
  await stream.close()
  const server = await NbdServer.start(stream.cache)
  await server.close()
  renameSync(plugin, `${plugin}.away`)
  assert.match(whyNoNbd()?.message ?? '', /nbdkit-plugin-dev.*build-native\.mjs/)
  renameSync(`${plugin}.away`, plugin)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
