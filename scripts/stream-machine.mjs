// Streams a disk into a machine of ours, over HTTP at 2 MiB/s: it runs long before the image is here. What it writes goes to a file
// beside. A mail server of ours (native/guest) that goes on with the mail of the image; with --linux Debian's kernel with a disk that
// has nginx, on a whole KVM: `npm run rig -- up && npm run rig -- exec -- node scripts/stream-machine.mjs --linux` elsewhere.
//   node scripts/stream-machine.mjs [--linux]     (after npm run build; Debian's nbdkit and libnbd0)
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { guestPath } from 'hypertwin'
import { Machine } from 'hypertwin/machine'
import { ImageStream, NbdServer, pack } from 'hypertwin/stream'
import { slowServer } from './shared/web.mjs'

const linux = process.argv.includes('--linux')
const rate = 2 * 2 ** 20
const folder = mkdtempSync(path.join(tmpdir(), 'stream-machine-'))

async function linuxGuest() {
  const { guestImage, serviceImage } = await import('./hosts/index.mjs')
  const [{ kernel, initrd }, { disk, page }] = [await guestImage(), await serviceImage()]
  return {
    options: { kernel, initrd, memory: '256MiB', commandLine: 'console=ttyS0 quiet' },
    contents: readFileSync(disk),
    async served(machine) {
      await machine.console.waitFor('guest# ')
      machine.console.write('mkdir -p /mnt; mount /dev/vda /mnt; mount --bind /dev /mnt/dev; chroot /mnt /usr/sbin/nginx; wget -q -O - http://127.0.0.1/page | wc -c\n')
      const [, bytes] = /(\d+)\s+guest#/.exec(await machine.console.waitFor(/\d+\s+guest#/))
      if (Number(bytes) !== page.length) throw new Error(`nginx has served ${bytes} bytes of ${page.length}`)
      return 'nginx has served its page'
    }
  }
}

async function mailGuest() {
  const options = { kernel: guestPath('mailroom'), memory: '32MiB', nets: [{}] }
  // An image with a mail room in it, as a first run leaves it.
  const image = path.join(folder, 'mail')
  writeFileSync(image, Buffer.alloc(8 << 20))
  const first = await Machine.create({ ...options, disks: [{ path: image }] })
  await first.start()
  await first.console.waitFor('mailroom ready')
  await first.close()
  return {
    options,
    contents: readFileSync(image),
    async served(machine) {
      await machine.console.waitFor('mailroom ready')
      return 'the mail room has found what it left, and is ready'
    }
  }
}

const toClose = [{ close: () => rmSync(folder, { recursive: true, force: true }) }]
const later = one => (toClose.unshift(one), one)
try {
  /** What runs, and what it says when it has read what is on its disk. */
  const guest = linux ? await linuxGuest() : await mailGuest()
  // The publisher's side: the image, with 24 MiB behind it that nobody asks for, behind a slow link.
  const image = path.join(folder, 'image')
  writeFileSync(image, Buffer.concat([guest.contents, randomBytes(24 << 20)]))
  const { manifest } = await pack(image, path.join(folder, 'pack'))
  const web = later(await slowServer(path.join(folder, 'pack'), rate))

  const begun = performance.now()
  const seconds = () => `${((performance.now() - begun) / 1000).toFixed(1)} s`
  const stream = later(await ImageStream.open(web.url, { cache: path.join(folder, 'copy'), digest: manifest.digest, gate: 'none' }))
  const nbd = later(await NbdServer.start(stream.cache, { writable: true }))
  const machine = later(await Machine.create({ board: 'standard', ...guest.options, disks: [{ path: nbd.uri }] }))
  await machine.start()
  const said = await guest.served(machine)
  const { missingBytes, storedBytes, demands } = stream.progress()
  console.log(`${seconds()}: ${said}; ${(100 * (1 - missingBytes / storedBytes)).toFixed(0)} % of the image is here, ${demands.count} chunks were waited for`)
  await stream.complete
  console.log(`${seconds()}: all of it is here; the machine is ${machine.state}`)
  if (machine.state !== 'running') process.exitCode = 1
} finally {
  for (const one of toClose) await one.close()
}
