// Boots a Linux guest and connects this terminal to its console. Ctrl-] ends both.
// Usage: node scripts/libvirt-console.mjs [--run 'uname -a'] [--memory 128]   (after npm run build; as root)
// With --run the guest gets that command, and its answer is printed. The host is one of its own: see docs/hosts.md.
import process from 'node:process'
import { parseArgs } from 'node:util'
import { Connect } from 'hypertwin/libvirt'
import { linuxGuest, prompt, startHosts } from './hosts/index.mjs'

const { values } = parseArgs({ options: { run: { type: 'string' }, memory: { type: 'string', default: '128' } } })
const hosts = await startHosts({ count: 1 })
const [host] = hosts
const connect = await Connect.open(host.uri)
try {
  const guest = await linuxGuest({ hosts, memory: Number(values.memory), network: false })
  // It ends with the connection, however this program ends.
  const domain = await connect.createDomain(guest.xml, { persistent: false, autoDestroy: true })
  const console = await domain.console()
  if (values.run === undefined) await talk(console)
  else process.stdout.write(await ask(console, values.run))
  console.destroy()
  await domain.stop({ timeoutMs: 10_000 })
} finally {
  await connect.close()
  await hosts.close()
}

async function talk(console) {
  const { stdin, stdout } = process
  stdin.setRawMode?.(true)
  const ended = new Promise(resolve => {
    stdin.on('data', bytes => (bytes.includes(0x1d) ? resolve() : console.write(bytes)))
    stdin.on('end', resolve)
    console.on('close', resolve)
  })
  console.on('data', bytes => stdout.write(bytes))
  await ended
  stdin.setRawMode?.(false)
  stdin.pause()
}

/** Boots to the prompt, says a line, and gives what comes before the next prompt. */
async function ask(console, line) {
  let heard = ''
  let begun = false
  for await (const bytes of console.iterator({ destroyOnReturn: false })) {
    heard += bytes.toString('latin1')
    const at = heard.indexOf(prompt)
    if (at < 0) continue
    if (begun) return heard.slice(heard.indexOf('\n') + 1, at)
    begun = true
    heard = ''
    console.write(`${line}\n`)
  }
  throw new Error('the console has ended')
}
