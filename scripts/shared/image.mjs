// Folders of files that are made once, and again when something that they are made of changes.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { locked } from './lock.mjs'

/**
 * The folder `cache`/`name`-<hash of the sources and of the system's version>. Older ones are removed.
 * @param build - is given an empty folder to fill and one for its own use
 */
export async function cachedImage({ cache, name, sources, build }) {
  const hash = createHash('sha256').update(readFileSync('/etc/os-release'))
  for (const file of sources) hash.update(readFileSync(file))
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
