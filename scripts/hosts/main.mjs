// `npm run hosts`: libvirt hosts on this machine, for trying things out. See docs/hosts.md.
//   up [n]                 starts n hosts (2), unless they are up
//   down                   ends them, and what dead processes have left of theirs
//   status [--json]        what is up
//   exec <host> -- <cmd>   runs a command on a host
import { spawnSync } from 'node:child_process'
import process from 'node:process'
import { ToolError } from '../shared/error.mjs'
import { openHosts, startHosts } from './hosts.mjs'
import { locked } from '../shared/lock.mjs'
import { checkoutId, state } from './state.mjs'

const usage = `npm run hosts -- up [n]                 start n libvirt hosts (2)
npm run hosts -- down                   end them
npm run hosts -- status [--json]        what is up
npm run hosts -- exec <host> -- <cmd>   run a command on a host, e.g. exec host1 -- virsh list`

function describe(hosts) {
  return [...(hosts ?? [])].map(host => ({
    name: host.name,
    uri: host.uri,
    peerUri: host.peerUri,
    address: host.address,
    socket: host.socket,
    log: host.log,
    state: !host.alive ? 'crashed' : host.pid === undefined ? 'without libvirtd' : 'up',
    pid: host.pid ?? null
  }))
}

function print(hosts, json) {
  const list = describe(hosts)
  if (json) console.log(JSON.stringify({ storage: hosts?.storage ?? null, hosts: list }, undefined, 2))
  else if (list.length === 0) console.log('No hosts are up. `npm run hosts -- up` starts two.')
  else {
    for (const { name, state, address, uri } of list) console.log(`${name}  ${state}  ${address}  ${uri}`)
    console.log(`images  ${hosts.storage}`)
  }
}

async function up(words) {
  if (words.length > 1 || (words[0] !== undefined && !/^\d+$/.test(words[0]))) throw new ToolError(usage)
  const count = Number(words[0] ?? 2)
  const there = openHosts()
  if (there && [...there].every(host => host.alive)) {
    if (words[0] !== undefined && there.length !== count)
      throw new ToolError(`${there.length} hosts are up. End them first: npm run hosts -- down`)
    for (const host of there) await host.start()
    return there
  }
  await state.end(checkoutId)
  return startHosts({ count, keep: true })
}

function execute(words) {
  const [name, separator, ...command] = words
  if (separator !== '--' || command.length === 0) throw new ToolError(usage)
  const host = [...(openHosts() ?? [])].find(host => host.name === name)
  if (!host) throw new ToolError(`There is no ${name}. \`npm run hosts -- status\` says what is up.`)
  const [program, ...args] = host.command(...command)
  const { status, signal, error } = spawnSync(program, args, { stdio: 'inherit' })
  if (error) throw new ToolError(`${program}: ${error.message}`)
  process.exitCode = signal ? 1 : status
}

async function main([action, ...words]) {
  if (['up', 'down', 'exec'].includes(action) && process.getuid() !== 0) throw new ToolError('Hosts belong to root: run it as root, or by sudo.')
  switch (action) {
    case '--help':
      return console.log(usage)
    case 'up':
      return print(await locked(checkoutId, () => up(words)))
    case 'down':
      await locked(checkoutId, async () => {
        await state.end(checkoutId)
        await state.removeAbandoned()
      })
      return
    case 'status':
      return print(openHosts(), words.includes('--json'))
    case 'exec':
      return execute(words)
    default:
      throw new ToolError(usage)
  }
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof ToolError)) throw error
  console.error(error.message)
  process.exitCode = 1
}
