// The guest's kernel and first root file system, made of Debian's packages and kept in .cache until something that
// they are made of changes.
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { cpio } from './cpio.mjs'
import { cacheFolder, fetchPackages, unpack } from './debian.mjs'
import { HostsError } from './error.mjs'
import { locked } from './lock.mjs'
import { must } from './process.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))

// In the order in which they can be loaded.
const modules = [
  'virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'failover', 'net_failover',
  'virtio_net', 'virtio_blk', 'virtio_console', 'virtio_balloon', 'virtio-rng', 'button', 'evdev'
]

const scripts = {
  'etc/rc': 'init.sh',
  'bin/count': 'count.sh',
  'bin/dirty': 'dirty.sh',
  'sbin/shutdown': 'shutdown.sh'
}

const texts = {
  'etc/inittab': '::sysinit:/etc/rc\nttyS0::respawn:-/bin/sh\n::ctrlaltdel:/sbin/reboot -f\n',
  'etc/profile': "export PATH=/bin:/sbin PS1='guest# ' HOME=/\n",
  'etc/passwd': 'root::0:0:root:/:/bin/sh\n',
  'etc/group': 'root:x:0:\n',
  'etc/acpi/PWRF/00000080': '#!/bin/sh\npoweroff -f\n'
}

/** The agent and the machine's libraries that it needs, as [name in the guest, file]. */
async function agentFiles(program) {
  const linked = await must(['ldd', program])
  const missing = linked.split('\n').filter(line => line.includes('not found'))
  if (missing.length > 0) throw new HostsError(`the guest agent lacks libraries here: ${missing.join(', ').trim()}`)
  const libraries = [...linked.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, file]) => file)
  const nameOf = file => (file.includes('/ld-linux') ? file.slice(1) : `lib/${path.basename(file)}`)
  return [['sbin/qemu-ga', program], ...libraries.map(file => [nameOf(file), file])]
}

async function makeInitrd(unpacked) {
  const folders = new Set()
  const entries = []
  const add = entry => {
    const above = name => {
      const folder = path.dirname(name)
      if (folder === '.' || folders.has(folder)) return
      above(folder)
      folders.add(folder)
      entries.push({ name: folder, kind: 'folder' })
    }
    above(entry.name)
    entries.push(entry)
  }
  for (const name of ['dev', 'proc', 'sys', 'run', 'tmp', 'var/log']) add({ name: `${name}/x` })
  entries.splice(0, entries.length, ...entries.filter(entry => entry.kind === 'folder'))
  add({ name: 'dev/console', kind: 'device', mode: 0o600, device: [5, 1] })
  const busybox = ['bin/busybox', 'usr/bin/busybox'].map(name => path.join(unpacked, name)).find(existsSync)
  add({ name: 'bin/busybox', data: readFileSync(busybox) })
  const applets = (await must([busybox, '--list'])).split('\n').filter(name => name && name !== 'busybox')
  for (const name of applets) add({ name: `bin/${name}`, kind: 'link', mode: 0o777, data: 'busybox' })
  add({ name: 'var/run', kind: 'link', mode: 0o777, data: '/run' })
  for (const name of ['init', 'sbin/init', 'sbin/reboot'])
    add({ name, kind: 'link', mode: 0o777, data: '/bin/busybox' })
  for (const [name, file] of Object.entries(scripts)) add({ name, data: readFileSync(path.join(here, 'guest', file)) })
  for (const [name, data] of Object.entries(texts)) add({ name, data })
  for (const [name, file] of await agentFiles(path.join(unpacked, 'usr/sbin/qemu-ga')))
    add({ name, data: readFileSync(file) })
  const found = new Map()
  for (const name of readdirSync(path.join(unpacked, 'lib/modules'), { recursive: true }))
    if (name.endsWith('.ko')) found.set(path.basename(name, '.ko'), path.join(unpacked, 'lib/modules', name))
  const loaded = modules.filter(name => found.has(name))
  for (const name of loaded) add({ name: `modules/${name}.ko`, data: readFileSync(found.get(name)) })
  add({ name: 'modules/order', data: loaded.map(name => `${name}\n`).join('') })
  return cpio(entries)
}

async function build(target) {
  const packages = await fetchPackages(['kernel', 'busybox-static', 'qemu-guest-agent'])
  const work = mkdtempSync(path.join(cacheFolder, 'guest-'))
  try {
    const unpacked = path.join(work, 'unpacked')
    const wanted = modules.map(name => `*/${name}.ko`)
    await unpack(packages.files['kernel'], unpacked, './boot/vmlinuz-*', ...wanted)
    await unpack(packages.files['busybox-static'], unpacked, '*bin/busybox')
    await unpack(packages.files['qemu-guest-agent'], unpacked, '*bin/qemu-ga')
    const [kernel] = readdirSync(path.join(unpacked, 'boot'))
    const made = path.join(work, 'made')
    mkdirSync(made)
    copyFileSync(path.join(unpacked, 'boot', kernel), path.join(made, 'vmlinuz'))
    writeFileSync(path.join(made, 'initrd'), await makeInitrd(unpacked))
    writeFileSync(path.join(made, 'version'), `${kernel.replace('vmlinuz-', '')}\n`)
    renameSync(made, target)
  } finally {
    packages.discard()
    rmSync(work, { recursive: true, force: true })
  }
}

/** The files of the guest's kernel and its first root file system; made at the first call, or when their sources change. */
export async function guestImage() {
  const hash = createHash('sha256').update(readFileSync('/etc/os-release'))
  const sources = ['image.mjs', 'cpio.mjs', ...Object.values(scripts).map(name => `guest/${name}`)]
  for (const name of sources) hash.update(readFileSync(path.join(here, name)))
  const folder = path.join(cacheFolder, `guest-image-${hash.digest('hex').slice(0, 16)}`)
  await locked(`image-${path.basename(folder)}`, async () => {
    if (existsSync(folder)) return
    mkdirSync(cacheFolder, { recursive: true })
    await build(folder)
    for (const name of readdirSync(cacheFolder))
      if (name.startsWith('guest-image-') && name !== path.basename(folder))
        rmSync(path.join(cacheFolder, name), { recursive: true, force: true })
  })
  return { kernel: path.join(folder, 'vmlinuz'), initrd: path.join(folder, 'initrd') }
}
