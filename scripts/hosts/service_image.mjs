// A disk that a Linux guest goes on from (root=/dev/vda) with a service on it: Debian's nginx, the libraries that it needs,
// busybox, and a page, in an ext4 file system. Made of Debian's packages alone, and kept in .cache until something that it
// is made of changes.
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchPackages, unpack } from '../shared/debian.mjs'
import { busyboxIn, cachedImage } from '../shared/image.mjs'
import { must } from '../shared/process.mjs'
import { cacheFolder } from './debian.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const pageBytes = 200_000

const configuration = `user root;
worker_processes 2;
pid /run/nginx.pid;
error_log /run/error.log;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  keepalive_requests 100000;
  server { listen 80; root /srv; }
}
`

const texts = {
  'etc/inittab': '::sysinit:/etc/rc\nttyS0::respawn:-/bin/sh\n',
  'etc/profile': "export PATH=/bin:/sbin PS1='guest# ' HOME=/\n",
  'etc/passwd': 'root::0:0:root:/:/bin/sh\n',
  'etc/group': 'root:x:0:\n',
  'etc/nginx/nginx.conf': configuration
}

/** The same bytes each time. */
function page() {
  const pieces = []
  for (let i = 0; i * 32 < pageBytes; i++) pieces.push(createHash('sha256').update(`page ${i}`).digest())
  return Buffer.concat(pieces).subarray(0, pageBytes)
}

async function build(made, work) {
  const packages = await fetchPackages(['nginx+', 'busybox-static'], cacheFolder)
  try {
    const tree = path.join(work, 'tree')
    const { nginx, 'busybox-static': shell, ...libraries } = packages.files
    for (const file of Object.values(libraries)) await unpack(file, tree, '*.so*')
    await unpack(nginx, tree, './usr/sbin/nginx')
    // libc's character sets
    rmSync(path.join(tree, 'usr/lib/x86_64-linux-gnu/gconv'), { recursive: true, force: true })
    const folders = ['bin', 'sbin', 'dev', 'proc', 'sys', 'run', 'tmp', 'srv', 'etc/nginx', 'var/log/nginx', 'var/lib/nginx']
    for (const folder of folders) mkdirSync(path.join(tree, folder), { recursive: true })
    await unpack(shell, path.join(work, 'shell'), '*bin/busybox')
    copyFileSync(busyboxIn(path.join(work, 'shell')), path.join(tree, 'bin/busybox'))
    for (const name of (await must([path.join(tree, 'bin/busybox'), '--list'])).trim().split('\n'))
      if (name !== 'busybox') symlinkSync('busybox', path.join(tree, 'bin', name))
    symlinkSync('/bin/busybox', path.join(tree, 'sbin/init'))
    for (const [name, data] of Object.entries(texts)) writeFileSync(path.join(tree, name), data)
    copyFileSync(path.join(here, 'guest/service.sh'), path.join(tree, 'etc/rc'))
    chmodSync(path.join(tree, 'etc/rc'), 0o755)
    writeFileSync(path.join(tree, 'srv/page'), page())
    writeFileSync(path.join(made, 'page'), page())
    await must(['/sbin/mke2fs', '-q', '-t', 'ext4', '-L', 'service', '-d', tree, path.join(made, 'disk.img'), '40M'])
  } finally {
    packages.discard()
  }
}

/** The disk image, for a kernel and an initrd of guestImage(), and the page that nginx serves as /page; made at the first call, or when their sources change. */
export async function serviceImage() {
  const folder = await cachedImage({
    cache: cacheFolder,
    name: 'service',
    sources: ['service_image.mjs', 'guest/service.sh'].map(name => path.join(here, name)),
    build
  })
  return { disk: path.join(folder, 'disk.img'), page: readFileSync(path.join(folder, 'page')) }
}
