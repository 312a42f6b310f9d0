// The guest's kernel and first root file system, made of Debian's packages and kept in .cache until something that
// they are made of changes.
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { Tree, cpio } from '../shared/cpio.mjs'
import { fetchPackages, unpack } from '../shared/debian.mjs'
import { busyboxIn, cachedImage, elfOf, modulesBelow, programFiles } from '../shared/image.mjs'
import { must } from '../shared/process.mjs'
import { cacheFolder } from './debian.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))

// In the order in which they can be loaded.
const modules = [
  'virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'failover', 'net_failover',
  'virtio_net', 'virtio_blk', 'virtio_console', 'virtio_balloon', 'virtio-rng', 'button', 'evdev',
  'crc16', 'crc32c_generic', 'mbcache', 'jbd2', 'ext4', 'vsock', 'vmw_vsock_virtio_transport_common',
  'vmw_vsock_virtio_transport'
]

const scripts = {
  'init': 'boot.sh',
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

async function makeInitrd(unpacked) {
  const tree = new Tree()
  for (const name of ['dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'var/log']) tree.folder(name)
  tree.add({ name: 'dev/console', kind: 'device', mode: 0o600, device: [5, 1] })
  const busybox = busyboxIn(unpacked)
  tree.addBusybox(readFileSync(busybox), (await must([busybox, '--list'])).trim().split('\n'))
  tree.add({ name: 'var/run', kind: 'link', mode: 0o777, data: '/run' })
  for (const name of ['sbin/init', 'sbin/reboot'])
    tree.add({ name, kind: 'link', mode: 0o777, data: '/bin/busybox' })
  for (const [name, file] of Object.entries(scripts))
    tree.add({ name, data: readFileSync(path.join(here, 'guest', file)) })
  for (const [name, data] of Object.entries(texts)) tree.add({ name, data })
  for (const [name, file] of await programFiles('sbin/qemu-ga', path.join(unpacked, 'usr/sbin/qemu-ga')))
    tree.add({ name, data: readFileSync(file) })
  const found = modulesBelow(path.join(unpacked, 'lib/modules'))
  const loaded = modules.filter(name => found.has(name))
  for (const name of loaded) tree.add({ name: `modules/${name}.ko`, data: readFileSync(found.get(name)) })
  tree.add({ name: 'modules/order', data: loaded.map(name => `${name}\n`).join('') })
  return cpio(tree.entries)
}

const kernels = { cloud: 'linux-image-cloud-amd64', generic: 'linux-image-amd64' }

async function build(made, work, flavour) {
  const packages = await fetchPackages([kernels[flavour], 'busybox-static', 'qemu-guest-agent'], cacheFolder)
  try {
    const unpacked = path.join(work, 'unpacked')
    await unpack(packages.files['kernel'], unpacked, './boot/vmlinuz-*', '*.ko')
    await unpack(packages.files['busybox-static'], unpacked, '*bin/busybox')
    await unpack(packages.files['qemu-guest-agent'], unpacked, '*bin/qemu-ga')
    const [kernel] = readdirSync(path.join(unpacked, 'boot'))
    copyFileSync(path.join(unpacked, 'boot', kernel), path.join(made, 'vmlinuz'))
    writeFileSync(path.join(made, 'vmlinux'), elfOf(readFileSync(path.join(unpacked, 'boot', kernel))))
    writeFileSync(path.join(made, 'initrd'), await makeInitrd(unpacked))
    writeFileSync(path.join(made, 'version'), `${kernel.replace('vmlinuz-', '')}\n`)
  } finally {
    packages.discard()
  }
}

/**
 * The files of the guest's kernel (a bzImage, and the ELF file in it) and its first root file system; made at the first
 * call, or when their sources change.
 * @param flavour - Debian's kernel for virtual machines (cloud), or for any (generic)
 */
export async function guestImage(flavour = 'cloud') {
  const sources = ['image.mjs', ...Object.values(scripts).map(name => `guest/${name}`)]
  const folder = await cachedImage({
    cache: cacheFolder,
    name: `guest-${flavour}`,
    sources: sources.map(name => path.join(here, name)),
    build: (made, work) => build(made, work, flavour)
  })
  const file = name => path.join(folder, name)
  return { kernel: file('vmlinuz'), elf: file('vmlinux'), initrd: file('initrd') }
}
