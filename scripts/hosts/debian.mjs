// What the hosts need to be installed.
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { root } from '../support.mjs'
import { install as installPackages } from '../shared/debian.mjs'

// Without libvirt-daemon-system: that would start a libvirtd of the machine's own, which nobody asked for.
const packages = [
  'ebtables',
  'iproute2',
  'iptables',
  'libvirt-clients',
  'libvirt-daemon',
  'libvirt-daemon-driver-qemu',
  'qemu-system-x86',
  'qemu-utils',
  'tini'
]
const programs = ['ip', 'libvirtd', 'nsenter', 'qemu-img', 'qemu-system-x86_64', 'tini', 'unshare', 'virsh']

// What each host has a folder of its own over. They must exist to be covered.
const covered = ['/etc/libvirt', '/var/lib/libvirt', '/var/log/libvirt', '/var/cache/libvirt']

/** The folder of what is worth keeping between runs. */
export const cacheFolder = path.join(root, '.cache/hosts')

/** Installs what is missing. Throws with the command to type where it may not. */
export async function install() {
  await installPackages(packages, programs)
  for (const folder of covered) mkdirSync(folder, { recursive: true })
}
