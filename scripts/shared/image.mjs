// Folders of files that are made once, and again when something that they are made of changes.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { ToolError } from './error.mjs'
import { locked } from './lock.mjs'
import { must } from './process.mjs'

/** What all of them are made with. */
const shared = ['cpio.mjs', 'debian.mjs', 'image.mjs'].map(name => new URL(name, import.meta.url))

/**
 * The folder `cache`/`name`-<hash of the sources and of the system's version>. Older ones are removed.
 * @param build - is given an empty folder to fill and one for its own use
 */
export async function cachedImage({ cache, name, sources, build }) {
  const hash = createHash('sha256').update(readFileSync('/etc/os-release'))
  for (const file of [...sources, ...shared]) hash.update(readFileSync(file))
  const folder = path.join(cache, `${name}-${hash.digest('hex').slice(0, 16)}`)
  await locked(`image-${path.basename(folder)}`, async () => {
    if (existsSync(folder)) return
    mkdirSync(cache, { recursive: true })
    const work = mkdtempSync(path.join(cache, 'make-'))
    try {
      const made = path.join(work, 'made')
      mkdirSync(made)
      await build(made, work)
      renameSync(made, folder)
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
    for (const other of readdirSync(cache))
      if (other.startsWith(`${name}-`) && other !== path.basename(folder))
        rmSync(path.join(cache, other), { recursive: true, force: true })
  })
  return folder
}

/** The kernel modules below a folder: their files, by name. */
export function modulesBelow(folder) {
  const found = new Map()
  for (const name of readdirSync(folder, { recursive: true }))
    if (name.endsWith('.ko')) found.set(path.basename(name, '.ko'), path.join(folder, name))
  return found
}

/** The file of busybox in the unpacked package. */
export function busyboxIn(unpacked) {
  return ['bin/busybox', 'usr/bin/busybox'].map(name => path.join(unpacked, name)).find(existsSync)
}

const unpackers = { fd377a58: 'xz', '28b52ffd': 'zstd', '1f8b': 'gzip', '02214c18': 'lz4' }

/** The ELF file in a bzImage, which boots without unpacking itself; the image as it is where nothing can unpack it. */
export function elfOf(image) {
  const setup = (image[0x1f1] || 4) + 1
  const at = setup * 512 + image.readUInt32LE(0x248)
  const payload = image.subarray(at, at + image.readUInt32LE(0x24c))
  const start = payload.subarray(0, 4).toString('hex')
  const program = Object.entries(unpackers).find(([magic]) => start.startsWith(magic))?.[1]
  if (!program) return image
  // Behind the packed data comes its size, which the programs take for rubbish, but not before they have all of it.
  const { stdout, error } = spawnSync(program, ['-dc'], {
    input: payload,
    maxBuffer: 1 << 30,
    stdio: ['pipe', 'pipe', 'ignore']
  })
  return !error && stdout.subarray(0, 4).toString('latin1') === '\x7fELF' ? stdout : image
}

/** A program and this machine's libraries that it needs, as [name in the image, file]. */
export async function programFiles(name, program) {
  const linked = await must(['ldd', program])
  const missing = linked.split('\n').filter(line => line.includes('not found'))
  if (missing.length > 0)
    throw new ToolError(`${path.basename(program)} lacks libraries here: ${missing.join(', ').trim()}`)
  const libraries = [...linked.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, file]) => file)
  const nameOf = file => (file.includes('/ld-linux') ? file.slice(1) : `lib/${path.basename(file)}`)
  return [[name, program], ...libraries.map(file => [nameOf(file), file])]
}
