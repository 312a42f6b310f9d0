// A disk with a service on it: Debian's nginx, the libraries that it needs, and a page, in an ext4 file system. Made of
// Debian's package and this machine's libraries, and kept in .cache until something that it is made of changes.
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchPackages, unpack } from '../shared/debian.mjs'
import { cachedImage, programFiles } from '../shared/image.mjs'
import { must } from '../shared/process.mjs'
import { cacheFolder } from './debian.mjs'

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

/** The same bytes each time. */
function page() {
  const pieces = []
  for (let i = 0; i * 32 < pageBytes; i++) pieces.push(createHash('sha256').update(`page ${i}`).digest())
  return Buffer.concat(pieces).subarray(0, pageBytes)
}

async function build(made, work) {
  const packages = await fetchPackages(['nginx'], cacheFolder)
  try {
    const unpacked = path.join(work, 'unpacked')
    await unpack(packages.files['nginx'], unpacked, './usr/sbin/nginx')
    const tree = path.join(work, 'tree')
    for (const folder of ['dev', 'proc', 'run', 'tmp', 'srv', 'etc/nginx', 'var/log/nginx', 'var/lib/nginx'])
      mkdirSync(path.join(tree, folder), { recursive: true })
    for (const [name, file] of await programFiles('usr/sbin/nginx', path.join(unpacked, 'usr/sbin/nginx')))
      cpSync(file, path.join(tree, name), { recursive: true, dereference: true })
    writeFileSync(path.join(tree, 'etc/passwd'), 'root::0:0:root:/:/bin/sh\n')
    writeFileSync(path.join(tree, 'etc/group'), 'root:x:0:\n')
    writeFileSync(path.join(tree, 'etc/nginx/nginx.conf'), configuration)
    writeFileSync(path.join(tree, 'srv/page'), page())
    writeFileSync(path.join(made, 'page'), page())
    await must(['/sbin/mke2fs', '-q', '-t', 'ext4', '-L', 'service', '-d', tree, path.join(made, 'disk.img'), '24M'])
  } finally {
    packages.discard()
  }
}

/** The disk image, and the page that nginx serves as /page; made at the first call, or when their sources change. */
export async function serviceImage() {
  const here = path.dirname(fileURLToPath(import.meta.url))
  const folder = await cachedImage({
    cache: cacheFolder,
    name: 'service',
    sources: ['service_image.mjs', '../shared/image.mjs'].map(name => path.join(here, name)),
    build
  })
  return { disk: path.join(folder, 'disk.img'), page: readFileSync(path.join(folder, 'page')) }
}
