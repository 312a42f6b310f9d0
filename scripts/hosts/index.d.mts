import type { Duplex } from 'node:stream'

/** Hosts cannot be made here, or one does not do as it is told; the message says why. */
export class HostsError extends Error {}

/** What a program has said and how it ended. */
export interface Execution {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

/** A process on a host. */
export interface HostProcess {
  /** Its number on this machine. */
  pid: number
  /** Its number on the host. */
  inner: number
  name: string
  args: string[]
}

/** A libvirtd in namespaces of its own. */
export interface Host {
  /** host1, host2, …: its name among the hosts, too. */
  readonly name: string
  /** Its address on the network of the hosts; only they are on it. */
  readonly address: string
  /** What this machine connects to. */
  readonly uri: string
  /** What the other hosts connect to, over their network: for peer-to-peer migration. */
  readonly peerUri: string
  /** As `uri`, for libvirt-admin. */
  readonly adminUri: string
  readonly socket: string
  /** The bridge for guests' interfaces. */
  readonly bridge: string
  /** The folder of what it has instead of the machine's /etc/libvirt, /var/lib/libvirt and so on. */
  readonly folder: string
  /** libvirtd's log. */
  readonly log: string
  /** False after crash(). */
  readonly alive: boolean
  /** libvirtd's process on this machine; undefined when it does not run. */
  readonly pid: number | undefined
  readonly processes: HostProcess[]
  /** The process on this machine that runs a domain. */
  qemuPid(domain: string): number | undefined
  /** A command as it runs on the host, for spawn(). */
  command(...command: string[]): [string, ...string[]]
  exec(...command: string[]): Promise<Execution>
  /** What virsh prints, connected to this host; rejects when it fails. */
  virsh(...args: string[]): Promise<string>
  /** Sends libvirtd a signal (SIGKILL); after SIGKILL and SIGTERM it resolves when libvirtd has ended. */
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Starts libvirtd unless it runs; resolves when it answers. */
  start(): Promise<void>
  /** kill(signal), by SIGTERM if not told, and start(). Guests run on. */
  restart(signal?: NodeJS.Signals): Promise<void>
  /** The whole host with its guests is gone at once, as by a power failure. */
  crash(): Promise<void>
  /** Pulls the cable. */
  stopNetwork(): Promise<void>
  startNetwork(): Promise<void>
}

/** Hosts on a network of their own, with storage that all of them see. */
export interface Hosts extends Iterable<Host>, AsyncDisposable {
  readonly id: string
  readonly hosts: Host[]
  readonly length: number
  /** A folder, the same on all hosts and on this machine. */
  readonly storage: string
  /** This machine's own address on the network of the hosts, as seen by them; see onWire(). */
  readonly wireAddress: string
  /** A command as it runs on the network of the hosts, for spawn(). */
  onWire(...command: string[]): [string, ...string[]]
  /** A TCP connection to an address on the network of the hosts. */
  connect(address: string, port: number): Duplex
  /** Ends hosts and guests and removes all that they had. A second call does nothing. */
  close(): Promise<void>
}

/** Why hosts cannot be started here, or false. Installs what is missing, where it may. */
export function whyNoHosts(): Promise<string | false>

/**
 * Starts hosts (2). They end with this process, however it ends.
 * @throws HostsError with what is missing
 */
export function startHosts(options?: { count?: number }): Promise<Hosts>

/** The hosts of `npm run hosts -- up` in this checkout; undefined when there are none. */
export function openHosts(): Hosts | undefined

/** What the guest says on its console when it waits for a command. */
export const prompt: string

/** The port on which the guest answers each line with its number in the connection, and itself. */
export const servicePort: number

export interface LinuxGuestOptions {
  hosts: Hosts
  /** Default: guest1, guest2, … */
  name?: string
  /** MiB; 128 if not given. */
  memory?: number
  vcpus?: number
  disks?: { file: string; format?: string; cache?: string }[]
  /**
   * So many MiB are written over and over, `rate` MiB a second (2) at most. With a pause after each, since a guest
   * that never rests may not outlive a live migration under TCG: see docs/hosts.md.
   */
  dirty?: { mib: number; rate?: number }
  /** False: no network interface. */
  network?: boolean
  /** False: no channel for the guest agent, which then is not started. */
  agent?: boolean
  /** More XML for the domain's <devices>. */
  devices?: string
}

/** A domain to be: Debian's kernel, run by TCG, with busybox. */
export interface LinuxGuest {
  readonly name: string
  readonly xml: string
  /** On the network of the hosts; undefined without network. */
  readonly address: string | undefined
  readonly mac: string
  /** The file that everything on its serial console is appended to. */
  readonly consoleLog: string
  /** What is in it. */
  readonly console: string
  /**
   * Waits until the console has said a text (its prompt) behind an offset; resolves with the offset after it.
   * @throws HostsError after `timeout` milliseconds (60,000), with the end of the console
   */
  waitFor(text?: string, options?: { from?: number; timeout?: number }): Promise<number>
}

/** Makes the guest's files at the first call, from packages that it fetches. */
export function linuxGuest(options: LinuxGuestOptions): Promise<LinuxGuest>

/** Makes an empty disk image of a size as qemu-img takes it ('64M', 'qcow2'); resolves with its file. */
export function blankDisk(file: string, size?: string, format?: string): Promise<string>

/** The files of a guest's kernel and of its first root file system. */
export interface GuestImage {
  /** A bzImage. */
  kernel: string
  /** The ELF file in it, with a PVH entry. */
  elf: string
  initrd: string
}

/** Makes the guests' files, unless they are there. `flavour`: Debian's kernel for virtual machines (the default), or for any. */
export function guestImage(flavour?: 'cloud' | 'generic'): Promise<GuestImage>

/**
 * Makes, unless it is there, the image of a disk with Debian's nginx: mounted at /mnt, `chroot /mnt /usr/sbin/nginx` serves
 * `page` as /page.
 */
export function serviceImage(): Promise<{ disk: string; page: Buffer }>
