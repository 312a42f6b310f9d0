// Brings a fresh machine to the point where everything is built: Debian packages, npm packages, native code,
// TypeScript. What is up to date is not done again. Node's built-ins only.
//   --tests  also what `npm test` needs     --lint  also what `npm run lint` needs     --ci  both
import { existsSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { bin, filesBelow, has, hashOf, must, output, readStamp, root, run, writeStamp } from './support.mjs'

// nbdkit-plugin-dev: the header that the nbdkit plugin is built with; it brings nbdkit. libvirt-dev: the descriptions that the libvirt binding is generated from and compared with, and the library;
// libvirt-daemon: a libvirtd for the tests to start and kill; python3-libvirt: the binding that ours is compared with.
const packages = {
  build: ['g++', 'make', 'cmake', 'libxxhash-dev', 'liblz4-dev', 'iproute2', 'nbdkit-plugin-dev'],
  tests: ['libgtest-dev', 'chromium', 'etcd-server', 'openssl', 'libvirt-dev', 'libvirt-daemon', 'python3-libvirt', 'qemu-utils', 'fdisk', 'e2fsprogs', 'libnbd0'],
  lint: ['clang-format']
}

function say(text) {
  console.error(`setup: ${text}`)
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (process.platform !== 'linux') throw new Error('hypertwin runs on Linux only: it is a binding of /dev/kvm.')
  if (major < 20 || (major === 20 && minor < 19))
    throw new Error(`hypertwin needs Node.js 20.19 or later; this is ${process.version}.`)
}

/** Throws with the command to type where packages are missing and may not be installed. */
export function installDebianPackages(wanted) {
  if (output('dpkg-query', ['--version']) === undefined) return checkPrograms(wanted)
  const state = output('sh', ['-c', 'dpkg-query -W -f \'${Package} ${db:Status-Status}\\n\' "$@" 2>/dev/null; true', 'sh', ...wanted])
  const installed = new Set((state ?? '').split('\n').filter(line => line.endsWith(' installed')).map(line => line.split(' ')[0]))
  const missing = wanted.filter(name => !installed.has(name))
  if (missing.length === 0) return
  const install = ['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...missing]
  const asRoot = process.getuid() === 0 ? [] : output('sudo', ['-n', 'true']) !== undefined ? ['sudo', '-n'] : undefined
  if (!asRoot)
    throw new Error(`Debian packages are missing. Type this, then run the command again:\n\n  sudo ${install.filter(word => word !== '-q').join(' ')}\n`)
  say(`installing the Debian packages ${missing.join(', ')}`)
  const apt = args => {
    const [program, ...options] = args
    // Another apt-get that runs is waited for.
    const whole = [program, '-o', 'DPkg::Lock::Timeout=300', ...options]
    const [command, ...rest] = [...asRoot, 'env', 'DEBIAN_FRONTEND=noninteractive', ...whole]
    return run(command, rest)
  }
  // The package lists are fetched only where what is there does not do.
  if (apt(install) === 0) return
  say('fetching the package lists and trying again')
  if (apt(['apt-get', 'update', '-q']) !== 0 || apt(install) !== 0)
    throw new Error(`apt-get could not install ${missing.join(', ')}: see above.`)
}

function checkPrograms(wanted) {
  const missing = []
  if (!has('g++') && !has('clang++')) missing.push('a C++20 compiler (g++ 12 or clang 15, or later)')
  for (const program of ['make', 'cmake', ...(wanted.includes('clang-format') ? ['clang-format'] : [])])
    if (!has(program)) missing.push(program)
  const header = name => ['/usr/include', '/usr/local/include'].some(folder => existsSync(path.join(folder, name)))
  if (!header('xxhash.h')) missing.push('the header xxhash.h (xxHash)')
  if (!header('lz4.h')) missing.push('LZ4 with its header lz4.h')
  if (wanted.includes('libgtest-dev') && !header('gtest/gtest.h')) missing.push('GoogleTest with its CMake files')
  if (missing.length > 0)
    throw new Error(`This is no Debian system, so install these by your own package manager:\n  ${missing.join('\n  ')}`)
}

// True when what `npm ci` would install is there already.
function installedMatchesLock() {
  try {
    const packagesOf = file => JSON.parse(readFileSync(path.join(root, file), 'utf8')).packages
    const there = packagesOf('node_modules/.package-lock.json')
    return Object.entries(packagesOf('package-lock.json')).every(
      ([name, entry]) => name === '' || entry.optional || there[name]?.version === entry.version
    )
  } catch {
    return false
  }
}

function installNpmPackages() {
  const stamp = 'node_modules/.hypertwin-setup'
  const hash = hashOf(['package-lock.json'])
  if (readStamp(stamp) === hash) return
  if (!installedMatchesLock()) {
    say('npm ci')
    must('npm', ['ci', '--no-audit', '--no-fund'], { env: { ...process.env, NODE_ENV: '' } })
  }
  writeStamp(stamp, hash)
}

function buildNative(tests) {
  const stamp = 'build/stamps/native'
  const [had = '', hadTests = ''] = readStamp(stamp).split(' ')
  const withTests = tests || hadTests === 'tests'
  const sources = filesBelow('native', 'cmake', 'CMakeLists.txt', 'binding.gyp', 'scripts/build-native.mjs', 'package-lock.json')
  const hash = hashOf(sources, process.arch, JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).version)
  const product = path.join(root, 'build/Release/hypertwin.node')
  if (had === hash && (!tests || hadTests === 'tests') && existsSync(product)) return
  say('building the native code')
  must(process.execPath, ['scripts/build-native.mjs', ...(withTests ? ['--tests'] : [])])
  writeStamp(stamp, `${hash}${withTests ? ' tests' : ''}`)
}

function buildTypeScript() {
  const stamp = 'build/stamps/ts'
  const hash = hashOf(filesBelow('lib', 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json'))
  if (readStamp(stamp) === hash && existsSync(path.join(root, 'dist/index.js'))) return
  say('compiling the TypeScript')
  must(bin('tsc'), ['-p', 'tsconfig.build.json'])
  // What a source that is gone has left behind.
  for (const file of filesBelow('dist'))
    if (/\.(js|js\.map|d\.ts)$/.test(file)) {
      const source = file.replace(/^dist/, 'lib').replace(/\.(js|js\.map|d\.ts)$/, '.ts')
      if (!existsSync(path.join(root, source))) rmSync(path.join(root, file))
    }
  writeStamp(stamp, hash)
}

/** Throws an Error whose message is for the user's eyes. */
export function setup({ tests = false, lint = false } = {}) {
  checkNode()
  installDebianPackages([...packages.build, ...(tests ? packages.tests : []), ...(lint ? packages.lint : [])])
  installNpmPackages()
  buildNative(tests)
  buildTypeScript()
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const all = process.argv.includes('--ci')
  try {
    setup({ tests: all || process.argv.includes('--tests'), lint: all || process.argv.includes('--lint') })
  } catch (error) {
    console.error(`setup: ${error.message}`)
    process.exit(1)
  }
}
