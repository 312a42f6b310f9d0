// Linux on the standard board against QEMU's microvm, on this machine's KVM emulated: in a rig. Time to user space, disk,
// network, exits, memory, restore.
//   node bench/linux.mjs [--quick] [boot] [memory] [disk] [net] [vhost] [restore]
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { guestImage } from '../scripts/hosts/index.mjs'
import { rigsUp, whyNoRigs } from '../scripts/rig/index.mjs'
import { runInRig } from '../scripts/rig/run.mjs'
import { Tree, cpio } from '../scripts/shared/cpio.mjs'
import { root } from '../scripts/support.mjs'

const quick = process.argv.includes('--quick')
const all = ['boot', 'memory', 'disk', 'net', 'vhost', 'restore']
const chosen = process.argv.slice(2).filter(word => !word.startsWith('--'))

const why = await whyNoRigs()
if (why) {
  console.error(`bench: skipped: linux: ${why}`)
  process.exit(0)
}
const build = path.join(root, 'build/bench')
mkdirSync(build, { recursive: true })
const agent = path.join(build, 'linux-agent')
execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-s', '-o', agent, path.join(root, 'bench/linux/agent.c')])
const { elf, kernel: image, initrd } = await guestImage('cloud')
const tree = new Tree()
tree.add({ name: 'agent', data: readFileSync(agent) })
const own = path.join(build, 'linux-initrd')
writeFileSync(own, Buffer.concat([readFileSync(initrd), cpio(tree.entries)]))

const rigs = await rigsUp(1, { memory: 2048, cpus: 2 })
try {
  const given = { elf, image, initrd: own, agent, quick, only: chosen.length > 0 ? chosen : all }
  const words = [process.execPath, '--expose-gc', path.join(root, 'bench/linux/turns.mjs'), JSON.stringify(given)]
  process.exitCode = await runInRig([...rigs][0], words, { cwd: root, timeout: 1_800_000, input: null })
} finally {
  await rigs.down()
}
