// `npm run rig`: emulated hosts with a complete KVM on this machine. `--help` says more, docs/rig.md all.
import process from 'node:process'
import { parseArgs } from 'node:util'
import { ToolError } from '../shared/error.mjs'
import { locked } from '../shared/lock.mjs'
import { runInRig } from './run.mjs'
import { checkoutId, openRigs, rigsUp, state } from './rigs.mjs'
import { testInRig } from './test.mjs'

const usage = `npm run rig -- up [n] [--memory MiB] [--cpus n]   start n rigs (1): emulated AMD hosts with a complete KVM
npm run rig -- exec [--rig k] [--timeout s] -- <cmd>   run a command in one (the first)
npm run rig -- test [native|node] [arguments]     run the tests in one, from this checkout's build; native: of ctest,
                                                 node: files and folders
npm run rig -- status [--json]                    what is up
npm run rig -- down                               end them

A rig is this machine once more: its files with all writes in the rig's memory, a Debian kernel, its own
/dev/kvm (kvm_amd, nested paging), /tmp and /run. Rigs are on a network with each other: rig1 is 10.77.0.1, rig2
10.77.0.2, and so on. Killing one (\`status\` says its process) is a server unplugged; \`up\` starts it again.
The command runs in this folder, with this environment, input, output and exit status.`

function misuse(why) {
  return new ToolError(why ? `${why}\n\n${usage}` : usage)
}

function parse(args, options, most = 0) {
  let parsed
  try {
    parsed = parseArgs({ args, options, allowPositionals: true })
  } catch (error) {
    throw misuse(error.message)
  }
  if (parsed.positionals.length > most) throw misuse(`What is "${parsed.positionals[most]}"?`)
  return parsed
}

function number(what, text) {
  if (text === undefined) return undefined
  if (!/^\d{1,9}$/.test(text)) throw misuse(`${what} is a number, not "${text}".`)
  return Number(text)
}

function print(rigs, json) {
  const list = [...(rigs ?? [])].map(({ name, alive, address, pid, consoleLog }) => ({
    name,
    state: alive ? 'up' : 'ended',
    address,
    pid: pid ?? null,
    console: consoleLog
  }))
  if (json) console.log(JSON.stringify({ memory: rigs?.memory ?? null, cpus: rigs?.cpus ?? null, rigs: list }, undefined, 2))
  else if (list.length === 0) console.log('No rigs are up. `npm run rig -- up` starts one.')
  else for (const { name, state, address, pid } of list) console.log(`${name}  ${state}  ${address}${pid ? `  pid ${pid}` : ''}`)
}

async function up(args) {
  const { values, positionals } = parse(args, { memory: { type: 'string' }, cpus: { type: 'string' } }, 1)
  const wanted = {
    length: number('The number of rigs', positionals[0]),
    memory: number('--memory', values.memory),
    cpus: number('--cpus', values.cpus)
  }
  const there = openRigs()
  if (there?.up) {
    for (const [name, value] of Object.entries(wanted))
      if (value !== undefined && there[name] !== value)
        throw new ToolError(
          `Rigs are up already: ${there.length}, with ${there.memory} MiB and ${there.cpus} processors each. End them first: npm run rig -- down`
        )
    await Promise.all([...there].map(rig => rig.start()))
    return there
  }
  await state.end(checkoutId)
  const { length = 1, memory, cpus } = wanted
  return rigsUp(length, { memory, cpus, keep: true })
}

async function down() {
  if (process.getuid() !== 0) throw new ToolError('Rigs belong to root: run it as root, or by sudo.')
  await state.end(checkoutId)
  await state.removeAbandoned()
}

async function execute(args) {
  const at = args.indexOf('--')
  if (at < 0 || at === args.length - 1) throw misuse('Put the command after a --.')
  const { values } = parse(args.slice(0, at), { rig: { type: 'string' }, timeout: { type: 'string' } })
  const which = number('--rig', values.rig) ?? 1
  const rig = [...(openRigs() ?? [])][which - 1]
  if (!rig) throw new ToolError(`There is no rig ${which}. \`npm run rig -- status\` says what is up.`)
  const seconds = number('--timeout', values.timeout)
  process.exitCode = await runInRig(rig, args.slice(at + 1), {
    cwd: process.cwd(),
    timeout: seconds && seconds * 1000
  })
}

async function main([action, ...args]) {
  if (action === '--help' || action === 'help' || args[0] === '--help') return console.log(usage)
  switch (action) {
    case 'up':
      return print(await locked(`rig-${checkoutId}`, () => up(args)))
    case 'down':
      parse(args, {})
      return locked(`rig-${checkoutId}`, down)
    case 'status':
      return print(openRigs(), parse(args, { json: { type: 'boolean' } }).values.json)
    case 'exec':
      return execute(args)
    case 'test':
      process.exitCode = await testInRig(args)
      return
    default:
      throw misuse(action && `There is no "${action}".`)
  }
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof ToolError)) throw error
  console.error(error.message)
  process.exitCode = error.code === 'ENOENT' ? 127 : error.code ? 126 : 1
}
// Input that nobody will read must not keep it.
process.stdin.destroy()
