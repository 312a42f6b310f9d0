// Moves a mail server to another process over TLS while its users go on working, and shows how it went.
// Usage: node scripts/migrate-hello.mjs [--users 20] [--seconds 2] [--bandwidth 20MiB] [--svg rounds.svg]
// (after npm run build). Needs the program openssl, for certificates that are thrown away afterwards. The users' packets
// go to whichever process has the machine, as a switch would send them.
import { execFileSync, fork } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { FileArbiter } from 'hypertwin/arbiter'
import { listen, migrate } from 'hypertwin/migrate'
import { Ui } from '../dist/cli/common.js'
import { createMailroom, packetPort } from '../dist/cli/mailroom/boot.js'
import { MailroomClient } from '../dist/cli/mailroom/client.js'
import { FrameLink } from '../dist/cli/mailroom/link.js'
import { MailLoad } from '../dist/cli/mailroom/load.js'
import { MAILROOM_PORT } from '../dist/cli/mailroom/protocol.js'
import { RoamingPort } from '../dist/cli/mailroom/roaming.js'
import { showProgress } from '../dist/cli/migrate.js'
import { roundsSvg, roundsTable } from '../dist/cli/rounds.js'

const tlsIn = (folder, who) => ({
  ca: readFileSync(path.join(folder, 'ca.pem')),
  cert: readFileSync(path.join(folder, `${who}.pem`)),
  key: readFileSync(path.join(folder, `${who}.key`)),
  servername: 'localhost'
})

if (process.send) await destination(process.argv[2])
else await source()

// ---- the process that the machine moves to: it has the network's other end too

async function destination(folder) {
  process.on('disconnect', () => process.exit())
  const listener = await listen('tcp://127.0.0.1:0', {
    tls: tlsIn(folder, 'destination'),
    arbiter: new FileArbiter(folder),
    diskFolders: [folder] // the source says which file: both have the same one
  })
  process.send({ address: listener.address })
  const { machine } = await (await listener.accept()).done
  machine.net(0).onPackets(packets => process.send({ packets }))
  process.on('message', ({ packet }) => machine.net(0).send(packet))
  process.send({ state: machine.state })
  await machine.waitFor('stopped')
}

// ---- the process where it runs first, with the users

function certificates(folder) {
  const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-batch', '-days', '1']
  openssl('req', '-x509', ...key, '-subj', '/CN=hello', '-keyout', 'ca.key', '-out', 'ca.pem')
  for (const who of ['source', 'destination'])
    openssl('req', '-x509', ...key, '-subj', `/CN=${who}`, '-addext', 'subjectAltName=DNS:localhost',
      '-addext', 'basicConstraints=critical,CA:false', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-keyout', `${who}.key`, '-out', `${who}.pem`)
}

/** The network's way to a machine in another process. */
function remotePort(child) {
  let handler = () => {}
  child.on('message', ({ packets = [] }) => packets.forEach(packet => handler(packet)))
  return {
    send: packet => child.connected && child.send({ packet: Buffer.from(packet) }),
    receive: f => (handler = f),
    close: () => {}
  }
}

function said(child, what) {
  return new Promise((resolve, reject) => {
    const hear = message => {
      if (message[what] === undefined) return
      child.off('message', hear)
      resolve(message[what])
    }
    child.on('message', hear).once('exit', () => reject(new Error('the other process ended')))
  })
}

async function source() {
  const { values } = parseArgs({
    options: {
      users: { type: 'string', default: '20' },
      seconds: { type: 'string', default: '2' },
      bandwidth: { type: 'string' },
      svg: { type: 'string' }
    }
  })
  const pause = () => new Promise(resolve => setTimeout(resolve, Number(values.seconds) * 1000))
  const folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-hello-'))
  const child = { process: undefined }
  try {
    certificates(folder)
    child.process = fork(fileURLToPath(import.meta.url), [folder], { serialization: 'advanced' })
    const address = await said(child.process, 'address')

    const machine = await createMailroom({ disk: path.join(folder, 'mail.img'), memory: '16MiB' })
    await machine.start()
    const network = new RoamingPort()
    network.attach(packetPort(machine.net(0)))
    const link = new FrameLink(network, { guestPort: MAILROOM_PORT })
    await link.ready(30_000)
    const client = new MailroomClient(link, { timeout: 'adaptive' })
    const load = new MailLoad(client, { users: Number(values.users) })
    await load.login()
    load.start()
    console.log(`${values.users} users at work on process ${process.pid}; the mail server moves to ${child.process.pid} by ${address}`)
    await pause()

    const before = load.stats()
    const arrived = said(child.process, 'state')
    const migration = migrate(machine, address, {
      tls: tlsIn(folder, 'source'),
      arbiter: new FileArbiter(folder),
      ...(values.bandwidth && { bandwidth: values.bandwidth })
    })
    await showProgress(migration, new Ui(false))
    const result = await migration.done
    network.attach(remotePort(child.process))
    await arrived
    const there = load.stats()
    await pause()
    await load.stop()

    console.log(roundsTable(result))
    if (values.svg) writeFileSync(values.svg, roundsSvg(result))
    const after = load.stats()
    const verdict = await load.verify()
    console.log(
      `${before.acknowledged} operations before, ${there.acknowledged - before.acknowledged} while it moved, ` +
        `${after.acknowledged - there.acknowledged} after; longest answer ${after.latency.all.max.toFixed(0)} ms; ` +
        `${after.unanswered} unanswered, ${verdict.lost} lost`
    )
    console.log(`Here the machine is ${machine.state} (${machine.reason}): ${machine.message}`)
    client.close()
    await machine.close()
    if (verdict.lost + verdict.surplus + after.unanswered > 0) process.exitCode = 1
  } finally {
    child.process?.kill()
    rmSync(folder, { recursive: true, force: true })
  }
}
