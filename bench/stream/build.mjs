// Builds the images that starts are measured on, from Debian's packages alone: one base by mmdebstrap, a copy of it for each
// image, with its packages and files, as an ext4 file system without a partition table; then its pack. Kept until
// something that they are made of changes.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { Manifest, pack } from 'hypertwin/stream'
import { ToolError } from '../../scripts/shared/error.mjs'
import { locked } from '../../scripts/shared/lock.mjs'
import { execute } from '../../scripts/shared/process.mjs'
import { root } from '../../scripts/support.mjs'

/** Where the images are. */
export const cache = path.join(root, '.cache/stream-images')
const SUITE = 'bookworm'

const base = {
  packages: ['linux-image-cloud-amd64', 'systemd-sysv', 'udev', 'dbus', 'libpam-systemd', 'ca-certificates'],
  files: {
    '/etc/hostname': 'guest\n',
    '/etc/hosts': '127.0.0.1 localhost\n127.0.1.1 guest\n',
    '/etc/fstab': '/dev/vda / ext4 errors=remount-ro 0 1\n',
    '/etc/systemd/network/80-any.network': '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n',
    // As after an installation, whose first start is over.
    '/etc/machine-id': '6d1a3a5c1bd44b0d8e9dd0d5a6a1c0de\n'
  },
  // Only what is needed to find the root file system: the kernel and this come from outside of the image.
  initrd: { '/etc/initramfs-tools/conf.d/bench': 'MODULES=list\nCOMPRESS=zstd\n', '/usr/share/initramfs-tools/modules.d/bench': 'virtio_pci\nvirtio_blk\next4\n' },
  setup: 'systemctl enable systemd-networkd.service serial-getty@ttyS0.service; passwd -d root',
  append: 'root=/dev/vda ro console=ttyS0 quiet'
}

/** What is needed here; throws with the packages that are missing. */
async function checkTools() {
  if (process.getuid() !== 0) throw new ToolError('Building the images needs root: run it as root, or by sudo.')
  const tools = { mmdebstrap: 'mmdebstrap', 'mke2fs': 'e2fsprogs', unshare: 'util-linux', 'dpkg-query': 'dpkg' }
  const folders = ['/usr/sbin', '/sbin', ...(process.env.PATH ?? '').split(':')]
  const missing = Object.keys(tools).filter(name => !folders.some(folder => existsSync(path.join(folder, name))))
  if (missing.length > 0)
    throw new ToolError(`These programs are missing: ${missing.join(', ')}. Type: apt-get install ${missing.map(name => tools[name]).join(' ')}`)
}

/** Runs a program whose output goes to a log; what is below it ends with this process's signal. */
function logged([program, ...args], { log, input, signal, env }) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      signal,
      killSignal: 'SIGTERM',
      env: { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH}:/usr/sbin:/sbin`, ...env }
    })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', text => (said += text))
    child.stdin.on('error', () => {})
    child.stdin.end(input ?? '')
    child.once('error', error => reject(signal?.aborted ? signal.reason : new ToolError(`${program}: ${error.message}`)))
    child.once('close', (status, killed) => {
      writeFileSync(log, said, { flag: 'a' })
      if (status === 0) resolve(said)
      else reject(new ToolError(`${program} ended with ${killed ?? status}; ${log} has all of it. Its end:\n${said.trim().split('\n').slice(-15).join('\n')}`))
    })
  })
}

/** Lines for sources.list: the mirrors of Debian that this machine's own apt uses; none where it uses others. */
async function mirrors() {
  const { stdout } = await execute(['apt-get', 'indextargets', '--format', '$(ORIGIN)|$(CODENAME)|$(REPO_URI)', 'Created-By: Packages']).catch(() => ({ stdout: '' }))
  const lines = new Set()
  for (const line of stdout.split('\n')) {
    const [origin, suite = '', uri] = line.split('|')
    if (origin === 'Debian' && uri && (suite === SUITE || suite === `${SUITE}-updates` || suite === `${SUITE}-security`)) lines.add(`deb ${uri} ${suite} main`)
  }
  return [...lines].some(line => line.split(' ')[2] === SUITE) ? [...lines] : []
}

function write(tree, files) {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.join(tree, path.dirname(name)), { recursive: true })
    writeFileSync(path.join(tree, name), text)
  }
}

// In namespaces of its own, so that mounts and whatever a package's script started end with it. $1: the tree, $2: where
// packages are kept; the script comes on standard input.
const within = `
set -e
mount --make-rprivate /
for name in proc sys dev; do mkdir -p "$1/$name"; done
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mkdir -p "$1/var/cache/apt/archives"
mount --bind "$2" "$1/var/cache/apt/archives"
touch "$1/etc/resolv.conf"
mount --bind "$(readlink -f /etc/resolv.conf)" "$1/etc/resolv.conf"
printf '#!/bin/sh\\nexit 101\\n' > "$1/usr/sbin/policy-rc.d"
chmod 755 "$1/usr/sbin/policy-rc.d"
set +e
chroot "$1" /bin/sh -e
status=$?
rm -f "$1/usr/sbin/policy-rc.d"
exit $status`

async function inTree(tree, script, { log, signal }) {
  const archives = path.join(cache, 'archives')
  mkdirSync(path.join(archives, 'partial'), { recursive: true })
  const words = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--', 'sh', '-c', within, 'sh', tree, archives]
  await logged(words, { log, input: script, signal, env: { DEBIAN_FRONTEND: 'noninteractive', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } })
}

const install = packages => `
apt-get install -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io ${packages.join(' ')}
`
const finish = `
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/*.log /tmp/* /var/tmp/*
`

// The package lists stay, for what is installed on top.
const bootstrap = ['--mode=root', '--variant=important', '--format=directory', '--dpkgopt=force-unsafe-io', '--aptopt=APT::Install-Recommends "false"', '--skip=cleanup/apt/lists']
const fileSystem = ['-q', '-F', '-t', 'ext4', '-U', 'a7b9f6f8-8a4c-4e0b-9d0e-3f5f8a6c2d11', '-E', 'hash_seed=5c3a1e0f-7a39-4b1c-8d52-6f1f0f1f2e3d']

const hashOf = (...parts) => createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16)
const baseKey = hashOf(base, SUITE, bootstrap, within, install([]), finish, fileSystem)
/** By what is in the image: its request is not. */
const keyOf = ({ packages, files, setup, size }) => hashOf(baseKey, packages, files, setup, size)

/** The folder of the base: its tree, and the kernel and initial RAM disk that go with all images. */
async function builtBase({ signal, say }) {
  const folder = path.join(cache, `base-${baseKey}`)
  if (existsSync(folder)) return folder
  say('bootstrapping the base')
  const work = mkdtempSync(path.join(cache, 'make-'))
  const log = path.join(cache, 'base.log')
  rmSync(log, { force: true })
  try {
    const tree = path.join(work, 'tree')
    const hooks = path.join(work, 'hooks')
    write(hooks, base.initrd)
    const lines = await mirrors()
    const words = ['mmdebstrap', ...bootstrap, `--include=${base.packages.join(',')}`, `--essential-hook=cp -r ${hooks}/. "$1"`, SUITE, tree]
    await logged([...words, ...(lines.length > 0 ? ['-'] : [])], { log, signal, input: lines.map(line => `${line}\n`).join('') })
    write(tree, base.files)
    await inTree(tree, base.setup, { log, signal })
    for (const name of ['vmlinuz', 'initrd.img']) {
      const file = readdirSync(path.join(tree, 'boot')).find(file => file.startsWith(`${name}-`))
      if (file === undefined) throw new ToolError(`the base has no ${name}; see ${log}`)
      cpSync(path.join(tree, 'boot', file), path.join(work, name))
    }
    rmSync(hooks, { recursive: true })
    renameSync(work, folder)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  removeOthers('base', folder)
  return folder
}

/** Those of what it was made of before. */
function removeOthers(name, folder) {
  for (const other of readdirSync(cache))
    if (other.startsWith(`${name}-`) && path.join(cache, other) !== folder) rmSync(path.join(cache, other), { recursive: true, force: true })
}

async function build(recipe, folder, { signal, say }) {
  const from = await builtBase({ signal, say })
  say(`${recipe.name}: building`)
  const work = mkdtempSync(path.join(cache, 'make-'))
  const log = path.join(cache, `${recipe.name}.log`)
  rmSync(log, { force: true })
  try {
    const tree = path.join(work, 'tree')
    await logged(['cp', '-a', '--reflink=auto', path.join(from, 'tree'), tree], { log, signal })
    await inTree(tree, install(recipe.packages), { log, signal })
    write(tree, recipe.files)
    await inTree(tree, `${recipe.setup}\n${finish}`, { log, signal })
    rmSync(path.join(tree, 'etc/resolv.conf'), { force: true })
    // What looks at these takes the system for one that was started since its last change.
    write(tree, { '/etc/.updated': '', '/var/.updated': '' })
    const image = path.join(work, 'image')
    await logged(['mke2fs', ...fileSystem, '-d', tree, image, recipe.size], { log, signal })
    for (const name of ['vmlinuz', 'initrd.img']) cpSync(path.join(from, name), path.join(work, name))
    rmSync(tree, { recursive: true, force: true })
    say(`${recipe.name}: packing`)
    await pack(image, path.join(work, 'pack'), { signal })
    renameSync(work, folder)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  removeOthers(recipe.name, folder)
}

/**
 * An image, built where it is missing: the recipe, and `image` (raw), `pack` (a folder), `manifest`, `kernel`, `initrd`,
 * `append`.
 * @param options.say - is told what is being done
 * @param options.signal - ends it; nothing is left
 */
export async function builtImage(recipe, options) {
  mkdirSync(cache, { recursive: true })
  const folder = path.join(cache, `${recipe.name}-${keyOf(recipe)}`)
  if (!existsSync(folder)) {
    await checkTools()
    await locked('stream-images', async () => {
      if (!existsSync(folder)) await build(recipe, folder, options)
    })
  }
  const at = name => path.join(folder, name)
  const manifest = new Manifest(readFileSync(at('pack/manifest')))
  return { ...recipe, image: at('image'), pack: at('pack'), manifest, kernel: at('vmlinuz'), initrd: at('initrd.img'), append: base.append }
}
