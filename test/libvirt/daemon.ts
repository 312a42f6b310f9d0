// A libvirtd of a test's own: libvirt's test driver and storage behind a real daemon, on sockets in a folder. It
// needs no systemd, touches no other daemon, and goes with the test.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { noLibvirt } from './support.js'

const storageDriver = (): string | undefined =>
  ['/usr/lib', ...readdirSync('/usr/lib').map(name => `/usr/lib/${name}`)]
    .map(folder => `${folder}/libvirt/connection-driver/libvirt_driver_storage.so`)
    .find(file => existsSync(file))

function missing(): string | false {
  if (noLibvirt) return noLibvirt
  if (spawnSync('libvirtd', ['--version']).status !== 0) return 'libvirtd is not installed (Debian package libvirt-daemon)'
  const own = spawnSync('unshare', ['--mount', '--propagation', 'private', 'mount', '-t', 'tmpfs', 'none', '/run'])
  if (own.status !== 0) return 'libvirtd with folders of its own takes root and mount namespaces'
  return false
}

/** False, or why there can be no daemon here. */
export const noDaemon = missing()

function connects(socket: string): Promise<boolean> {
  return new Promise(resolve => {
    const settle = (up: boolean): void => {
      connection.destroy()
      resolve(up)
    }
    const connection = net.connect(socket, () => settle(true)).once('error', () => settle(false))
  })
}

export class Daemon {
  readonly folder: string
  #child: ChildProcess | undefined

  private constructor() {
    this.folder = mkdtempSync(path.join(tmpdir(), 'hypertwin-libvirtd-'))
    mkdirSync(this.#file('drivers'))
    const storage = storageDriver()
    if (storage) symlinkSync(storage, this.#file('drivers/libvirt_driver_storage.so'))
    const lines = [
      `unix_sock_dir = "${this.folder}"`,
      'auth_unix_rw = "none"',
      'auth_unix_ro = "none"',
      'host_uuid = "8f7ab1d6-6b1c-4d0e-9c9b-3d1c2f0a7e55"'
    ]
    writeFileSync(this.#file('libvirtd.conf'), `${lines.join('\n')}\n`)
  }

  /** Started, and stopped at the end of the test. */
  static async start(t: Test): Promise<Daemon> {
    const daemon = new Daemon()
    t.teardown(async () => {
      await daemon.kill()
      rmSync(daemon.folder, { recursive: true, force: true })
    })
    await daemon.start()
    return daemon
  }

  /** The test driver there; `storage` likewise. */
  uri(driver = 'test', path = 'default'): string {
    return `${driver}+unix:///${path}?socket=${this.#file('libvirt-sock')}`
  }

  async start(): Promise<void> {
    rmSync(this.#file('libvirt-sock'), { force: true })
    // Its state lies in folders that nobody else sees, so several daemons do not meet.
    const own = ['/run', '/var/lib/libvirt', '/etc/libvirt'].map(folder => `mount -t tmpfs none ${folder}`).join(' && ')
    const command = `${own} && exec libvirtd -f ${this.#file('libvirtd.conf')} -p ${this.#file('pid')}`
    // It ends with this process, however that ends.
    const words = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--propagation', 'private', 'sh', '-c', command]
    this.#child = spawn('setpriv', words, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, LIBVIRT_DRIVER_DIR: this.#file('drivers') }
    })
    let said = ''
    this.#child.stderr?.on('data', (data: Buffer) => (said += data.toString()))
    // The socket is there before it listens.
    while (!(await connects(this.#file('libvirt-sock')))) {
      if (this.#child.exitCode !== null) throw new Error(`libvirtd ended with ${this.#child.exitCode}: ${said}`)
      await sleep(10)
    }
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child?.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }

  /** Stopped, it keeps its sockets open and says nothing. */
  freeze(): void {
    this.#child?.kill('SIGSTOP')
  }

  /** Undefined while it does not run. */
  get pid(): number | undefined {
    return this.#child?.pid
  }

  #file(name: string): string {
    return path.join(this.folder, name)
  }
}
