// Backs a running guest's disk up, whole and then only what was written since, by dirty bitmaps; puts both together again
// and compares them with the disk.
// Usage: node scripts/libvirt-backup.mjs [--size 256] [--times 3] [--pull]   (after npm run build; as root)
// The hypervisor writes the backups, or with --pull offers the disk over NBD, from where this program reads it.
// The host is one of its own: see docs/hosts.md.
import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { Connect } from 'hypertwin/libvirt'
import { bytes, Ui } from '../dist/cli/common.js'
import { blankDisk, linuxGuest, startHosts } from './hosts/index.mjs'

const { values } = parseArgs({
  options: { size: { type: 'string', default: '256' }, times: { type: 'string', default: '3' }, pull: { type: 'boolean' } }
})
const ui = new Ui(false)
const hosts = await startHosts({ count: 1 })
const connect = await Connect.open(hosts.hosts[0].uri)
const file = name => path.join(hosts.storage, name)
const qemuImg = (...args) => execFileSync('qemu-img', args, { encoding: 'utf8' })
try {
  const disk = await blankDisk(file('disk.qcow2'), `${values.size}M`)
  const guest = await linuxGuest({ hosts, network: false, disks: [{ file: disk }] })
  const domain = await connect.createDomain(guest.xml)
  ui.say(`${guest.name} boots …`)
  await guest.waitFor()
  await agentAnswers(domain)
  let since
  let newest
  for (let number = 0; number < Number(values.times); number++) {
    // Each time fewer and other blocks are written.
    const megabytes = number === 0 ? Number(values.size) / 4 : 4 * number
    await dd(domain, megabytes, number * 8)
    const target = file(`backup${number}.qcow2`)
    const checkpoint = `checkpoint${number}`
    const words = { checkpoint, ...(since && { since }) }
    const begun = performance.now()
    if (values.pull) await pull(domain, target, words)
    else await push(domain, target, words)
    const took = (performance.now() - begun).toFixed(0)
    ui.say(`${since ? `written since ${since}` : 'everything'}: ${bytes(statSync(target).size)} in ${took} ms`)
    // An incremental backup names as what lies below it where it came from: put it on top of the one before.
    if (newest) qemuImg('rebase', '-u', '-F', 'qcow2', '-b', newest, target)
    newest = target
    since = checkpoint
  }
  await domain.suspend()
  const compared = qemuImg('compare', '-U', disk, newest).trim()
  ui.say(`The last backup with those below it, compared with the disk: ${compared}`)
  if (!/identical/i.test(compared)) process.exitCode = 1
  await domain.destroy()
} finally {
  await connect.close()
  await hosts.close()
}

async function push(domain, target, words) {
  const job = domain.backup({ disks: { vda: target }, ...words })
  let bar
  for await (const { bytes: done, totalBytes } of job) {
    if (totalBytes > 0) bar ??= ui.bar(words.since ? `since ${words.since}` : 'whole', totalBytes)
    bar?.update(done)
  }
  bar?.stop()
  await job.done
}

async function pull(domain, target, words) {
  const socket = file('backup.sock')
  const backup = await domain.exportBackup({ disks: ['vda'], server: { socket }, ...words })
  try {
    const { uri, bitmap, exportName } = backup.disks.vda
    if (!bitmap) return qemuImg('convert', '-f', 'raw', '-O', 'qcow2', uri, target)
    // What is dirty is said to be no data.
    const image = `driver=nbd,server.type=unix,server.path=${socket},export=${exportName},x-dirty-bitmap=${bitmap}`
    const dirty = JSON.parse(qemuImg('map', '--output=json', '--image-opts', image)).filter(({ data }) => !data)
    // What is read through an image that copies what it reads stays in it.
    qemuImg('create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', uri, target)
    const reads = dirty.flatMap(({ start, length }) => ['-c', `read ${start} ${length}`])
    if (reads.length > 0) execFileSync('qemu-io', ['-C', '-f', 'qcow2', ...reads, target], { stdio: ['ignore', 'ignore', 'inherit'] })
  } finally {
    await backup.end()
  }
}

async function dd(domain, megabytes, at) {
  const args = ['if=/dev/urandom', 'of=/dev/vda', 'bs=1M', `count=${megabytes}`, `seek=${at}`, 'conv=notrunc', 'oflag=direct']
  const { exitCode, stderr } = await domain.agent.exec('/bin/dd', args)
  if (exitCode !== 0) throw new Error(stderr.toString())
}

async function agentAnswers(domain) {
  for (;;) {
    try {
      return await domain.agent.command('guest-ping')
    } catch (error) {
      if (error.code !== 'VIR_ERR_AGENT_UNRESPONSIVE') throw error
    }
  }
}
