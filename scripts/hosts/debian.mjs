// What the hosts need from Debian: programs are installed, what only guests need is fetched and unpacked.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { installDebianPackages } from '../setup.mjs'
import { output, root } from '../support.mjs'
import { HostsError } from './error.mjs'
import { locked } from './lock.mjs'
import { execute, must } from './process.mjs'

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

const isDebian = () => output('dpkg-query', ['--version']) !== undefined

/** Installs what is missing. Throws with the command to type where it may not. */
export async function install(...more) {
  await locked('install', async () => {
    if (isDebian()) installDebianPackages([...packages, ...more])
    else {
      const folders = ['/usr/sbin', '/sbin', ...(process.env.PATH ?? '').split(':')]
      const missing = programs.filter(name => !folders.some(folder => existsSync(path.join(folder, name))))
      if (missing.length > 0)
        throw new HostsError(`Hosts need these programs; install them by your package manager: ${missing.join(', ')}`)
    }
    for (const folder of covered) mkdirSync(folder, { recursive: true })
  })
}

/** The name of the kernel package that Debian's newest for virtual machines is. */
async function kernelPackage() {
  const { stdout } = await execute(['apt-cache', 'depends', 'linux-image-cloud-amd64'])
  return /Depends: (linux-image-\S+)/.exec(stdout)?.[1]
}

/** Fetches packages and gives their files, by name; none is installed. 'kernel' stands for Debian's cloud kernel. */
export async function fetchPackages(names) {
  if (!isDebian()) throw new HostsError('Guests are made of packages of Debian, which this system does not have.')
  mkdirSync(cacheFolder, { recursive: true })
  const folder = mkdtempSync(path.join(cacheFolder, 'fetch-'))
  try {
    const fetched = await locked('install', async () => {
      const download = async () => {
        const kernel = await kernelPackage()
        if (!kernel) return { status: 1, stderr: 'linux-image-cloud-amd64 is not known' }
        // As root, since the user _apt may not write here.
        const options = ['-q', '-o', 'APT::Sandbox::User=root']
        const wanted = names.map(name => (name === 'kernel' ? kernel : name))
        return execute(['sh', '-c', 'cd "$0" && exec apt-get download "$@"', folder, ...options, ...wanted])
      }
      // The package lists are fetched only where what is there does not do.
      const first = await download()
      if (first.status === 0) return first
      await execute(['apt-get', 'update', '-q'], { timeout: 300_000 })
      return download()
    })
    if (fetched.status !== 0)
      throw new HostsError(`apt-get could not fetch ${names.join(', ')}: ${fetched.stderr.trim()}`)
    const files = {}
    for (const file of readdirSync(folder)) {
      const name = file.split('_')[0]
      files[name.startsWith('linux-image-') ? 'kernel' : name] = path.join(folder, file)
    }
    return { files, discard: () => rmSync(folder, { recursive: true, force: true }) }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

/** Unpacks those files of a package that the patterns of tar(1) name. */
export async function unpack(file, folder, ...patterns) {
  mkdirSync(folder, { recursive: true })
  await must(
    ['sh', '-c', 'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$FOLDER" --wildcards -- "$@"', file, ...patterns],
    { env: { ...process.env, FOLDER: folder } }
  )
}
