// An ext2, ext3 or ext4 file system in an image, looked at by e2fsprogs' debugfs: its tree, its files' contents, and the
// blocks where things lie. Files are named to debugfs by their inodes alone, so that no name in an image does anything.
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { check, StreamError } from './errors.js'
import { runTool } from './tool.js'

const TYPE = 0o170000
const FOLDER = 0o040000
const FILE = 0o100000
const LINK = 0o120000
const ROOT = 2
/** Of one file system; what is beyond is not looked at, and `cut` says so. */
const MAX_FOLDERS = 200_000
const MAX_NAMES = 1_000_000
const MAX_LINKS = 40
/** Linux's PATH_MAX, of a path and of what a link names. */
const MAX_PATH = 4096
/** After so many paths other work has its turn, for they may lead through memory alone. */
const PATHS_AT_ONCE = 1000
/** Links whose targets are read with the tree. */
const MAX_KNOWN_LINKS = 20_000
/** Smaller files' contents are kept for who looks again, up to so much of them. */
const MAX_SMALL = 1 << 20
const MAX_KEPT = 64 << 20
/** Files' contents lie on this host's disk up to so much at once, or one file. */
const MAX_DUMPED = 64 << 20
const MAX_FILES = 1000
/** So often it is looked whether they have more than was said of them. */
const LOOK_MS = 200
/** And so much of them is handed over at once. */
const MAX_CONTENTS = 256 << 20

/** So many blocks of an inode table, aligned, are read with one of them, and the one behind: Linux's default. */
const INODE_READAHEAD = 32

/** Where each group of blocks keeps what it says of itself. */
interface Groups {
  blockBitmaps: number[]
  inodeBitmaps: number[]
  tables: number[]
  /** Of each inode table. */
  tableBlocks: number
  perGroup: number
}

/** A file, a folder or a link. @internal */
export interface Node {
  /** In which it lies; what is mounted in a folder lies in another one than that. */
  system: ExtFileSystem
  inode: number
  /** The same for all names of a file, and for no other one, also of another file system. */
  id: number
  mode: number
  size: number
  children?: Map<string, Node>
}

/** @internal */
export class ExtFileSystem implements AsyncDisposable {
  /** In bytes. */
  readonly blockSize: number
  readonly root: Node
  /** Where it begins in the image, in bytes. */
  readonly offset: number
  /** In lower case; empty where it has none. */
  readonly uuid: string
  /** Empty where it has none. */
  readonly label: string
  /** It has more than what is looked at. */
  cut = false
  readonly #index: number
  readonly #device: string
  readonly #work: string
  readonly #signal: AbortSignal | undefined
  /** What links name, by inode. */
  readonly #links = new Map<number, string>()
  readonly #kept = new Map<number, Buffer>()
  /** For what is kept; of all that are mounted together. */
  #room = { left: MAX_KEPT }
  #paths = 0

  private constructor(device: string, offset: number, index: number, superblock: string, blockSize: number, work: string, signal: AbortSignal | undefined) {
    const value = (name: string): string => new RegExp(`^${name}:[ \\t]+(.*)$`, 'm').exec(superblock)?.[1] ?? ''
    this.#device = device
    this.offset = offset
    this.#index = index
    this.uuid = value('Filesystem UUID').toLowerCase()
    this.label = value('Filesystem volume name').replace(/^<none>$/, '')
    this.blockSize = blockSize
    this.#work = work
    this.#signal = signal
    this.root = { ...this.#identity(ROOT), mode: FOLDER, size: 0, children: new Map() }
  }

  /** Inodes have 32 bits. */
  #identity(inode: number): Pick<Node, 'system' | 'inode' | 'id'> {
    return { system: this, inode, id: this.#index * 2 ** 32 + inode }
  }

  /**
   * Reads the tree.
   *
   * @param options.index - another one for each file system of an image, from 0 on
   * @param options.limit - of names
   * @returns undefined when there is no such file system
   */
  static async open(image: string, offset: number, options: { index: number; limit?: number; signal?: AbortSignal | undefined }): Promise<ExtFileSystem | undefined> {
    const { index, limit = MAX_NAMES, signal } = options
    // What follows a question mark is debugfs's option.
    if (image.includes('?')) throw new StreamError(`${image}: a path with ? cannot be given to debugfs`, { code: 'EINVAL' })
    const device = `${path.resolve(image)}?offset=${offset}`
    const work = await mkdtemp(path.join(tmpdir(), 'hypertwin-examine-'))
    try {
      const [said = ''] = await debug(device, work, ['show_super_stats -h'], signal)
      const blockSize = Number(/^Block size:\s+(\d+)$/m.exec(said)?.[1])
      if (!(blockSize >= 1024 && blockSize <= 65536)) {
        await rm(work, { recursive: true, force: true })
        return undefined
      }
      const system = new ExtFileSystem(device, offset, index, said, blockSize, work, signal)
      await system.#walk(limit)
      return system
    } catch (error) {
      await rm(work, { recursive: true, force: true })
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#work, { recursive: true, force: true })
  }

  /**
   * Another one's tree takes the place of a folder: paths lead into that from then on, and nodes are its.
   *
   * @returns false when there is no such folder
   */
  async mount(folder: string, other: ExtFileSystem): Promise<boolean> {
    const found = await this.find(folder)
    if (!found?.nodes.at(-1)?.children || found.path === '/') return false
    const [, parent = '', name = ''] = /^(.*)\/([^/]+)$/.exec(found.path) ?? []
    ;(await this.find(parent))?.nodes.at(-1)?.children?.set(name, other.root)
    other.#room = this.#room
    return true
  }

  /** What a path leads to, and what is passed on the way (folders and links), the file itself as the last. */
  async find(name: string): Promise<{ path: string; nodes: Node[] } | undefined> {
    if (++this.#paths % PATHS_AT_ONCE === 0) {
      await setImmediate()
      check(this.#signal)
    }
    if (name.length > MAX_PATH) return undefined
    const nodes: Node[] = [this.root]
    const parts = name.split('/').filter(part => part !== '' && part !== '.')
    let at: { name: string; node: Node }[] = []
    for (let links = 0; ; ) {
      const part = parts.shift()
      if (part === undefined) return { path: `/${at.map(({ name }) => name).join('/')}`, nodes }
      if (part === '..') {
        at = at.slice(0, -1)
        continue
      }
      const node = (at.at(-1)?.node ?? this.root).children?.get(part)
      if (!node) return undefined
      nodes.push(node)
      if ((node.mode & TYPE) !== LINK) {
        at.push({ name: part, node })
        continue
      }
      if (++links > MAX_LINKS) return undefined
      const target = await node.system.#target(node)
      if (target === '') return undefined
      if (target.startsWith('/')) at = []
      parts.unshift(...target.split('/').filter(piece => piece !== '' && piece !== '.'))
    }
  }

  /** The names in a folder. */
  async list(folder: string): Promise<string[]> {
    const found = await this.find(folder)
    return [...(found?.nodes.at(-1)?.children?.keys() ?? [])].sort()
  }

  /**
   * Files' contents, as far as they are files and not larger than `limit`, by their ids; of mounted file systems too. What is
   * too much altogether is left out, the largest files first.
   */
  async contents(nodes: readonly Node[], limit: number): Promise<Map<number, Buffer>> {
    const files = new Map(nodes.filter(({ mode, size }) => (mode & TYPE) === FILE && size <= limit).map(node => [node.id, node]))
    const found = new Map<number, Buffer>()
    let left = MAX_CONTENTS
    for (const system of new Set([...files.values()].map(({ system }) => system))) {
      const own = [...files.values()].filter(one => one.system === system)
      for (const { id, inode } of own) {
        const kept = system.#kept.get(inode)
        if (kept) found.set(id, kept)
      }
      const todo = own.filter(({ id }) => !found.has(id)).sort((a, b) => a.size - b.size)
      for (let from = 0; from < todo.length && left > 0; ) {
        let to = from + 1
        for (let size = todo[from]?.size ?? 0; to < todo.length && to - from < MAX_FILES; to++) if ((size += todo[to]?.size ?? 0) > Math.min(MAX_DUMPED, left)) break
        const some = todo.slice(from, to).map(node => ({ node, name: `file${++runs}` }))
        await system.#dump(some)
        for (const { node, name } of some) {
          const file = path.join(system.#work, name)
          const bytes = await readFile(file).catch(() => undefined)
          await rm(file, { force: true })
          if (!bytes) continue
          left -= bytes.length
          system.#keep(node.inode, bytes)
          found.set(node.id, bytes)
        }
        from = to
      }
    }
    return found
  }

  /** Writes files' contents into its folder. What a folder says of a file's size need not be so: what has more ends it. */
  async #dump(files: readonly { node: Node; name: string }[]): Promise<void> {
    const over = new AbortController()
    const look = async (): Promise<void> => {
      for (const { node, name } of files) {
        const about = await stat(path.join(this.#work, name)).catch(() => undefined)
        if (about && about.size > node.size) over.abort(new StreamError(`inode ${node.inode} has more than the ${node.size} bytes that its folder says`, { code: 'BAD_IMAGE' }))
      }
    }
    const looking = setInterval(() => void look(), LOOK_MS)
    try {
      const commands = files.map(({ node, name }) => `dump <${node.inode}> ${name}`)
      await debug(this.#device, this.#work, commands, AbortSignal.any([over.signal, ...(this.#signal ? [this.#signal] : [])]))
    } finally {
      clearInterval(looking)
    }
    await look()
    check(over.signal)
  }

  #keep(inode: number, bytes: Buffer): void {
    if (this.#kept.has(inode) || bytes.length > MAX_SMALL || bytes.length > this.#room.left) return
    this.#room.left -= bytes.length
    this.#kept.set(inode, bytes)
  }

  /** Hands a file of this host's with a file's contents to `body`; of mounted file systems too. */
  async withFile<T>(node: Node, body: (file: string) => Promise<T>): Promise<T> {
    const name = `elf${++runs}`
    const file = path.join(node.system.#work, name)
    const kept = node.system.#kept.get(node.inode)
    if (kept) await writeFile(file, kept)
    else await node.system.#dump([{ node, name }])
    try {
      return await body(file)
    } finally {
      await rm(file, { force: true })
    }
  }

  /** The blocks of each of its own inodes, in order. */
  async blocks(inodes: readonly number[]): Promise<Map<number, number[]>> {
    const said = await this.#debug(inodes.map(inode => `blocks <${inode}>`))
    return new Map(inodes.map((inode, i) => [inode, numbers(said[i] ?? '')]))
  }

  /** The blocks of the inode table that Linux reads to have these: more of it than those in which they lie. */
  async inodeBlocks(inodes: readonly number[]): Promise<number[]> {
    const { tables, tableBlocks } = await this.#groups()
    const said = await this.#debug(inodes.map(inode => `imap <${inode}>`))
    const windows = new Set<number>()
    const blocks: number[] = []
    for (const text of said) {
      const [, group, at] = /of block group (\d+)[\s\S]*located at block (\d+)/.exec(text) ?? []
      const block = Number(at)
      const window = block - (block % INODE_READAHEAD)
      if (at === undefined || windows.has(window)) continue
      windows.add(window)
      const table = tables[Number(group)] ?? block
      const last = Math.min(window + INODE_READAHEAD, table + tableBlocks - 1)
      for (let one = Math.max(table, window); one <= last; one++) blocks.push(one)
    }
    return blocks
  }

  /** The blocks in which it is said what is free, of the groups in which these blocks lie: who writes reads them. */
  async bitmaps(blocks: Iterable<number>): Promise<number[]> {
    const { blockBitmaps, inodeBitmaps, perGroup } = await this.#groups()
    const groups = new Set<number>()
    for (const block of blocks) groups.add(Math.floor(block / perGroup))
    return [blockBitmaps, inodeBitmaps].flatMap(all => [...groups].flatMap(group => all[group] ?? []))
  }

  #read: Promise<Groups> | undefined

  #groups(): Promise<Groups> {
    return (this.#read ??= this.#debug(['show_super_stats']).then(([said = '']) => {
      const number = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)$`, 'm').exec(said)?.[1] ?? 0)
      const groups: Groups = { blockBitmaps: [], inodeBitmaps: [], tables: [], tableBlocks: number('Inode blocks per group'), perGroup: number('Blocks per group') || 32768 }
      for (const [, group, block, inode, table] of said.matchAll(/^ *Group +(\d+): block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)/gm)) {
        groups.blockBitmaps[Number(group)] = Number(block)
        groups.inodeBitmaps[Number(group)] = Number(inode)
        groups.tables[Number(group)] = Number(table)
      }
      return groups
    }))
  }

  async #walk(limit: number): Promise<void> {
    let level: Node[] = [this.root]
    const links = new Set<number>()
    const seen = new Set([ROOT])
    let names = 0
    while (level.length > 0) {
      if (seen.size > MAX_FOLDERS) this.cut = true
      if (this.cut) break
      const said = await this.#debug(level.map(({ inode }) => `ls -p <${inode}>`))
      const next: Node[] = []
      for (const [i, folder] of level.entries()) {
        if (this.cut) break
        for (const line of (said[i] ?? '').split('\n')) {
          const match = /^\/(\d+)\/(\d{6})\/\d+\/\d+\/([^/]+)\/(\d*)\/$/.exec(line)
          const [, inode, mode, name, size] = match ?? []
          if (inode === undefined || mode === undefined || name === undefined || name === '.' || name === '..') continue
          if (++names > limit) {
            this.cut = true
            break
          }
          const node: Node = { ...this.#identity(Number(inode)), mode: parseInt(mode, 8), size: Number(size) }
          // A copy: a part of what debugfs said would keep all of that.
          folder.children?.set(Buffer.from(name).toString(), node)
          if ((node.mode & TYPE) === LINK && links.size < MAX_KNOWN_LINKS) links.add(node.inode)
          if ((node.mode & TYPE) !== FOLDER || seen.has(node.inode)) continue
          seen.add(node.inode)
          node.children = new Map()
          next.push(node)
        }
      }
      level = next
    }
    // What debugfs says of them may be too much; then each is read when it is followed.
    await this.#readLinks([...links]).catch((error: unknown) => {
      if (!(error instanceof StreamError) || error.code !== 'TOOL_FAILED') throw error
    })
  }

  /** Those whose targets are short lie in their inodes. */
  async #readLinks(inodes: readonly number[]): Promise<void> {
    const said = await this.#debug(inodes.map(inode => `stat <${inode}>`))
    for (const [i, inode] of inodes.entries()) {
      const target = /^Fast link dest: "(.*)"$/m.exec(said[i] ?? '')?.[1]
      if (target !== undefined) this.#links.set(inode, target)
    }
  }

  /** Empty where it leads nowhere. */
  async #target(node: Node): Promise<string> {
    if (node.size > MAX_PATH) return ''
    if (!this.#links.has(node.inode)) await this.#readLinks([node.inode])
    const known = this.#links.get(node.inode)
    if (known !== undefined) return known
    const [said = ''] = await this.#debug([`cat <${node.inode}>`])
    const target = said.slice(0, node.size)
    this.#links.set(node.inode, target)
    return target
  }

  #debug(commands: readonly string[]): Promise<string[]> {
    return debug(this.#device, this.#work, commands, this.#signal)
  }
}

/** True for a file. @internal */
export const isFile = (node: Node): boolean => (node.mode & TYPE) === FILE
/** True for a file that may be run. @internal */
export const isProgram = (node: Node): boolean => isFile(node) && (node.mode & 0o111) !== 0

const numbers = (text: string): number[] => (text.match(/\d+/g) ?? []).map(Number)

/** For names of files: several may run at once. */
let runs = 0

/** What debugfs says to each command; nothing to one that fails, of which its status is the count. */
async function debug(device: string, work: string, commands: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
  if (commands.length === 0) return []
  // It runs in its folder: what its commands name has no spaces, whatever the folders above are called.
  const name = `commands${++runs}`
  const file = path.join(work, name)
  // Between two commands one that does nothing, and which no name or contents of a file's can pretend to be.
  const mark = `lcd ../${path.basename(work)}`
  await writeFile(file, commands.flatMap(command => [command, mark]).join('\n') + '\n')
  const said = await runTool(['debugfs', '-f', name, device], { cwd: work, limit: 1 << 28, anyStatus: true, ...(signal && { signal }) }).finally(() => rm(file, { force: true }))
  return said
    .split(`debugfs: ${mark}\n`)
    .slice(0, commands.length)
    .map((text, i) => text.replace(`debugfs: ${commands[i]}\n`, ''))
}
