// Streams a Debian application into a libvirt domain: a disk with nginx, over HTTP, into a local copy that an NBD server lends to the
// domain as a network disk. Tells how much had come when nginx answered, and that in the end the copy is the image.
//   node scripts/stream-libvirt.mjs [MiB a second]   (after npm run build; as root; Debian's nbdkit, fdisk, e2fsprogs, binutils)
// The host is one of its own, and its guests run without KVM: see docs/hosts.md.
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { Connect } from 'hypertwin/libvirt'
import { examine, ImageStream, NbdServer, pack } from 'hypertwin/stream'
import { linuxGuest, serviceImage, startHosts } from './hosts/index.mjs'
import { slowServer } from './shared/web.mjs'

const rate = Number(process.argv[2] ?? 2) * 2 ** 20
const hosts = await startHosts({ count: 1 })
const file = name => path.join(hosts.storage, name)
const toClose = [hosts]
const later = one => (toClose.unshift(one), one)
try {
  const connect = later(await Connect.open(hosts.hosts[0].uri))
  // The publisher's side: the image, with 24 MiB behind it that nobody asks for, and what its nginx needs.
  const { disk, page } = await serviceImage()
  writeFileSync(file('image'), Buffer.concat([readFileSync(disk), randomBytes(24 << 20)]))
  const { manifest } = await pack(file('image'), file('pack'))
  const { profile } = await examine(file('image'), manifest, { applications: ['/usr/sbin/nginx', '/srv'] })
  const web = later(await slowServer(file('pack'), rate))

  const begun = performance.now()
  const seconds = () => `${((performance.now() - begun) / 1000).toFixed(1)} s`
  const stream = later(await ImageStream.open(web.url, { cache: file('copy'), profile, digest: manifest.digest }))
  // What the domain writes goes into a file of the server's, and ends with it; a qcow2 image on top of the disk would keep it.
  const nbd = later(await NbdServer.start(stream.cache, { writable: true, socket: file('nbd.sock') }))
  const devices = `
      <disk type='network' device='disk'>
        <driver name='qemu' type='raw' cache='none'/>
        <source protocol='nbd'><host transport='unix' socket='${nbd.socket}'/></source>
        <target dev='vda' bus='virtio'/>
      </disk>`
  const guest = await linuxGuest({ hosts, network: false, devices })
  await stream.ready
  console.log(`${seconds()}: ${guest.name} starts; ${here(stream)}`)
  const domain = await connect.createDomain(guest.xml)
  await guest.waitFor()
  await agentAnswers(domain)
  await sh(domain, 'mkdir -p /mnt && mount /dev/vda /mnt && mount --bind /dev /mnt/dev && chroot /mnt /usr/sbin/nginx')
  const answer = await sh(domain, 'wget -q -O - http://127.0.0.1/page | sha256sum')
  const right = answer.startsWith(createHash('sha256').update(page).digest('hex'))
  console.log(`${seconds()}: nginx has served its page${right ? '' : `, and it is wrong: ${answer}`}; ${here(stream)}`)
  await stream.complete
  const whole = createHash('sha256').update(readFileSync(path.join(stream.cache, 'image'))).digest('hex') === manifest.imageDigest
  console.log(`${seconds()}: the copy ${whole ? 'is' : 'is NOT'} the image`)
  if (!right || !whole) process.exitCode = 1
  await domain.destroy()
} finally {
  for (const one of toClose) await one.close()
}

function here(stream) {
  const { missingBytes, storedBytes, fetched } = stream.progress()
  const come = storedBytes - missingBytes
  // Whatever the link carries besides makes the copy complete.
  const needed = come - fetched.fill
  const mib = bytes => (bytes / 2 ** 20).toFixed(1)
  return `${mib(needed)} MiB of ${mib(storedBytes)} were needed so far, ${((100 * needed) / storedBytes).toFixed(0)} %; with the fill ${mib(come)} have come`
}

async function sh(domain, command) {
  const { exitCode, stdout, stderr } = await domain.agent.exec('/bin/sh', ['-c', command])
  if (exitCode !== 0) throw new Error(`${command}: ${stderr.toString()}`)
  return stdout.toString()
}

async function agentAnswers(domain) {
  for (;;) {
    try {
      return await domain.agent.command('guest-ping')
    } catch (error) {
      if (error.code !== 'VIR_ERR_AGENT_UNRESPONSIVE') throw error
      await sleep(50)
    }
  }
}
