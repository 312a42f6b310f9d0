// Looks into an image without running it: finds its file system, its init, the services that it starts, applications,
// and all that these need (shared libraries, interpreters, configuration, data), and puts the chunks where that lies into
// the order in which a start will want them. Partition tables, file systems and ELF files are read by sfdisk, debugfs and
// readelf; what only hints at something (unit files, scripts) is read here, and at worst misleads.
import { ExtFileSystem, isFile, isProgram, type Node } from './ext.js'
import { failed, invalid, StreamError } from './errors.js'
import type { Manifest } from './manifest.js'
import { Profile } from './profile.js'
import { runTool } from './tool.js'

/**
 * What to look for in an image.
 *
 * @since 0.1.0
 */
export interface ExamineOptions {
  /** Programs or files that matter besides what is started at boot, as paths in the image. */
  applications?: readonly string[]
  /** Ends the examination. */
  signal?: AbortSignal
}

/**
 * Why a file is wanted: to find files at all, by the boot loader, by init, by a service that is started, by an
 * application.
 *
 * @since 0.1.0
 */
export type WantedBy = 'file system' | 'boot' | 'init' | 'service' | 'application'

/**
 * What an examination has found.
 *
 * @since 0.1.0
 */
export interface Examination {
  /** What a start needs, in that order; its times are guesses. */
  profile: Profile
  /** The files of which it consists, in that order. */
  files: { path: string; why: WantedBy; bytes: number }[]
  /** Of the system in it, `'Debian GNU/Linux 12 (bookworm)'`; undefined when it does not say. */
  system: string | undefined
  /** What is run first, `'/usr/lib/systemd/systemd'`. */
  init: string | undefined
  /** The services that it starts, as systemd's units or as scripts. */
  services: string[]
  /** Applications that are not there, and partitions with file systems of which nothing is known here. */
  missed: string[]
}

/** A start is guessed to want so many bytes of an image a millisecond. */
const BYTES_PER_MS = 4 << 10
/** No more of what an application's package has than this, in bytes, and no single file larger than that. */
const MAX_PACKAGE = 64 << 20
const MAX_PACKAGE_FILE = 4 << 20
/** Text is looked into up to so much. */
const MAX_TEXT = 1 << 20
const MAX_UNITS = 1000
/** Of a file system: its descriptors, and the first of its bitmaps and tables. */
const HEAD = 640 << 10

/** Where systemd looks for units. */
const unitFolders = ['/etc/systemd/system', '/usr/lib/systemd/system', '/lib/systemd/system']
/** What systemd and its helpers read at each start. */
const systemdFiles = ['/etc/fstab', '/etc/os-release', '/etc/machine-id', '/etc/hostname', '/etc/localtime', '/etc/locale.conf', '/etc/default/locale']
const systemdFolders = [
  '/etc/systemd', '/usr/lib/systemd/system-generators', '/usr/lib/systemd/system-environment-generators', '/usr/lib/systemd/system-preset',
  '/usr/lib/udev/rules.d', '/etc/udev/rules.d', '/etc/udev', '/usr/lib/systemd/network', '/etc/systemd/network',
  '/usr/lib/modules-load.d', '/etc/modules-load.d', '/usr/lib/sysctl.d', '/etc/sysctl.d', '/usr/lib/tmpfiles.d', '/etc/tmpfiles.d',
  '/usr/lib/sysusers.d', '/usr/share/dbus-1', '/etc/dbus-1', '/usr/share/dbus-1/system.d', '/usr/share/dbus-1/system-services'
]
const systemdPrograms = ['systemd-journald', 'systemd-udevd', 'systemd-executor', 'systemd-modules-load', 'systemd-sysctl', 'systemd-random-seed', 'systemd-remount-fs', 'systemd-user-sessions', 'systemd-update-utmp', 'systemd-logind', 'systemd-network-generator', 'systemd-sysusers', 'systemd-fsck', 'systemd-user-runtime-dir'].map(name => `/usr/lib/systemd/${name}`)
/** What it and its units run by names of their own, and what udev's rules run. */
const basePrograms = ['/bin/sh', '/usr/bin/mount', '/usr/bin/kmod', '/usr/sbin/modprobe', '/usr/bin/udevadm', '/usr/sbin/fsck', '/usr/sbin/fsck.ext4', '/usr/sbin/agetty', '/usr/bin/login']
const helperFolders = ['/usr/lib/udev', '/usr/lib/systemd/system-generators', '/usr/lib/systemd/system-environment-generators']
/** Modules that systemd, its units and udev load on most virtual machines. */
const modules = ['autofs4', 'configfs', 'dm-mod', 'fuse', 'loop', 'efi-pstore', 'efivarfs', 'ip_tables', 'x_tables', 'virtio_net', 'virtio_balloon', 'virtio_rng', 'virtio_console', 'qemu_fw_cfg', 'button', 'evdev', 'serio_raw', 'pcspkr', 'kvm', 'kvm-intel', 'kvm-amd']
/** What every program's start reads. */
const runtimeFiles = ['/etc/ld.so.cache', '/etc/nsswitch.conf', '/etc/passwd', '/etc/group', '/etc/shadow', '/etc/hosts', '/etc/resolv.conf', '/etc/host.conf', '/etc/login.defs', '/etc/environment', '/usr/lib/locale/C.utf8/LC_CTYPE', '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache', '/usr/lib/locale/locale-archive']
const libraryFolders = ['/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu', '/lib/aarch64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/lib/systemd']
const bootFiles = /^(vmlinuz|initrd|initramfs|bzImage|Image)/
/** Of a package, what only people read. */
const forPeople = /^\/usr\/share\/(doc|man|info|locale|lintian|bash-completion|applications|icons|pixmaps|bug|menu|help)\//

/**
 * Examines a disk image.
 *
 * @param image - the image itself, raw, as it was packed
 * @param manifest - the pack's
 * @throws StreamError `BAD_IMAGE` when there is no ext file system in it, `TOOL_MISSING`, `TOOL_FAILED`, `EINVAL`
 * @since 0.1.0
 */
export async function examine(image: string, manifest: Manifest, options: ExamineOptions = {}): Promise<Examination> {
  const { applications = [], signal } = options
  for (const name of applications) if (typeof name !== 'string' || !name.startsWith('/')) throw invalid(`${String(name)} must be a path in the image, from / on`)
  try {
    const partitions = await partitionsOf(image, signal)
    const missed: string[] = []
    let best: Examiner | undefined
    for (const { offset, name } of partitions ?? [{ offset: 0, name: 'the image' }]) {
      const system = await ExtFileSystem.open(image, offset, signal)
      if (!system) missed.push(name)
      else if (best) await system[Symbol.asyncDispose]()
      else if (await system.find('/etc/passwd')) best = new Examiner(system, manifest, partitions !== undefined)
      else await system[Symbol.asyncDispose]()
    }
    if (!best)
      throw new StreamError(
        `${image} has no ext2, ext3 or ext4 file system with a system in it. Streams need none: a trace of a start tells as much`,
        { code: 'BAD_IMAGE' }
      )
    await using examiner = best
    return await examiner.run(applications, missed)
  } catch (error) {
    throw failed(`examining ${image}`, error)
  }
}

/** Where partitions begin; undefined when there is no partition table. */
async function partitionsOf(image: string, signal: AbortSignal | undefined): Promise<{ offset: number; name: string }[] | undefined> {
  let said: string
  try {
    said = await runTool(['sfdisk', '--json', '--', image], { ...(signal && { signal }) })
  } catch (error) {
    // It says that by failing.
    if (error instanceof StreamError && error.code === 'TOOL_FAILED') return undefined
    throw error
  }
  const { partitiontable } = JSON.parse(said) as { partitiontable?: { sectorsize?: number; partitions?: { node: string; start: number }[] } }
  const sector = partitiontable?.sectorsize ?? 512
  return (partitiontable?.partitions ?? []).map(({ node, start }) => ({ offset: start * sector, name: node }))
}

interface Wanted {
  path: string
  why: WantedBy
  node: Node
}

class Examiner implements AsyncDisposable {
  readonly #system: ExtFileSystem
  readonly #manifest: Manifest
  /** A boot loader in the image reads the kernel from it. */
  readonly #boots: boolean
  readonly #wanted: Wanted[] = []
  /** All that is looked at on the way, in that order. */
  readonly #passed = new Set<Node>()
  readonly #files = new Set<number>()
  readonly #services = new Set<string>()

  constructor(system: ExtFileSystem, manifest: Manifest, boots: boolean) {
    this.#system = system
    this.#manifest = manifest
    this.#boots = boots
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#system[Symbol.asyncDispose]()
  }

  async run(applications: readonly string[], missed: string[]): Promise<Examination> {
    if (this.#boots) await this.#boot()
    const init = await this.#init()
    for (const name of applications) {
      const found = await this.#system.find(name)
      const node = found?.nodes.at(-1)
      if (!found || !node) {
        missed.push(name)
        continue
      }
      if (node.children) await this.#folder(name, 'application')
      else await this.#program(name, 'application')
      await this.#package(found.path)
    }
    const release = (await this.#text('/etc/os-release')) ?? (await this.#text('/usr/lib/os-release')) ?? ''
    return {
      profile: await this.#profile(),
      files: this.#wanted.map(({ path, why, node }) => ({ path, why, bytes: node.size })),
      system: /^PRETTY_NAME="?([^"\n]*)/m.exec(release)?.[1],
      init,
      services: [...this.#services],
      missed
    }
  }

  /** The newest kernel and its initial RAM disk. */
  async #boot(): Promise<void> {
    const names = (await this.#system.list('/boot')).filter(name => bootFiles.test(name))
    const newest = (kind: RegExp): string | undefined => names.filter(name => kind.test(name)).sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))[0]
    await this.#folder('/boot/grub', 'boot')
    for (const name of [newest(/^(vmlinuz|bzImage|Image)/), newest(/^init/)]) if (name !== undefined) await this.#want(`/boot/${name}`, 'boot')
  }

  async #init(): Promise<string | undefined> {
    await this.#all(runtimeFiles, 'init')
    const init = await this.#program('/sbin/init', 'init')
    if (init === undefined) return undefined
    if (init.includes('systemd')) await this.#systemd()
    else await this.#scripts()
    return init
  }

  async #systemd(): Promise<void> {
    await this.#all(systemdFiles, 'init')
    for (const folder of systemdFolders) await this.#folder(folder, 'init')
    for (const folder of helperFolders)
      for (const name of await this.#system.list(folder)) await this.#program(`${folder}/${name}`, 'init')
    for (const name of [...systemdPrograms, ...basePrograms]) await this.#program(name, 'init')
    const [version] = (await this.#system.list('/lib/modules')).sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    if (version !== undefined) await this.#modules(`/lib/modules/${version}`)
    await this.#units()
  }

  /** The indexes of a kernel's modules, and those that are loaded by name, with what they depend on. */
  async #modules(folder: string): Promise<void> {
    for (const name of await this.#system.list(folder))
      if (/^modules\.(alias|dep|symbols|builtin|builtin\.alias)\.bin$|^modules\.softdep$/.test(name)) await this.#want(`${folder}/${name}`, 'init')
    const lines = ((await this.#text(`${folder}/modules.dep`)) ?? '').split('\n').map(line => line.split(/[:\s]+/).filter(word => word !== ''))
    const nameOf = (file: string): string => (file.split('/').at(-1) ?? '').replace(/\.ko.*$/, '').replaceAll('-', '_')
    for (const name of modules) {
      const files = lines.find(([file = '']) => nameOf(file) === name.replaceAll('-', '_')) ?? []
      for (const file of files) await this.#want(`${folder}/${file}`, 'init')
    }
  }

  /** The default target and what it pulls in, breadth first; then what these run. */
  async #units(): Promise<void> {
    const queue = ['default.target', 'sysinit.target', 'basic.target', 'dbus.service']
    const seen = new Set(queue)
    const programs: string[] = []
    for (let unit = queue.shift(); unit !== undefined && seen.size <= MAX_UNITS; unit = queue.shift()) {
      const pull = (name: string): void => {
        if (!/^[\w@:.\\-]+\.(service|target|socket|mount|path|timer|slice)$/.test(name) || seen.has(name)) return
        seen.add(name)
        queue.push(name)
      }
      const template = unit.replace(/@[^.]*\./, '@.')
      for (const name of new Set([unit, template]))
        for (const folder of unitFolders) {
          const text = await this.#text(`${folder}/${name}`)
          if (text !== undefined) {
            await this.#want(`${folder}/${name}`, 'service')
            // A link has another unit's name: default.target.
            const real = (await this.#system.find(`${folder}/${name}`))?.path.split('/').at(-1)
            if (real !== undefined && real !== name) pull(real)
          }
          for (const kind of ['wants', 'requires'])
            for (const other of await this.#system.list(`${folder}/${name}.${kind}`)) pull(other)
          const dropIns = await this.#system.list(`${folder}/${name}.d`)
          const texts = [text, ...(await Promise.all(dropIns.map(file => this.#text(`${folder}/${name}.d/${file}`))))]
          for (const one of texts) {
            for (const [, value = ''] of (one ?? '').matchAll(/^(?:Requires|Wants|BindsTo|Upholds|Sockets|Unit)=(.*)$/gm)) value.split(/\s+/).forEach(pull)
            for (const [, value = ''] of (one ?? '').matchAll(/^(?:ExecStart|ExecStartPre|ExecStartPost|ExecCondition|EnvironmentFile)=[-@:+!|]*(\S+)/gm))
              programs.push(value)
          }
          if (text !== undefined && name.endsWith('.service')) this.#services.add(unit)
        }
    }
    for (const name of programs) await this.#program(name.startsWith('/') ? name : `/usr/bin/${name}`, 'service')
    for (const name of programs) await this.#configuration(name)
  }

  /** BusyBox's and System V's way. */
  async #scripts(): Promise<void> {
    await this.#all(['/etc/inittab', '/etc/fstab', '/etc/default/rcS'], 'init')
    const inittab = (await this.#text('/etc/inittab')) ?? ''
    const named = [...inittab.matchAll(/(\/[\w./-]+)/g)].map(([, name = '']) => name)
    for (const folder of ['/etc/rcS.d', '/etc/rc2.d', '/etc/rc3.d', '/etc/init.d'])
      for (const name of await this.#system.list(folder)) if (folder === '/etc/init.d' ? /^rcS?$/.test(name) || /^S/.test(name) : /^S/.test(name)) named.push(`${folder}/${name}`)
    for (const name of new Set(named)) {
      if (name.includes('.d/')) this.#services.add(name.split('/').at(-1) as string)
      await this.#program(name, 'service')
    }
  }

  /** Of a program: itself, what it is linked to, and where it is a script its interpreter and what it names. */
  async #program(name: string, why: WantedBy): Promise<string | undefined> {
    const found = await this.#system.find(name)
    const program = found?.nodes.at(-1)
    if (!found || !program || !isFile(program)) return undefined
    const todo = [name]
    const seen = new Set<string>()
    for (let next = todo.shift(); next !== undefined; next = todo.shift()) {
      if (seen.has(next)) continue
      seen.add(next)
      const node = await this.#want(next, why)
      if (node) todo.push(...(await this.#needs(node)))
    }
    return found.path
  }

  readonly #needed = new Map<number, Promise<string[]>>()

  /** Paths of what a file needs to run. */
  #needs(node: Node): Promise<string[]> {
    let needs = this.#needed.get(node.inode)
    if (!needs) {
      needs = this.#look(node)
      this.#needed.set(node.inode, needs)
    }
    return needs
  }

  async #look(node: Node): Promise<string[]> {
    const text = (await this.#system.contents([node], MAX_TEXT)).get(node.inode)
    if (text && text.subarray(0, 2).toString('latin1') === '#!') return isProgram(node) ? this.#scriptNeeds(text.toString('utf8')) : []
    // Larger ones are no scripts.
    if (text && text.subarray(0, 4).toString('latin1') !== '\x7fELF') return []
    const said = await this.#system.withFiles([node], async files =>
      runTool(['readelf', '--dynamic', '--program-headers', '--wide', '--', files.get(node.inode) ?? ''], { anyStatus: true })
    )
    const names = [...said.matchAll(/\((?:NEEDED)\).*\[([^\]/]+)\]/g)].map(([, name = '']) => name)
    const [, own = ''] = /\((?:RUNPATH|RPATH)\).*\[([^\]]*)\]/.exec(said) ?? []
    const folders = [...own.split(':').filter(folder => folder.startsWith('/')), ...libraryFolders]
    const needs: string[] = []
    const loader = /Requesting program interpreter: (\/[^\]]+)\]/.exec(said)?.[1]
    if (loader !== undefined) needs.push(loader)
    for (const name of names) {
      for (const folder of folders) {
        if (!(await this.#system.find(`${folder}/${name}`))) continue
        needs.push(`${folder}/${name}`)
        break
      }
    }
    return needs
  }

  async #scriptNeeds(text: string): Promise<string[]> {
    const [first = ''] = text.split('\n', 1)
    const words = first.slice(2).trim().split(/\s+/)
    const program = words[0]?.endsWith('/env') ? `/usr/bin/${words.find((word, i) => i > 0 && !word.startsWith('-')) ?? ''}` : (words[0] ?? '')
    const needs = [...(words[0]?.endsWith('/env') ? [words[0]] : []), program]
    if (/python/.test(program)) return [...needs, ...(await this.#pythonNeeds(text, program))]
    // Programs and files that it names; most scripts name little that they do not use.
    for (const [, name = ''] of text.slice(0, 65536).matchAll(/(?:^|[\s"'=(`])(\/(?:bin|sbin|usr|etc|lib|opt|srv|var\/lib)\/[\w./@+-]+)/gm)) {
      const node = (await this.#system.find(name))?.nodes.at(-1)
      if (node && isFile(node) && !needs.includes(name)) needs.push(name)
    }
    return needs
  }

  /** What Python imports before and for a script, as far as its text says. */
  async #pythonNeeds(text: string, program: string): Promise<string[]> {
    const real = (await this.#system.find(program))?.path
    const version = /python(3\.\d+)/.exec(real ?? '')?.[1]
    if (version === undefined) return []
    const folders = [`/usr/lib/python${version}`, '/usr/lib/python3/dist-packages', `/usr/local/lib/python${version}/dist-packages`]
    const needs: string[] = []
    const seen = new Set<string>()
    const todo = ['encodings', 'encodings.aliases', 'encodings.utf_8', 'codecs', 'io', 'abc', 'site', 'os', 'stat', 'posixpath', 'genericpath', '_collections_abc', '_sitebuiltins', 'sitecustomize']
    const imports = (source: string, within = ''): void => {
      for (const [, from, list = ''] of source.matchAll(/^(?:from\s+([\w.]+)\s+)?import\s+([\w., ]+)/gm)) {
        const names = list.split(',').map(name => name.trim().split(/\s/)[0] ?? '')
        if (from === undefined) todo.push(...names)
        else if (from === '.') todo.push(...names.map(name => `${within}.${name}`))
        else todo.push(from.startsWith('.') ? `${within}${from}` : from)
      }
    }
    imports(text)
    for (let name = todo.shift(); name !== undefined && seen.size < 2000; name = todo.shift()) {
      if (name === '' || seen.has(name)) continue
      seen.add(name)
      for (const folder of folders) {
        const base = `${folder}/${name.replaceAll('.', '/')}`
        const [source, cached] = (await this.#system.find(`${base}/__init__.py`))
          ? [`${base}/__init__.py`, `${base}/__pycache__/__init__.cpython-${version.replace('.', '')}.pyc`]
          : [`${base}.py`, `${base.replace(/[^/]+$/, '')}__pycache__/${base.split('/').at(-1)}.cpython-${version.replace('.', '')}.pyc`]
        const there = await this.#system.find(source)
        if (!there) continue
        // Of the source its date is looked at, where there is a compiled one.
        if (await this.#system.find(cached)) {
          for (const node of there.nodes) this.#passed.add(node)
          needs.push(cached)
        } else needs.push(source)
        imports((await this.#text(source)) ?? '', source.endsWith('__init__.py') ? name : name.replace(/\.?[^.]*$/, ''))
        break
      }
      const compiled = (await this.#system.list(`/usr/lib/python${version}/lib-dynload`)).find(file => file.startsWith(`${name}.`))
      if (compiled !== undefined) needs.push(`/usr/lib/python${version}/lib-dynload/${compiled}`)
    }
    return needs
  }

  /** Configuration that has a program's name. */
  async #configuration(program: string): Promise<void> {
    const name = program.split('/').at(-1) ?? ''
    for (const base of new Set([name, name.replace(/d$/, ''), name.replace(/[-_.].*$/, '')]))
      if (base.length > 2 && base !== 'systemd') {
        await this.#folder(`/etc/${base}`, 'service')
        await this.#want(`/etc/${base}.conf`, 'service')
        await this.#want(`/etc/default/${base}`, 'service')
        await this.#want(`/etc/pam.d/${base}`, 'service')
      }
  }

  /** What else the Debian package of a program has, the small before the large. */
  async #package(program: string): Promise<void> {
    const folder = '/var/lib/dpkg/info'
    const lists = (await this.#system.list(folder)).filter(name => name.endsWith('.list'))
    const nodes = await Promise.all(lists.map(async name => (await this.#system.find(`${folder}/${name}`))?.nodes.at(-1)))
    const texts = await this.#system.contents(nodes.filter(node => node !== undefined), MAX_TEXT * 4)
    // Since /bin is a link to usr/bin, a package may call it either.
    const names = [program, program.replace(/^\/usr\//, '/')]
    for (const text of texts.values()) {
      const files = text.toString('utf8').split('\n')
      if (!names.some(name => files.includes(name))) continue
      const found: { name: string; node: Node }[] = []
      for (const name of files) {
        if (forPeople.test(name)) continue
        const node = (await this.#system.find(name))?.nodes.at(-1)
        if (node && isFile(node) && node.size <= MAX_PACKAGE_FILE) found.push({ name, node })
      }
      let size = 0
      for (const { name, node } of found.sort((a, b) => a.node.size - b.node.size)) {
        size += node.size
        if (size > MAX_PACKAGE) break
        if (isProgram(node) || name.includes('.so')) await this.#program(name, 'application')
        else await this.#want(name, 'application')
      }
    }
  }

  async #all(names: readonly string[], why: WantedBy): Promise<void> {
    for (const name of names) await this.#want(name, why)
  }

  /** A folder's files, and those of its folders. */
  async #folder(name: string, why: WantedBy): Promise<void> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node?.children) return
    for (const one of found.nodes) this.#passed.add(one)
    for (const [child, { children }] of node.children)
      if (children) await this.#folder(`${found.path}/${child}`, why)
      else await this.#want(`${found.path}/${child}`, why)
  }

  /** A file is wanted, and what is passed on the way to it. */
  async #want(name: string, why: WantedBy): Promise<Node | undefined> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node) return undefined
    for (const one of found.nodes) this.#passed.add(one)
    if (!isFile(node)) return undefined
    if (!this.#files.has(node.inode)) {
      this.#files.add(node.inode)
      this.#wanted.push({ path: found.path, why, node })
    }
    return node
  }

  async #text(name: string): Promise<string | undefined> {
    const node = (await this.#system.find(name))?.nodes.at(-1)
    return node && (await this.#system.contents([node], MAX_TEXT)).get(node.inode)?.toString('utf8')
  }

  /** The chunks of all that: the file system's head, then each file after what leads to it. */
  async #profile(): Promise<Profile> {
    const { chunkSize, chunks } = this.#manifest
    const { blockSize, offset } = this.#system
    const folders = [...this.#passed].filter(node => node.children)
    const inodes = [...this.#passed].map(({ inode }) => inode)
    const blocks = await this.#system.blocks([...folders.map(({ inode }) => inode), ...this.#wanted.map(({ node }) => node.inode)])
    const tables = await this.#system.inodeBlocks(inodes)
    const journal = (await this.#system.blocks([8])).get(8)?.slice(0, 1) ?? []
    const order: { chunk: number; atMs: number }[] = []
    let at = 0
    const add = (byte: number, size: number): void => {
      const chunk = Math.floor(byte / chunkSize)
      if (chunk >= chunks) return
      order.push({ chunk, atMs: at })
      at += size / BYTES_PER_MS
    }
    // The partition table, and the file system's head with the descriptors of its groups.
    add(0, 0)
    for (let byte = 0; byte < HEAD; byte += chunkSize) add(offset + byte, 0)
    for (const block of [...journal, ...new Set(tables)]) add(offset + block * blockSize, blockSize)
    for (const node of [...folders, ...this.#wanted.map(({ node }) => node)])
      for (const block of blocks.get(node.inode) ?? []) add(offset + block * blockSize, blockSize)
    return Profile.fromOrder(this.#manifest, order, 0)
  }
}
