// Looks into an image without running it: finds its file system, its init, the services that it starts, applications,
// and all that these need (shared libraries, interpreters, configuration, data), and puts the chunks where that lies into
// the order in which a start will want them. Partition tables, file systems and ELF files are read by sfdisk, debugfs and
// readelf; what only hints at something (unit files, scripts) is read here, and at worst misleads.
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { ExtFileSystem, isFile, isProgram, type Node } from './ext.js'
import { failed, invalid, StreamError } from './errors.js'
import { Manifest } from './manifest.js'
import { mountsIn } from './fstab.js'
import { addWords, commandsIn, conditionsIn, linksIn, nodeRequires, objectsIn, pathsIn, perlUses, pythonImports, type Condition } from './hints.js'
import { hardwareReads } from './hwdb.js'
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
  /**
   * Applications that are not there, and file systems that were not looked into: those of which nothing is known here, and those
   * that the system's /etc/fstab does not mount, or mounts from elsewhere. The rest of what was too large, in words: of an
   * application's folder (64 MiB are looked at, smaller files first), of a file system (1,000,000 names).
   */
  missed: string[]
}

/**
 * A start is guessed to want so many bytes of an image a millisecond: as one does under emulation. Under KVM it is faster, and
 * waits more where the link is slow; to let it begin later would cost more than that.
 */
const BYTES_PER_MS = 2 << 10
/** No more of what an application's folder has than this, in bytes. */
const MAX_PACKAGE = 64 << 20
/** Text is looked into up to so much, and programs. */
const MAX_TEXT = 1 << 20
const MAX_PROGRAM = 128 << 20
/** What a program is linked to is looked at up to so much. */
const MAX_LINKED = 512 << 20
const MAX_SECTIONS = 1000
/** A file that something names is wanted up to so much; a program is at any size. */
const MAX_NAMED = 256 << 10
/** Of a folder that something names, so much altogether. */
const MAX_FOLDER = 2 << 20
const MAX_FONTS = 8 << 20
/** Of a larger library a start reads what the loader needs, and hardly any of its code. */
const MAX_LIBRARY = 8 << 20
/** Of the JVM's modules: their index. */
const MODULES_INDEX = 4 << 20
const MAX_MODULES = 2000
const MAX_UNITS = 1000
/** Of a file system: its descriptors, and the first of its bitmaps and tables. */
const HEAD = 640 << 10
/** Its journal's inode. */
const JOURNAL = 8

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
const basePrograms = ['/bin/sh', '/usr/bin/mount', '/usr/bin/kmod', '/usr/sbin/modprobe', '/usr/bin/udevadm', '/usr/sbin/fsck', '/usr/sbin/fsck.ext4', '/usr/sbin/agetty', '/usr/bin/login', '/usr/bin/ip', '/usr/bin/run-parts']
/** Its database of hardware: the first of these. */
const hardwareFiles = ['/etc/systemd/hwdb', '/etc/udev', '/usr/lib/systemd/hwdb', '/lib/systemd/hwdb', '/usr/lib/udev', '/lib/udev'].map(folder => `${folder}/hwdb.bin`)
const helperFolders = ['/usr/lib/udev', '/usr/lib/systemd/system-generators', '/usr/lib/systemd/system-environment-generators']
/** Modules that systemd, its units and udev load on most virtual machines. */
const modules = ['autofs4', 'configfs', 'dm-mod', 'fuse', 'loop', 'efi-pstore', 'efivarfs', 'ip_tables', 'x_tables', 'ata_piix', 'ata_generic', 'acpi-cpufreq', 'pcc-cpufreq', 'ptp_kvm', 'virtio_net', 'virtio_balloon', 'virtio_rng', 'virtio_console', 'qemu_fw_cfg', 'button', 'evdev', 'serio_raw', 'pcspkr', 'kvm', 'kvm-intel', 'kvm-amd']
/** What every program's start reads. */
const runtimeFiles = ['/etc/ld.so.cache', '/etc/nsswitch.conf', '/etc/passwd', '/etc/group', '/etc/shadow', '/etc/hosts', '/etc/resolv.conf', '/etc/host.conf', '/etc/login.defs', '/etc/environment', '/usr/lib/locale/C.utf8/LC_CTYPE', '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache', '/usr/lib/locale/locale-archive']
const libraryFolders = ['/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu', '/lib/aarch64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/lib/systemd']
const bootFiles = /^(vmlinuz|initrd|initramfs|bzImage|Image)/
/** What only people read. */
const forPeople = /^\/usr\/share\/(doc|man|info|locale|lintian|bash-completion|applications|icons|pixmaps|bug|menu|help)\//
/** Configuration of what happens some time after a start. */
const forLater = /^\/etc\/(?:cron|logrotate)/
/** Where commands are looked for. */
const commandFolders = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']
const perlFolders = ['/etc/perl', '/usr/local/share/perl', '/usr/lib/x86_64-linux-gnu/perl5', '/usr/share/perl5', '/usr/lib/x86_64-linux-gnu/perl-base', '/usr/lib/x86_64-linux-gnu/perl', '/usr/share/perl']
const nodeFolders = ['/usr/share/nodejs', '/usr/lib/x86_64-linux-gnu/nodejs', '/usr/lib/nodejs', '/usr/local/lib/node_modules', '/usr/lib/node_modules']
/** Where a start mounts something. */
const mounted = /^\/(?:run|proc|sys|dev|tmp)(?:\/|$)/
/** Of a unit, what does not happen at a start. */
const notAtStart = /^(?:ExecStop|ExecStopPost|ExecReload|Documentation|Description)=.*$/gm
/** Sections of a library that the loader does not look at. */
const notLoaded = /^\.(?:text|rodata|eh_frame|gcc_except_table|debug|symtab|strtab|shstrtab|comment|gnu_debug)/

/**
 * Examines a disk image.
 *
 * @param image - the image itself, raw, as it was packed
 * @param manifest - the pack's
 * @throws StreamError `BAD_IMAGE` when there is no ext file system with a system in it, `ENOENT`, `EACCES`, `EISDIR`, `TOOL_MISSING`, `TOOL_FAILED`, `EINVAL`
 * @since 0.1.0
 */
export async function examine(image: string, manifest: Manifest, options: ExamineOptions = {}): Promise<Examination> {
  if (typeof image !== 'string' || image === '') throw invalid('image must be the path of a disk image')
  if (!(manifest instanceof Manifest)) throw invalid("manifest must be the pack's Manifest")
  const { applications = [], signal } = options
  for (const name of applications) if (typeof name !== 'string' || !name.startsWith('/')) throw invalid(`${String(name)} must be a path in the image, from / on`)
  try {
    await checkImage(image)
    const partitions = await partitionsOf(image, signal)
    const missed: string[] = []
    await using systems = new Systems()
    const look = async (partition: Partition): Promise<boolean> => {
      const system = await ExtFileSystem.open(image, partition.offset, { index: systems.all.length, signal })
      if (system) systems.all.push({ system, partition })
      if (system?.cut) missed.push(`the rest of ${partition.name}, which has too many files`)
      return system !== undefined
    }
    for (const partition of partitions ?? []) if (!(await look(partition))) missed.push(partition.name)
    // A boot loader in the first sector of a file system without partitions looks like a table of them.
    if (systems.all.length === 0) await look({ offset: 0, name: 'the image', uuid: '', label: '' })
    const root = await systems.root()
    if (!root)
      throw new StreamError(
        `${image} has ${systems.all.length > 0 ? 'no system in its ext file systems, for /etc/passwd is missing' : 'no ext2, ext3 or ext4 file system'}. ` +
          'Streams need none: a trace of a start tells as much',
        { code: 'BAD_IMAGE' }
      )
    missed.push(...(await systems.mount(root)))
    return await new Examiner(root, manifest, partitions !== undefined, systems.elsewhere, signal).run(applications, missed)
  } catch (error) {
    throw failed(`examining ${image}`, error)
  }
}

/** What the tools say of a file that cannot be read is not always that, and a FIFO would hang them. */
async function checkImage(image: string): Promise<void> {
  await using file = await open(image, constants.O_RDONLY | constants.O_NONBLOCK)
  const about = await file.stat()
  if (about.isDirectory()) throw new StreamError(`${image} is a folder: give the image itself`, { code: 'EISDIR' })
  if (!about.isFile() && !about.isBlockDevice()) throw invalid(`${image} is neither a file nor a block device: give the image itself`)
}

interface Partition {
  /** Where it begins, in bytes. */
  offset: number
  /** As sfdisk calls it: the image's path and its number. */
  name: string
  number?: number
  /** Of the partition, not of what is in it, in lower case; empty without one. */
  uuid: string
  label: string
}

/** The partitions; undefined when there is no partition table. */
async function partitionsOf(image: string, signal: AbortSignal | undefined): Promise<Partition[] | undefined> {
  let said: string
  try {
    said = await runTool(['sfdisk', '--json', '--', image], { ...(signal && { signal }) })
  } catch (error) {
    // It says that by failing.
    if (error instanceof StreamError && error.code === 'TOOL_FAILED') return undefined
    throw error
  }
  interface Told {
    id?: string
    sectorsize?: number
    partitions?: { node: string; start: number; uuid?: string; name?: string }[]
  }
  const { id = '', sectorsize = 512, partitions = [] } = (JSON.parse(said) as { partitiontable?: Told }).partitiontable ?? {}
  return partitions.map(({ node, start, uuid, name = '' }) => {
    const number = Number(/\d+$/.exec(node.slice(image.length))?.[0])
    // Of a DOS table the kernel makes one of the disk's.
    const own = uuid ?? `${id.replace(/^0x/, '')}-${number.toString(16).padStart(2, '0')}`
    return { offset: start * sectorsize, name: node, number, uuid: own.toLowerCase(), label: name }
  })
}

/** The file systems of an image that can be looked into. */
class Systems implements AsyncDisposable {
  readonly all: { system: ExtFileSystem; partition: Partition }[] = []
  /** Folders in which something is mounted that is not looked into. */
  readonly elsewhere: string[] = []

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { system } of this.all) await system[Symbol.asyncDispose]()
  }

  /** The first one in which there is a system. */
  async root(): Promise<ExtFileSystem | undefined> {
    for (const { system } of this.all) if (await system.find('/etc/passwd')) return system
    return undefined
  }

  /** Mounts the others as the system's own /etc/fstab says. @returns what is not looked into, in words */
  async mount(root: ExtFileSystem): Promise<string[]> {
    const node = (await root.find('/etc/fstab'))?.nodes.at(-1)
    const text = node && (await root.contents([node], MAX_TEXT)).get(node.id)?.toString('utf8')
    const left = new Set(this.all.filter(({ system }) => system !== root))
    const missed: string[] = []
    for (const { folder, what, is } of mountsIn(text ?? '')) {
      const one = [...left].find(({ system, partition }) => is({ uuid: system.uuid, label: system.label, partition }))
      if (one && (await root.mount(folder, one.system))) left.delete(one)
      else {
        missed.push(`${folder} (${what})`)
        this.elsewhere.push(folder)
      }
    }
    return [...missed, ...[...left].map(({ partition }) => partition.name)]
  }
}

interface Wanted {
  path: string
  why: WantedBy
  node: Node
}

class Examiner {
  readonly #system: ExtFileSystem
  readonly #manifest: Manifest
  /** A boot loader in the image reads the kernel from it. */
  readonly #boots: boolean
  readonly #elsewhere: readonly string[]
  readonly #signal: AbortSignal | undefined
  readonly #wanted: Wanted[] = []
  /** All that is looked at on the way, in that order. */
  readonly #passed = new Set<Node>()
  readonly #files = new Set<number>()
  readonly #services = new Set<string>()

  constructor(system: ExtFileSystem, manifest: Manifest, boots: boolean, elsewhere: readonly string[], signal: AbortSignal | undefined) {
    this.#system = system
    this.#manifest = manifest
    this.#boots = boots
    this.#elsewhere = elsewhere
    this.#signal = signal
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
      if (node.children) {
        if (!(await this.#application(found.path, 'application'))) missed.push(found.path === '/' ? name : `the larger files of ${name}, which has more than ${MAX_PACKAGE >> 20} MiB`)
      } else {
        await this.#program(name, 'application')
        await this.#package(found.path)
        await this.#named(found.path, 'application')
        await this.#configuration(name, 'application')
      }
    }
    if (this.#wanted.some(({ path }) => path.includes('/libfontconfig.so'))) await this.#fonts()
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

  /** Who shows or prints text looks at the fonts: LibreOffice at each of them, others at what is kept of that. */
  async #fonts(): Promise<void> {
    for (const folder of ['/etc/fonts', '/var/cache/fontconfig', '/usr/share/fonts']) {
      const node = (await this.#system.find(folder))?.nodes.at(-1)
      if (node && sizeOf(node) <= MAX_FONTS) await this.#folder(folder, 'application')
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
      for (const name of await this.#system.list(folder)) {
        const node = (await this.#system.find(`${folder}/${name}`))?.nodes.at(-1)
        if (node && isProgram(node)) await this.#program(`${folder}/${name}`, 'init')
      }
    for (const name of [...systemdPrograms, ...basePrograms]) await this.#program(name, 'init')
    const [version] = (await this.#system.list('/lib/modules')).sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    if (version !== undefined) await this.#modules(`/lib/modules/${version}`)
    await this.#hardware()
    await this.#units()
  }

  /** What udev reads of its database of hardware, in which it searches. */
  async #hardware(): Promise<void> {
    for (const name of hardwareFiles) {
      const node = (await this.#system.find(name))?.nodes.at(-1)
      const bytes = node && (await this.#system.contents([node], MAX_PROGRAM)).get(node.id)
      if (!bytes) continue
      const reads = hardwareReads(bytes)
      if (reads.length === 0) return
      this.#partial.set(node.id, reads)
      await this.#want(name, 'init')
      return
    }
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
    const named: string[] = []
    const folders: string[] = []
    for (let unit = queue.shift(); unit !== undefined && seen.size <= MAX_UNITS; unit = queue.shift()) {
      const pull = (name: string): void => {
        if (!/^[\w@:.\\-]+\.(service|target|socket|mount|path|timer|slice)$/.test(name) || seen.has(name)) return
        seen.add(name)
        queue.push(name)
      }
      const template = unit.replace(/@[^.]*\./, '@.')
      // Its instances may come from a generator.
      if (unit.endsWith('.service') && !unit.includes('@')) pull(unit.replace('.service', '@.service'))
      let own: string | undefined
      let masked = false
      /** Of several files of a name the first counts. */
      const dropIns = new Map<string, string>()
      for (const name of new Set([unit, template]))
        for (const folder of unitFolders) {
          const text = await this.#text(`${folder}/${name}`)
          if (text !== undefined) {
            own ??= text
            await this.#want(`${folder}/${name}`, 'service')
            // A link has another unit's name: default.target.
            const real = (await this.#system.find(`${folder}/${name}`))?.path.split('/').at(-1)
            if (real !== undefined && real !== name) pull(real)
          } else masked ||= own === undefined && (await this.#system.list(folder)).includes(name)
          for (const kind of ['wants', 'requires'])
            for (const other of await this.#system.list(`${folder}/${name}.${kind}`)) pull(other)
          for (const file of await this.#system.list(`${folder}/${name}.d`))
            if (file.endsWith('.conf') && !dropIns.has(file)) dropIns.set(file, (await this.#text(`${folder}/${name}.d/${file}`)) ?? '')
        }
      // A link to /dev/null.
      if (masked) continue
      const texts = [own ?? '', ...[...dropIns].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, text]) => text)]
      // A timer's unit is not started with it.
      for (const text of texts) for (const [, value = ''] of text.matchAll(/^(?:Requires|Wants|BindsTo|Upholds|Sockets)=(.*)$/gm)) value.split(/\s+/).forEach(pull)
      if (!(await this.#mayHold(conditionsIn(texts.join('\n'))))) continue
      for (const text of texts) {
        for (const [, value = ''] of text.matchAll(/^(?:ExecStart|ExecStartPre|ExecStartPost|ExecCondition|EnvironmentFile)=[-@:+!|]*(\S+)/gm)) programs.push(value)
        for (const [, value = ''] of text.matchAll(/^WorkingDirectory=-?(\/\S+)/gm)) folders.push(value)
        if (unit.endsWith('.service')) named.push(...pathsIn(text.replace(notAtStart, '')))
      }
      if (own !== undefined && unit.endsWith('.service')) this.#services.add(unit)
    }
    const paths = programs.map(name => (name.startsWith('/') ? name : `/usr/bin/${name}`))
    for (const name of paths) await this.#program(name, 'service')
    for (const name of paths) await this.#named(name, 'service')
    for (const name of paths) await this.#configuration(name, 'service')
    for (const name of named) await this.#follow(name, 'service', 1)
    for (const name of folders) await this.#application(name, 'service')
  }

  /** False where the image shows that a unit's conditions do not hold. */
  async #mayHold(conditions: readonly Condition[]): Promise<boolean> {
    let triggers: 'none' | 'no' | 'maybe' = 'none'
    for (const one of conditions) {
      const may = (await this.#holds(one)) !== false
      if (one.trigger) triggers = may ? 'maybe' : triggers === 'none' ? 'no' : triggers
      else if (!may) return false
    }
    return triggers !== 'no'
  }

  /** @returns undefined where the image does not tell */
  async #holds({ kind, not, value }: Condition): Promise<boolean | undefined> {
    if (kind === 'FirstBoot') return (await this.#isFirstBoot()) === (/^(?:1|y|yes|t|true|on)$/i.test(value) !== not)
    // Specifiers, and lines that go on.
    if (!value.startsWith('/') || /%|\\$/.test(value)) return undefined
    const is = await this.#isThere(kind, value)
    return is === undefined ? undefined : is !== not
  }

  async #isThere(kind: string, name: string): Promise<boolean | undefined> {
    // What is mounted hides what the image has there; nobody puts configuration there before the first services.
    if (mounted.test(name)) return kind === 'DirectoryNotEmpty' && /^\/run\/(?:[\w-]+\.d|extensions)$/.test(name) ? false : undefined
    if (this.#elsewhere.some(folder => `${name}/`.startsWith(`${folder}/`))) return undefined
    const node = (await this.#system.find(name))?.nodes.at(-1)
    if (!node && (await this.#dangles(name))) return undefined
    const is = ((): boolean | undefined => {
      switch (kind) {
        case 'PathExists':
          return node !== undefined
        case 'PathIsDirectory':
          return node?.children !== undefined
        case 'DirectoryNotEmpty':
          return [...(node?.children?.keys() ?? [])].some(child => !/^\.|~$/.test(child))
        case 'FileNotEmpty':
          return node !== undefined && isFile(node) && node.size > 0
        case 'FileIsExecutable':
          return node !== undefined && isProgram(node)
        default:
          return undefined
      }
    })()
    // Services make what they need there.
    return is === false && name.startsWith('/var/') && kind !== 'DirectoryNotEmpty' ? undefined : is
  }

  /** A link on the way leads to where nothing is: a start may put something there. */
  async #dangles(name: string): Promise<boolean> {
    const parts = name.split('/').filter(part => part !== '')
    for (let count = 1; count <= parts.length; count++) {
      const at = `/${parts.slice(0, count).join('/')}`
      if (!(await this.#system.find(at))) return (await this.#system.list(at.replace(/\/[^/]*$/, '') || '/')).includes(parts[count - 1] as string)
    }
    return false
  }

  #firstBoot: boolean | undefined

  async #isFirstBoot(): Promise<boolean> {
    if (this.#firstBoot === undefined) {
      const text = await this.#text('/etc/machine-id')
      // An empty one is filled at each start.
      this.#firstBoot = text === undefined || text.split('\n', 1)[0] === 'uninitialized'
    }
    return this.#firstBoot
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
    for (const next of todo) {
      if (seen.has(next)) continue
      seen.add(next)
      const node = await this.#want(next, why)
      if (node) todo.push(...(await this.#needs(node, next)))
    }
    return found.path
  }

  /** Of large files, where in them; by id. Holes and the blocks that lead to others shift that a little. */
  readonly #partial = new Map<number, readonly (readonly [from: number, to: number])[]>()
  readonly #needed = new Map<number, Promise<string[]>>()

  /** Paths of what a file needs to run. */
  #needs(node: Node, name: string): Promise<string[]> {
    let needs = this.#needed.get(node.id)
    if (!needs) {
      needs = this.#look(node, name)
      this.#needed.set(node.id, needs)
    }
    return needs
  }

  async #look(node: Node, name: string): Promise<string[]> {
    const text = (await this.#system.contents([node], MAX_TEXT)).get(node.id)
    if (text && text.subarray(0, 4).toString('latin1') !== '\x7fELF') {
      const script = text.subarray(0, 2).toString('latin1') === '#!' && isProgram(node)
      return this.#textNeeds(text.toString('utf8'), name, script)
    }
    // Larger ones are no scripts.
    if (node.size > MAX_LINKED) return []
    const said = await this.#system.withFile(node, file =>
      runTool(['readelf', '--dynamic', '--program-headers', '--section-headers', '--wide', '--', file], { anyStatus: true, ...(this.#signal && { signal: this.#signal }) })
    )
    if (node.size > MAX_LIBRARY && said.includes('Section Headers:') && libraryFolders.some(folder => name.replace(/\/[^/]*$/, '') === folder)) this.#partial.set(node.id, loadedParts(said))
    const { loader, libraries, places } = linksIn(said)
    const origin = name.replace(/\/[^/]*$/, '')
    const folders = [...places.map(folder => folder.replace(/^\$\{?ORIGIN\}?/, origin)).filter(folder => folder.startsWith('/')), ...libraryFolders]
    const needs: string[] = []
    if (loader !== undefined) needs.push(loader)
    for (const name of libraries) {
      for (const folder of folders) {
        if (!(await this.#system.find(`${folder}/${name}`))) continue
        needs.push(`${folder}/${name}`)
        break
      }
    }
    if (/\/bin\/java$/.test(name)) needs.push(...(await this.#javaNeeds(name)))
    return needs
  }

  /** @param script - it is run by what its first line says */
  async #textNeeds(text: string, name: string, script: boolean): Promise<string[]> {
    const [first = ''] = text.split('\n', 1)
    const words = script ? first.slice(2).trim().split(/\s+/) : []
    const byName = words[0]?.endsWith('/env') ?? false
    const program = byName ? `/usr/bin/${words.find((word, i) => i > 0 && !word.startsWith('-') && !word.includes('=')) ?? ''}` : (words[0] ?? '')
    const needs = script ? [...(byName ? [words[0] as string] : []), program] : []
    if (/python/.test(program) || /\.py$/.test(name)) return [...needs, ...(await this.#pythonNeeds(text, name, /python/.test(program) ? program : '/usr/bin/python3'))]
    if (/perl/.test(program) || /\.p[lm]$/.test(name)) return [...needs, ...(await this.#perlNeeds(text))]
    if (/node$/.test(program) || /\.[cm]?js$/.test(name)) return [...needs, ...(await this.#nodeNeeds(text, name))]
    if (!script) return needs
    // Programs and files that it names; most scripts name little that they do not use.
    for (const path of pathsIn(text)) {
      const node = (await this.#system.find(path))?.nodes.at(-1)
      if (node && isFile(node) && (isProgram(node) || node.size <= MAX_NAMED)) needs.push(path)
    }
    for (const command of commandsIn(text)) {
      const path = await this.#command(command)
      if (path !== undefined) needs.push(path)
    }
    return needs
  }

  /** Where a command is. */
  async #command(name: string): Promise<string | undefined> {
    for (const folder of commandFolders) {
      const node = (await this.#system.find(`${folder}/${name}`))?.nodes.at(-1)
      if (node && isProgram(node)) return `${folder}/${name}`
    }
    return undefined
  }

  /** What Python imports before and for a script, as far as its text says. */
  async #pythonNeeds(text: string, script: string, program: string): Promise<string[]> {
    const real = (await this.#system.find(program))?.path
    const version = /python(3\.\d+)/.exec(real ?? '')?.[1]
    if (version === undefined) return []
    const tag = `cpython-${version.replace('.', '')}`
    const folders = [script.replace(/\/[^/]*$/, ''), `/usr/lib/python${version}`, `/usr/lib/python${version}/lib-dynload`, '/usr/lib/python3/dist-packages', `/usr/local/lib/python${version}/dist-packages`]
    const needs: string[] = []
    const seen = new Set<string>()
    const todo = ['encodings', 'encodings.aliases', 'encodings.utf_8', 'codecs', 'io', 'abc', 'site', 'os', 'stat', 'posixpath', 'genericpath', '_collections_abc', '_sitebuiltins', 'sitecustomize']
    todo.push(...pythonImports(text))
    if (/console_scripts|entry_point/.test(text)) todo.push(...(await this.#entryPoint(script.split('/').at(-1) ?? '')))
    for (const name of todo) {
      if (seen.size >= MAX_MODULES) break
      if (name === '' || seen.has(name)) continue
      seen.add(name)
      // Where setuptools and its like keep what they bring along.
      if (name.includes('.extern.')) todo.push(name.replace('.extern.', '._vendor.'))
      for (const folder of folders) {
        const base = `${folder}/${name.replaceAll('.', '/')}`
        const parent = base.replace(/\/[^/]+$/, '')
        const isPackage = (await this.#system.find(`${base}/__init__.py`)) !== undefined
        const [source, cached] = isPackage
          ? [`${base}/__init__.py`, `${base}/__pycache__/__init__.${tag}.pyc`]
          : [`${base}.py`, `${parent}/__pycache__/${base.split('/').at(-1)}.${tag}.pyc`]
        const there = await this.#system.find(source)
        if (there) {
          // Of the source its date is looked at, where there is a compiled one.
          if (await this.#system.find(cached)) {
            for (const node of there.nodes) this.#passed.add(node)
            needs.push(cached)
          } else needs.push(source)
          todo.push(...pythonImports((await this.#text(source)) ?? '', isPackage ? `${name}.__init__` : name))
          break
        }
        const last = base.split('/').at(-1) ?? ''
        const compiled = (await this.#system.list(parent)).find(file => file.startsWith(`${last}.`) && file.endsWith('.so'))
        if (compiled === undefined) continue
        needs.push(`${parent}/${compiled}`)
        break
      }
    }
    return needs
  }

  /** The module that a script of an installed Python package runs. */
  async #entryPoint(script: string): Promise<string[]> {
    const folder = '/usr/lib/python3/dist-packages'
    const modules = ['importlib.metadata', 'pkg_resources']
    for (const name of await this.#system.list(folder)) {
      if (!/\.(?:dist|egg)-info$/.test(name)) continue
      const text = (await this.#text(`${folder}/${name}/entry_points.txt`)) ?? ''
      for (const [, own, module = ''] of text.matchAll(/^[ \t]*([\w.-]+)[ \t]*=[ \t]*([\w.]+)/gm)) if (own === script) modules.push(module)
    }
    return modules
  }

  async #perlNeeds(text: string): Promise<string[]> {
    const folders: string[] = []
    for (const folder of perlFolders) {
      folders.push(folder)
      // The version's.
      for (const name of await this.#system.list(folder)) if (/^5\.\d+$/.test(name)) folders.push(`${folder}/${name}`)
    }
    const needs: string[] = []
    const seen = new Set<string>()
    const todo = perlUses(text)
    for (const name of todo) {
      if (seen.size >= MAX_MODULES) break
      if (seen.has(name)) continue
      seen.add(name)
      const base = name.replaceAll('::', '/')
      for (const folder of folders) {
        const source = await this.#text(`${folder}/${base}.pm`)
        if (source === undefined) continue
        needs.push(`${folder}/${base}.pm`)
        todo.push(...perlUses(source))
        for (const place of folders) {
          const compiled = `${place}/auto/${base}/${base.split('/').at(-1)}.so`
          if (await this.#system.find(compiled)) needs.push(compiled)
        }
        break
      }
    }
    return needs
  }

  async #nodeNeeds(text: string, script: string): Promise<string[]> {
    const needs: string[] = []
    const seen = new Set<string>()
    const todo = nodeRequires(text).map(name => ({ name, from: script.replace(/\/[^/]*$/, '') }))
    for (const { name, from } of todo) {
      if (seen.size >= MAX_MODULES) break
      const up = from.split('/').map((_, i, parts) => `${parts.slice(0, parts.length - i).join('/')}/node_modules`)
      const bases = name.startsWith('.') ? [`${from}/${name}`] : name.startsWith('/') ? [name] : [...up, ...nodeFolders].map(folder => `${folder}/${name}`)
      for (const base of bases) {
        const file = await this.#nodeFile(base, needs)
        if (file === undefined) continue
        if (seen.has(file)) break
        seen.add(file)
        needs.push(file)
        if (/\.[cm]?js$/.test(file)) todo.push(...nodeRequires((await this.#text(file)) ?? '').map(name => ({ name, from: file.replace(/\/[^/]*$/, '') })))
        break
      }
    }
    return needs
  }

  /** The file that a module's name stands for, by its real path; what says so is needed too. */
  async #nodeFile(base: string, needs: string[]): Promise<string | undefined> {
    const file = async (name: string): Promise<string | undefined> => {
      const found = await this.#system.find(name)
      const node = found?.nodes.at(-1)
      return found && node && isFile(node) ? found.path : undefined
    }
    for (const end of ['', '.js', '.json', '.cjs', '.mjs']) {
      const found = await file(base + end)
      if (found !== undefined) return found
    }
    const about = await this.#text(`${base}/package.json`)
    if (about !== undefined) {
      needs.push(`${base}/package.json`)
      const main = /"main"\s*:\s*"([^"]+)"/.exec(about)?.[1]
      if (main !== undefined)
        for (const end of ['', '.js', '/index.js']) {
          const found = await file(`${base}/${main}${end}`)
          if (found !== undefined) return found
        }
    }
    return file(`${base}/index.js`)
  }

  /** What a JVM reads of itself. */
  async #javaNeeds(program: string): Promise<string[]> {
    const real = (await this.#system.find(program))?.path ?? program
    const home = real.replace(/\/bin\/java$/, '')
    const modules = (await this.#system.find(`${home}/lib/modules`))?.nodes.at(-1)
    if (modules) this.#partial.set(modules.id, [[0, MODULES_INDEX]])
    const libraries = ['jli', 'java', 'jimage', 'zip', 'nio', 'net', 'verify'].map(name => `lib/lib${name}.so`)
    return ['lib/jvm.cfg', 'lib/server/libjvm.so', ...libraries, 'lib/modules', 'lib/server/classes.jsa', 'conf/security/java.security', 'conf/net.properties', 'lib/tzdb.dat'].map(name => `${home}/${name}`)
  }

  /** Configuration that has a program's name, and what it names. */
  async #configuration(program: string, why: WantedBy): Promise<void> {
    const name = program.split('/').at(-1) ?? ''
    for (const base of new Set([name, name.replace(/d$/, ''), name.replace(/[-_.].*$/, '')]))
      if (base.length > 2 && base !== 'systemd') {
        for (const one of [`/etc/${base}`, `/etc/${base}.conf`, `/etc/default/${base}`, `/etc/pam.d/${base}`]) await this.#follow(one, why, 1)
      }
  }

  readonly #followed = new Set<number>()
  /** Folders that programs name: what configuration loads is looked for there. */
  readonly #places = new Set<string>()

  /** What a program that is started names: files, and what the folders of its configuration name in turn. */
  async #named(name: string, why: WantedBy): Promise<void> {
    const node = (await this.#system.find(name))?.nodes.at(-1)
    if (!node || !isFile(node) || this.#followed.has(node.id)) return
    this.#followed.add(node.id)
    const bytes = (await this.#system.contents([node], MAX_PROGRAM)).get(node.id)
    if (!bytes) return
    const text = bytes.toString('latin1')
    if (!text.startsWith('\x7fELF')) {
      for (const one of pathsIn(text)) await this.#follow(one, why, 1)
      return
    }
    const follow: string[] = []
    for (const one of pathsIn(text)) {
      const found = await this.#system.find(one)
      const target = found?.nodes.at(-1)
      if (!found || !target) continue
      if (target.children && !found.path.startsWith('/etc/')) this.#places.add(found.path)
      else if (!isProgram(target)) follow.push(one)
    }
    for (const one of follow) await this.#follow(one, why, 1)
  }

  /** A file or a folder that something names, and what it names itself, if it is configuration. */
  async #follow(name: string, why: WantedBy, depth: number): Promise<void> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node || forPeople.test(found.path) || this.#followed.has(node.id)) return
    const isConfiguration = found.path.startsWith('/etc/')
    if (node.children) {
      this.#followed.add(node.id)
      this.#places.add(found.path)
      // What is available is used where it is enabled.
      if (isConfiguration && found.path.split('/').length > 2 && !/-available$/.test(found.path) && sizeOf(node) <= MAX_FOLDER)
        for (const child of node.children.keys()) await this.#follow(`${found.path}/${child}`, why, depth)
      await this.#jars(found.path, why)
      return
    }
    // What lies in folders of configuration is run at other times than at a start: daily, when an interface comes.
    if (!isConfiguration && (/\.so(\.[\d.]+)?$/.test(name) || isProgram(node))) {
      await this.#program(name, why)
      // A module of a program's: what it names is as if the program did.
      if (/\.so$/.test(name)) await this.#named(name, why)
      return
    }
    if (!isFile(node) || (node.size > MAX_NAMED && !/\.jar$/.test(name))) return
    if (/\.(py|pl|[cm]?js)$/.test(name)) await this.#program(name, why)
    else await this.#want(name, why)
    if (!isConfiguration || isProgram(node) || depth > 3 || forLater.test(found.path)) return
    this.#followed.add(node.id)
    const text = (await this.#text(name)) ?? ''
    // Programs that it names are for later.
    for (const one of pathsIn(text.replace(/^[ \t]*[#;].*$/gm, ''))) if (!/\/s?bin\//.test(one)) await this.#follow(one, why, depth + 1)
    for (const object of objectsIn(text))
      for (const place of [...this.#places, '/usr/lib/x86_64-linux-gnu/security'])
        if (await this.#system.find(`${place}/${object}`)) {
          await this.#follow(`${place}/${object}`, why, depth + 1)
          break
        }
  }

  /** Class libraries in a folder that something names. */
  async #jars(folder: string, why: WantedBy): Promise<void> {
    let size = 0
    for (const place of [folder, `${folder}/bin`, `${folder}/lib`])
      for (const name of await this.#system.list(place)) {
        if (!name.endsWith('.jar')) continue
        size += (await this.#system.find(`${place}/${name}`))?.nodes.at(-1)?.size ?? 0
        if (size <= MAX_PACKAGE) await this.#want(`${place}/${name}`, why)
      }
  }

  /** An application's own folder, and what its files need. Of a large one that was asked for its smaller files. @returns false when that is not all of it */
  async #application(name: string, why: WantedBy): Promise<boolean> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node?.children || found.path === '/') return false
    let left = MAX_PACKAGE
    const files = filesIn(node).sort((a, b) => a.size - b.size)
    const taken = files.filter(({ size }) => (left -= size) >= 0)
    const isWhole = taken.length === files.length
    if (isWhole || why === 'application') await this.#folder(found.path, why, new Set(taken))
    return isWhole
  }

  /** Of the Debian package of a program: its configuration, and what the program or its libraries there name. */
  async #package(program: string): Promise<void> {
    const folder = '/var/lib/dpkg/info'
    const lists = (await this.#system.list(folder)).filter(name => name.endsWith('.list'))
    const found = await Promise.all(lists.map(async name => (await this.#system.find(`${folder}/${name}`))?.nodes.at(-1)))
    const nodes = found.filter(node => node !== undefined)
    const texts = await this.#system.contents(nodes, MAX_TEXT * 4)
    // Since /bin is a link to usr/bin, a package may call it either.
    const names = [program, program.replace(/^\/usr\//, '/')]
    for (const { id } of nodes) {
      const files = texts.get(id)?.toString('utf8').split('\n') ?? []
      if (!names.some(name => files.includes(name))) continue
      const left = new Map<string, Node>()
      for (const name of files) {
        if (name === program || forPeople.test(name)) continue
        const node = (await this.#system.find(name))?.nodes.at(-1)
        if (node && isFile(node)) left.set(name, node)
      }
      // Packages share an application's folder.
      const own = program.replace(/\/[^/]*$/, '')
      if (!commandFolders.includes(own))
        for (const [name, node] of (await this.#system.find(own))?.nodes.at(-1)?.children ?? []) if (isFile(node)) left.set(`${own}/${name}`, node)
      // Breadth first: what is named names others.
      const todo = [program]
      const scripted = await this.#scripted()
      for (const name of left.keys()) if (name.startsWith('/etc/')) await this.#follow(name, 'application', 1)
      for (let next = todo.shift(); next !== undefined; next = todo.shift()) {
        const words = await this.#words(next)
        for (const [name, node] of left) {
          const base = name.split('/').at(-1) ?? ''
          const isTool = isProgram(node) && /\/s?bin\//.test(name)
          // Tools are for people, but for those that a service's scripts run.
          if (!(isTool ? scripted : words).has(base) || base.length < 4) continue
          left.delete(name)
          todo.push(name)
          if (isProgram(node) || name.includes('.so')) await this.#program(name, 'application')
          else if (node.size <= MAX_NAMED) await this.#want(name, 'application')
        }
      }
    }
  }

  #scriptWords: Promise<Set<string>> | undefined

  /** The words in the scripts that services run, and in such modules of theirs as were found. */
  #scripted(): Promise<Set<string>> {
    return (this.#scriptWords ??= (async () => {
      const words = new Set<string>()
      for (const { path, why, node } of this.#wanted) {
        if (why !== 'service' || !(isProgram(node) || /\.(pm|py|sh)$/.test(path))) continue
        const text = (await this.#system.contents([node], MAX_TEXT)).get(node.id)?.toString('latin1') ?? ''
        if (!text.startsWith('\x7fELF')) addWords(words, text)
      }
      return words
    })())
  }

  /** The words in a file, as names of files are. */
  async #words(name: string): Promise<Set<string>> {
    const node = (await this.#system.find(name))?.nodes.at(-1)
    const bytes = node && (await this.#system.contents([node], MAX_PROGRAM)).get(node.id)
    const words = new Set<string>()
    addWords(words, bytes?.toString('latin1') ?? '')
    return words
  }

  async #all(names: readonly string[], why: WantedBy): Promise<void> {
    for (const name of names) await this.#want(name, why)
  }

  /** A folder's files, and those of its folders; of an application's those that are taken, and what they need. */
  async #folder(name: string, why: WantedBy, taken?: ReadonlySet<Node>): Promise<void> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node?.children) return
    for (const one of found.nodes) this.#passed.add(one)
    for (const [child, one] of node.children) {
      const path = `${found.path}/${child}`
      if (one.children) await this.#folder(path, why, taken)
      else if (taken && !taken.has(one)) continue
      else if (taken && /\.(py|pl|[cm]?js)$/.test(child)) await this.#program(path, why)
      else await this.#want(path, why)
    }
  }

  /** A file is wanted, and what is passed on the way to it. */
  async #want(name: string, why: WantedBy): Promise<Node | undefined> {
    const found = await this.#system.find(name)
    const node = found?.nodes.at(-1)
    if (!found || !node) return undefined
    for (const one of found.nodes) this.#passed.add(one)
    if (!isFile(node)) return undefined
    if (!this.#files.has(node.id)) {
      this.#files.add(node.id)
      this.#wanted.push({ path: found.path, why, node })
    }
    return node
  }

  async #text(name: string): Promise<string | undefined> {
    const node = (await this.#system.find(name))?.nodes.at(-1)
    return node && (await this.#system.contents([node], MAX_TEXT)).get(node.id)?.toString('utf8')
  }

  /** The chunks of all that: the file systems' heads, then each file after what leads to it. */
  async #profile(): Promise<Profile> {
    const { chunkSize, chunks } = this.#manifest
    const folders = [...this.#passed].filter(node => node.children)
    const nodes = [...folders, ...this.#wanted.map(({ node }) => node)]
    const order: { chunk: number; atMs: number }[] = []
    let at = 0
    const add = (byte: number, size: number): void => {
      const chunk = Math.floor(byte / chunkSize)
      if (chunk >= chunks) return
      order.push({ chunk, atMs: at })
      at += size / BYTES_PER_MS
    }
    // The partition table, and each file system's head with the descriptors of its groups.
    add(0, 0)
    const blocks = new Map<number, number[]>()
    for (const system of new Set([this.#system, ...[...this.#passed].map(({ system }) => system)])) {
      const { blockSize, offset } = system
      const inodes = [...this.#passed].filter(node => node.system === system).map(({ inode }) => inode)
      const own = nodes.filter(node => node.system === system)
      const found = await system.blocks(own.map(({ inode }) => inode))
      for (const { id, inode } of own) blocks.set(id, found.get(inode) ?? [])
      const journal = (await system.blocks([JOURNAL])).get(JOURNAL)?.slice(0, 1) ?? []
      for (let byte = 0; byte < HEAD; byte += chunkSize) add(offset + byte, 0)
      for (const block of [...journal, ...(await system.bitmaps([...found.values()].flat())), ...(await system.inodeBlocks(inodes))])
        add(offset + block * blockSize, blockSize)
    }
    for (const node of nodes) {
      const { blockSize, offset } = node.system
      const parts = this.#partial.get(node.id)
      const isIn = (byte: number): boolean => parts?.some(([from, to]) => byte + blockSize > from && byte < to) ?? true
      for (const [i, block] of (blocks.get(node.id) ?? []).entries()) if (isIn(i * blockSize)) add(offset + block * blockSize, blockSize)
    }
    return Profile.fromOrder(this.#manifest, order, 0)
  }
}

/** All that is in a folder, but for folders. */
function filesIn(folder: Node): Node[] {
  const files: Node[] = []
  const left = [folder]
  for (let one = left.pop(); one; one = left.pop())
    for (const child of one.children?.values() ?? [])
      if (child.children) left.push(child)
      else files.push(child)
  return files
}

/** Of that, in bytes. */
const sizeOf = (folder: Node): number => filesIn(folder).reduce((sum, { size }) => sum + size, 0)

/** Where in an ELF file that lies which the loader reads, by what readelf says of its sections. */
function loadedParts(said: string): [from: number, to: number][] {
  const parts: [number, number][] = [[0, 4096]]
  for (const [, name = '', type, , offset = '', size = ''] of said.matchAll(/^[ \t]*\[\s*\d+\]\s+(\S+)\s+(\S+)\s+([0-9a-f]+)\s+([0-9a-f]+)\s+([0-9a-f]+)/gm))
    if (!notLoaded.test(name) && type !== 'NOBITS' && parts.length < MAX_SECTIONS) parts.push([parseInt(offset, 16), parseInt(offset, 16) + parseInt(size, 16)])
  return parts
}
