// A ready application, its memory and its disk streamed together: what share of both has come at its first right answer.
// Where there is no /dev/kvm, in a rig, whose seconds mean nothing; bytes do not depend on them.
//   node bench/ready.mjs [--quick] [image …]     (images of bench/stream/images.mjs, which are built where they are missing)
import path from 'node:path'
import process from 'node:process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rigsUp, whyNoRigs } from '../scripts/rig/index.mjs'
import { root, whyNoKvm } from '../scripts/support.mjs'
import { print } from './figures.mjs'
import { builtImage } from './stream/build.mjs'
import { recipes } from './stream/images.mjs'

const words = process.argv.slice(2)
const chosen = words.filter(word => !word.startsWith('--'))
const names = chosen.length > 0 ? chosen : words.includes('--quick') ? ['nginx'] : ['nginx', 'postgresql', 'redis', 'dovecot']
const program = name => [process.execPath, path.join(root, 'bench/stream/ready.mjs'), name]

/** What a program prints: here, or in a rig. */
async function printed([command, ...args], rig) {
  const child = rig ? await rig.spawn([command, ...args]) : spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = rig ? child.ended : once(child, 'close')
  child.stderr.pipe(process.stderr, { end: false })
  const stdout = (await child.stdout.setEncoding('utf8').toArray()).join('')
  await ended
  return stdout
}

const inRig = whyNoKvm() !== undefined
const why = inRig && (await whyNoRigs())
if (why) {
  console.error(`bench: skipped: ready: ${why}`)
  process.exit(0)
}
const rigs = inRig ? await rigsUp(1, { memory: 5120, cpus: 2 }) : undefined
try {
  for (const name of names) {
    // In a rig nothing that is built outlives it.
    const recipe = recipes.find(recipe => recipe.name === name)
    if (recipe) await builtImage(recipe, { say: text => console.error(`bench: ${text}`) })
    const stdout = await printed(program(name), rigs?.rigs[0])
    // It has said why.
    if (stdout === '') process.exitCode = 1
    for (const row of stdout === '' ? [] : JSON.parse(stdout)) {
      const of = `ready/${row.image}/${row.way}`
      const bytes = row.headBytes + row.memoryBytes + row.diskBytes
      const share = (what, baseline) => print({ name: `${of}/${what}`, value: bytes, unit: 'bytes', baseline, ratio: bytes / baseline })
      share('of-both', row.memorySize + row.diskSize)
      share('of-allocated', row.allocated)
      share('of-stored', row.stored)
      print({ name: `${of}/page-waits`, value: row.pageWaits, unit: 'pages' })
      print({ name: `${of}/disk-waits`, value: row.diskWaits, unit: 'chunks' })
      print({ name: `${of}/seconds`, value: row.readySeconds, unit: rigs ? 's (emulated)' : 's' })
    }
  }
} finally {
  await rigs?.down()
}
