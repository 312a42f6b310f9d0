// `npm run demo`: set-up, and `hypertwin demo`; in a rig where this machine's KVM cannot be used. Arguments are the
// demo's.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { rigsUp } from './rig/index.mjs'
import { runInRig } from './rig/run.mjs'
import { setup } from './setup.mjs'
import { ToolError } from './shared/error.mjs'
import { root } from './support.mjs'

const args = process.argv.slice(2)
const demo = [process.execPath, 'dist/cli/main.js', 'demo', ...args]

/** Copies a folder of a rig to the same place here. */
async function fetchFolder(rig, folder) {
  mkdirSync(folder, { recursive: true })
  const packed = await rig.spawn(['tar', '-c', '-C', folder, '.'])
  packed.stdin.end()
  packed.stderr.pipe(process.stderr)
  const unpack = spawn('tar', ['-x', '-C', folder], { stdio: ['pipe', 'inherit', 'inherit'] })
  const closed = once(unpack, 'close')
  // tar may end before it has read the padding behind the last file.
  unpack.stdin.on('error', () => {})
  packed.stdout.pipe(unpack.stdin)
  const [status] = await closed
  if (status !== 0) throw new ToolError(`What the demo has written could not be brought to ${folder}: see above.`)
}

async function runInRigOfItsOwn() {
  if (args.some(arg => arg.startsWith('--page')))
    throw new ToolError('--page cannot be seen from outside of a rig: leave it out.')
  const { values } = parseArgs({ args, options: { out: { type: 'string' }, silence: { type: 'string' } }, strict: false })
  const stamp = new Date().toISOString().slice(0, 19).replace(/\D/g, '')
  const out = path.resolve(root, values.out ?? `out/demo-${stamp}`)
  // Its processors may be away for longer than a real machine's are.
  const patience = values.silence === undefined ? ['--silence', '1000'] : []
  const rigs = await rigsUp(1, { memory: 2048 })
  try {
    const [rig] = rigs
    const status = await runInRig(rig, [...demo, ...patience, '--out', out], { cwd: root })
    // What it found wrong is in its files, too.
    if (status === 0) await fetchFolder(rig, out)
    else if (status === 1) await fetchFolder(rig, out).catch(() => {})
    return status
  } finally {
    await rigs.down()
  }
}

/** Why KVM cannot be used here, or undefined. */
async function whyNoKvm() {
  const { Kvm } = await import('../dist/kvm/index.js')
  try {
    await (await Kvm.open()).close()
    return undefined
  } catch (error) {
    return error.message
  }
}

async function runDemo() {
  const usual = args.some(arg => /^(--kvm-device|--help|-h)\b/.test(arg))
  const why = usual ? undefined : await whyNoKvm()
  if (why === undefined) return spawnSync(demo[0], demo.slice(1), { cwd: root, stdio: 'inherit' }).status ?? 1
  console.error(`${why}\n\nSo the demo runs in a rig: a machine with KVM, emulated by QEMU, 10 times slower. Starting it …`)
  return runInRigOfItsOwn()
}

try {
  setup()
} catch (error) {
  console.error(`setup: ${error.message}`)
  process.exit(1)
}
try {
  process.exitCode = await runDemo()
} catch (error) {
  if (!(error instanceof ToolError)) throw error
  console.error(error.message)
  process.exitCode = 1
}
process.stdin.destroy()
