// Streams a disk with Debian's nginx, and 24 MiB of data that nobody asks for, into a Linux guest, over HTTP at 1 MiB/s: the
// page is served long before the image is here, and in the end the copy is the image. Meanwhile there is a page to watch it; what
// this start has read makes the next one's profile; the image's blocks, as they are when nginx answers, become a picture. Runs QEMU
// without KVM; half a minute.
//   node scripts/stream-hello.mjs [MiB a second [picture.svg]]     (after npm run build; Debian's nbdkit, qemu-system-x86, qemu-utils, fdisk)
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { blocksPicture, examine, ImageStream, NbdServer, pack, Profile, QemuGuest, readTrace, StreamPage } from 'hypertwin/stream'
import { guestImage, serviceImage } from './hosts/index.mjs'
import { slowServer } from './shared/web.mjs'

const [, , mib = 1, picture] = process.argv
const rate = Number(mib) * 2 ** 20
const folder = mkdtempSync(path.join(tmpdir(), 'stream-hello-'))
const toClose = [{ close: () => rmSync(folder, { recursive: true, force: true }) }]
const later = one => (toClose.unshift(one), one)
try {
  const [{ disk, page }, { kernel, initrd }] = [await serviceImage(), await guestImage()]

  // The publisher's side: the image is packed, and looked into without running it.
  const image = path.join(folder, 'image')
  writeFileSync(image, Buffer.concat([readFileSync(disk), randomBytes(24 << 20)]))
  const { manifest } = await pack(image, path.join(folder, 'pack'))
  const { profile, files } = await examine(image, manifest, { applications: ['/usr/sbin/nginx', '/srv'] })
  console.log(`packed ${manifest.imageSize >> 20} MiB into ${manifest.dataSize >> 10} KiB; ${files.length} files are wanted, in ${profile.entries.length} of ${manifest.blobs} chunks`)

  const server = later(await slowServer(path.join(folder, 'pack'), rate))
  const begun = performance.now()
  const seconds = () => `${((performance.now() - begun) / 1000).toFixed(1)} s`
  const stream = later(await ImageStream.open(server.url, { cache: path.join(folder, 'copy'), profile, digest: manifest.digest }))
  const watched = later(await StreamPage.serve(stream, { title: 'nginx' }))
  console.log(`watch it at ${watched.url}`)
  const trace = path.join(folder, 'trace')
  const nbd = later(await NbdServer.start(stream.cache, { trace }))
  const here = () => {
    const { missingBytes, storedBytes } = stream.progress()
    return `${(100 * (1 - missingBytes / storedBytes)).toFixed(0)} % of the image is here`
  }
  await stream.ready
  console.log(`${seconds()}: the guest starts; ${here()}`)
  const guest = later(
    await QemuGuest.start(nbd, manifest, {
      accelerator: 'tcg',
      memory: '256MiB',
      kernel,
      initrd,
      append: 'console=ttyS0 quiet',
      stdio: ['pipe', 'pipe', 'inherit']
    })
  )
  let said = ''
  guest.process.stdout.setEncoding('utf8').on('data', text => (said += text))
  const says = async word => {
    while (!said.includes(word)) await once(guest.process.stdout, 'data')
  }
  await says('guest#')
  guest.process.stdin.write('mkdir -p /mnt; mount /dev/vda /mnt; mount --bind /dev /mnt/dev; chroot /mnt /usr/sbin/nginx; wget -q -O - http://127.0.0.1/page | sha256sum; echo do""ne\n')
  await says('done')
  const right = said.includes(createHash('sha256').update(page).digest('hex'))
  console.log(`${seconds()}: nginx has served its page${right ? ', and it is right' : `, and it is wrong: ${said}`}; ${here()}`)
  if (picture) writeFileSync(picture, blocksPicture(stream.blocks(), 'nginx has served its page'))

  // What was found by looking, and what this start has read; in the pack for the next one.
  const read = Profile.fromTrace(manifest, (await readTrace(trace)).accesses)
  const next = Profile.merge([profile, read])
  writeFileSync(path.join(folder, 'pack', 'profile.json'), next.toString())
  const foreseen = new Set(profile.entries.map(({ chunk }) => chunk))
  const unforeseen = read.entries.filter(({ chunk }) => !foreseen.has(chunk))
  console.log(`${read.entries.length} chunks were read, ${unforeseen.length} of which nobody foresaw; the next start's profile has ${next.entries.length}`)

  await stream.complete
  const copy = createHash('sha256').update(readFileSync(path.join(stream.cache, 'image'))).digest('hex')
  console.log(`${seconds()}: the copy ${copy === manifest.imageDigest ? 'is' : 'is NOT'} the image; ${stream.progress().demands.count} chunks were waited for`)
  if (!right || copy !== manifest.imageDigest) process.exitCode = 1
} finally {
  for (const one of toClose) await one.close()
}
