// Live-migrates a Linux guest to a second host and back, with a progress bar, while it serves a client; the client counts.
// Usage: node scripts/libvirt-migrate.mjs [--bandwidth 20MiB] [--post-copy] [--svg rounds.svg]   (after npm run build; as root)
// The two hosts are of its own: see docs/hosts.md.
import { writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { Connect, migrate } from 'hypertwin/libvirt'
import { Ui } from '../dist/cli/common.js'
import { showDomainMigration } from '../dist/cli/host.js'
import { roundsSvg, roundsTable } from '../dist/cli/rounds.js'
import { linuxGuest, servicePort, startHosts } from './hosts/index.mjs'

const { values } = parseArgs({
  options: { bandwidth: { type: 'string', default: '20MiB' }, 'post-copy': { type: 'boolean' }, svg: { type: 'string' } }
})
const ui = new Ui(false)
const hosts = await startHosts({ count: 2 })
const [first, second] = hosts
const [here, there] = [await Connect.open(first.uri), await Connect.open(second.uri)]
let stream
try {
  const guest = await linuxGuest({ hosts, dirty: { mib: 8, rate: 8 } })
  await here.createDomain(guest.xml, { persistent: false })
  ui.say(`${guest.name} boots on ${first.name} …`)
  await guest.waitFor()
  stream = hosts.connect(guest.address, servicePort)
  const client = load(stream)
  for (const [from, to, connect] of [[first, second, there], [second, first, here]]) {
    const moving = await (from === first ? here : there).domainLookupByName(guest.name)
    const migration = migrate(moving, connect, { bandwidth: values.bandwidth, ...(values['post-copy'] && { postCopy: { afterRounds: 1 } }) })
    ui.say(`${from.name} -> ${to.name}`)
    await showDomainMigration(migration, ui)
    const result = await migration.done
    ui.say(roundsTable(result))
    if (values.svg) writeFileSync(values.svg, roundsSvg({ ...result, blackoutMs: result.blackoutMs ?? 0 }))
  }
  const { answers, longestMs } = client.figures()
  ui.say(`The client had ${answers} answers in their order, on one connection; it waited ${longestMs.toFixed(0)} ms at most.`)
} finally {
  stream?.destroy()
  await Promise.all([here.close(), there.close()])
  await hosts.close()
}

/** A client that asks again as soon as it is answered; the guest numbers its answers, in its memory. */
function load(stream) {
  let answers = 0
  let longestMs = 0
  let asked = performance.now()
  const ask = () => {
    asked = performance.now()
    stream.write('hello\n')
  }
  const lines = createInterface({ input: stream })
  lines.on('error', () => {})
  lines.on('line', line => {
    if (line !== `${++answers} hello`) throw new Error(`the guest's answer ${answers} is "${line}"`)
    longestMs = Math.max(longestMs, performance.now() - asked)
    setTimeout(ask, 20)
  })
  stream.on('error', () => {})
  ask()
  return { figures: () => ({ answers, longestMs }) }
}
