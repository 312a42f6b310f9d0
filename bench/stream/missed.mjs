// Which files starts read that an examination did not expect, and which it expected in vain: what to look at when
// examinations are made better.
import { readTrace } from 'hypertwin/stream'
import { execute } from '../../scripts/shared/process.mjs'

const ZERO = 0xffffffff
const LINES = 60

/** For each block of an ext4 file system without a partition table whose it is, as far as debugfs knows. */
async function ownersOf(image, blocks, blockSize) {
  const run = async (command, numbers) => {
    const { stdout } = await execute(['debugfs', '-R', `${command} ${numbers.join(' ')}`, image])
    return stdout.split('\n').slice(1)
  }
  const inodes = new Map()
  for (let at = 0; at < blocks.length; at += 5000)
    for (const line of await run('icheck', blocks.slice(at, at + 5000))) {
      const [block, inode] = line.split('\t')
      if (/^\d+$/.test(inode ?? '')) inodes.set(Number(block), Number(inode))
    }
  const names = new Map()
  const all = [...new Set(inodes.values())]
  for (let at = 0; at < all.length; at += 2000)
    for (const line of await run('ncheck', all.slice(at, at + 2000))) {
      const [inode, name] = line.split('\t')
      if (name !== undefined) names.set(Number(inode), name)
    }
  return block => (inodes.has(block) ? (names.get(inodes.get(block)) ?? `inode ${inodes.get(block)}`) : `(the file system, group ${Math.floor((block * blockSize) / 2 ** 27)})`)
}

/** Lines about chunks, by the files in them: of a chunk that several files share all are named. */
async function byFile(image, chunks, blockSize = 4096) {
  const { manifest } = image
  const each = manifest.chunkSize / blockSize
  const blocks = chunks.flatMap(chunk => Array.from({ length: each }, (_, i) => chunk * each + i))
  const owner = await ownersOf(image.image, blocks, blockSize)
  const files = new Map()
  for (const chunk of chunks) {
    const names = new Map()
    for (let i = 0; i < each; i++) names.set(owner(chunk * each + i), (names.get(owner(chunk * each + i)) ?? 0) + 1)
    const [most] = [...names].sort((a, b) => b[1] - a[1])
    const name = names.size > 4 ? `${most[0]} and ${names.size - 1} others` : [...names.keys()].join(', ')
    files.set(name, (files.get(name) ?? 0) + manifest.lengthOf(manifest.blobOf[chunk]))
  }
  const sorted = [...files].sort((a, b) => b[1] - a[1])
  return [...sorted.slice(0, LINES).map(([name, bytes]) => `  ${String(Math.round(bytes / 1024)).padStart(6)} KiB  ${name}`), ...(sorted.length > LINES ? [`  and ${sorted.length - LINES} more`] : [])]
}

/** @param locals - as Bench has them: starts on a whole copy, with their traces */
export async function missedFiles(image, profile, locals) {
  const { manifest } = image
  const wanted = new Set(profile.entries.map(({ chunk }) => manifest.blobOf[chunk]))
  const [{ row, trace }] = locals
  const { accesses } = await readTrace(trace)
  const stored = accesses.filter(({ chunk }) => manifest.blobOf[chunk] !== ZERO)
  const early = stored.filter(({ atMs }) => atMs / 1000 + row.firstReadSeconds <= row.readySeconds)
  const missed = early.filter(({ chunk }) => !wanted.has(manifest.blobOf[chunk])).map(({ chunk }) => chunk)
  const read = new Set(stored.map(({ chunk }) => manifest.blobOf[chunk]))
  const vain = profile.entries.map(({ chunk }) => chunk).filter(chunk => !read.has(manifest.blobOf[chunk]))
  const size = chunks => `${(chunks.reduce((sum, chunk) => sum + manifest.lengthOf(manifest.blobOf[chunk]), 0) / 2 ** 20).toFixed(1)} MiB in ${chunks.length} chunks`
  return [
    `${image.name}: read before the first answer: ${size(early.map(({ chunk }) => chunk))}; expected: ${size(profile.entries.map(({ chunk }) => chunk))}`,
    `${image.name}: not expected: ${size(missed)}`, ...(await byFile(image, missed)),
    `${image.name}: expected in vain: ${size(vain)}`, ...(await byFile(image, vain))
  ]
}
