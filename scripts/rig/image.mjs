// A rig's kernel and its first root file system, made of Debian's packages and kept in .cache until something that they
// are made of changes.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { root } from '../support.mjs'
import { Tree, cpio } from '../shared/cpio.mjs'
import { fetchPackages, unpack } from '../shared/debian.mjs'
import { ToolError } from '../shared/error.mjs'
import { busyboxIn, cachedImage, elfOf, modulesBelow } from '../shared/image.mjs'
import { must } from '../shared/process.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const cacheFolder = path.join(root, '.cache/rig')

// What they depend on comes before them. One that a kernel has built in is not there as a module.
const modules = [
  'virtio_pci', 'virtio_console', 'virtio_net', 'virtio-rng', 'qemu_fw_cfg', '9p', '9pnet_virtio', 'overlay',
  'kvm-amd nested=1', 'tun', 'veth', 'bridge', 'vhost_net', 'vhost_vsock', 'sch_netem', 'loop'
]

// What init.sh calls, by its own name or as sh.
const programs = [
  'sh', 'mount', 'insmod', 'sed', 'mkdir', 'chmod', 'ln', 'echo', 'cp', 'cut', 'hostname', 'tr', 'ip'
]

/** The modules that a module needs, as it says itself. */
function dependencies(data) {
  const at = data.indexOf('\0depends=')
  if (at < 0) return []
  const text = data.toString('latin1', at + 9, data.indexOf(0, at + 9))
  return text.split(',').filter(name => name)
}

function addModules(tree, found) {
  const added = new Set()
  const order = []
  const add = (name, options = '') => {
    const file = found.get(name) ?? found.get(name.replaceAll('_', '-')) ?? found.get(name.replaceAll('-', '_'))
    if (!file || added.has(file)) return
    added.add(file)
    const data = readFileSync(file)
    for (const needed of dependencies(data)) add(needed)
    tree.add({ name: `modules/${name}.ko`, data })
    order.push(`${name} ${options}\n`)
  }
  for (const line of modules) add(...line.split(' '))
  tree.add({ name: 'modules/order', data: order.join('') })
}

async function makeAgent(work) {
  const agent = path.join(work, 'agent')
  try {
    await must(['cc', '-O2', '-static', '-s', '-o', agent, path.join(here, 'agent.c')])
  } catch (error) {
    throw new ToolError(`The rig’s agent cannot be compiled (cc and a static libc are needed: libc6-dev): ${error.message}`)
  }
  return readFileSync(agent)
}

async function build(made, work) {
  const agent = await makeAgent(work)
  const packages = await fetchPackages(['linux-image-amd64', 'busybox-static'], cacheFolder)
  try {
    const unpacked = path.join(work, 'unpacked')
    await unpack(packages.files['kernel'], unpacked, './boot/vmlinuz-*', '*.ko')
    await unpack(packages.files['busybox-static'], unpacked, '*bin/busybox')
    const [kernel] = readdirSync(path.join(unpacked, 'boot'))
    const tree = new Tree()
    for (const name of ['dev', 'proc', 'sys']) tree.folder(name)
    tree.add({ name: 'dev/console', kind: 'device', mode: 0o600, device: [5, 1] })
    tree.addBusybox(readFileSync(busyboxIn(unpacked)), programs)
    tree.add({ name: 'init', data: readFileSync(path.join(here, 'init.sh')) })
    tree.add({ name: 'bin/agent', data: agent })
    addModules(tree, modulesBelow(path.join(unpacked, 'lib/modules')))
    writeFileSync(path.join(made, 'initrd'), gzipSync(cpio(tree.entries), { level: 1 }))
    writeFileSync(path.join(made, 'kernel'), elfOf(readFileSync(path.join(unpacked, 'boot', kernel))))
    writeFileSync(path.join(made, 'version'), `${kernel.replace('vmlinuz-', '')}\n`)
  } finally {
    packages.discard()
  }
}

/** The files of the rigs' kernel and first root file system; made at the first call, or when their sources change. */
export async function rigImage() {
  const sources = ['image.mjs', 'init.sh', 'agent.c']
  const folder = await cachedImage({
    cache: cacheFolder,
    name: 'image',
    sources: sources.map(name => path.join(here, name)),
    build
  })
  return { kernel: path.join(folder, 'kernel'), initrd: path.join(folder, 'initrd') }
}
