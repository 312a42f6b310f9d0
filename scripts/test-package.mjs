// The package as its user sees it: packed, installed in an empty project, its types compiled by a strict
// consumer, loaded by `import` and by `require`. test/package holds the consumer.
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setup } from './setup.mjs'
import { bin, must, output, root } from './support.mjs'

setup()
const project = mkdtempSync(path.join(tmpdir(), 'hypertwin-package-'))
try {
  const packed = JSON.parse(output('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project]))[0]
  const { version, scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  if (packed.version !== version) throw new Error(`packed ${packed.version}, not ${version}`)
  for (const hook of ['preinstall', 'install', 'postinstall', 'prepare', 'prebuild'])
    if (scripts[hook]) throw new Error(`package.json must have no script ${hook}`)
  for (const wanted of ['dist/index.js', 'dist/index.d.ts', 'CMakeLists.txt', 'LICENSE', 'README.md'])
    if (!packed.files.some(file => file.path === wanted)) throw new Error(`the package lacks ${wanted}`)
  for (const { path: file } of packed.files)
    if (/^(test|build|node_modules)\/|\.test\./.test(file)) throw new Error(`the package must not hold ${file}`)

  cpSync(path.join(root, 'test/package'), project, { recursive: true })
  writeFileSync(path.join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }))
  must('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', path.join(project, packed.filename)], { cwd: project })

  // The types of Node come from here: the consumer has nothing but the package.
  must(
    bin('tsc'),
    ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--target', 'es2022', '--lib', 'es2023,esnext.disposable',
      '--module', 'nodenext', '--noEmit', '--typeRoots', path.join(root, 'node_modules/@types'), '--types', 'node', 'consumer.ts'],
    { cwd: project }
  )

  const installed = path.join(project, 'node_modules/hypertwin')
  const prebuilds = path.join(installed, 'prebuilds', `linux-${process.arch}`)
  let withoutPlugin = false
  if (!existsSync(prebuilds)) {
    console.error('package: no prebuilt binaries here, so this tree’s build stands in for them')
    mkdirSync(prebuilds, { recursive: true })
    copyFileSync(path.join(root, 'build/Release/hypertwin.node'), path.join(prebuilds, 'hypertwin.glibc.node'))
    const plugin = path.join(root, 'dist/nbdkit/hypertwin.so')
    if (existsSync(plugin)) copyFileSync(plugin, path.join(prebuilds, 'hypertwin.nbdkit.so'))
    else withoutPlugin = true
  }
  // Nothing but node: no compiler, no cmake, no npm.
  const env = { PATH: '/nonexistent', HOME: project }
  must(process.execPath, ['esm.mjs', version], { cwd: project, env })
  must(process.execPath, ['cjs.cjs', version], { cwd: project, env })
  if (withoutPlugin) console.error('package: skipped: the plugin for nbdkit, which was not built here (Debian: nbdkit-plugin-dev)')
  else must(process.execPath, ['nbdkit.mjs', path.join(prebuilds, 'hypertwin.nbdkit.so')], { cwd: project, env })
  rmSync(prebuilds, { recursive: true })
  must(process.execPath, ['missing.mjs'], { cwd: project, env })
  console.error(`package: ${packed.filename}, ${packed.files.length} files, ${Math.round(packed.size / 1024)} KiB`)
} finally {
  rmSync(project, { recursive: true, force: true })
}
