// A QEMU whose first disk is an NBD server's, with an overlay for what the guest writes.
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { constants } from 'node:fs'
import { access, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { bytesOf, noSize, type Size } from '../size.js'
import { failed, invalid, StreamError } from './errors.js'
import type { Manifest } from './manifest.js'
import type { NbdServer } from './nbd.js'
import { isInstalled, missing, runTool, startError } from './tool.js'

/**
 * What QEMU is started with.
 *
 * @since 0.1.0
 */
export interface QemuOptions {
  /** RAM. Default 1 GiB. */
  memory?: Size
  /** Virtual CPUs. Default 1. */
  cpus?: number
  /** Default: `'kvm'` where /dev/kvm may be opened, else `'tcg'`. */
  accelerator?: 'kvm' | 'tcg'
  /** A kernel in place of what the image boots, with its initial RAM disk and command line. */
  kernel?: string
  /** See kernel. */
  initrd?: string
  /** See kernel. */
  append?: string
  /**
   * The qcow2 file that keeps what the guest writes; made where it is missing, and good for this image alone, which the
   * file with `.digest` behind its name says. Default: one that goes with the guest.
   */
  overlay?: string
  /** More of QEMU's arguments. */
  args?: readonly string[]
  /**
   * It ends with the thread that started it, also when nobody closes it and however that ends. Default false: the guest of a
   * process that is killed runs on. Needs setpriv (Debian: util-linux).
   */
  exitWithParent?: boolean
  /** QEMU's standard streams; the guest's serial port is on them. Default: ignored. */
  stdio?: StdioOptions
}

const QEMU = 'qemu-system-x86_64'
/** Disks have whole ones. */
const SECTOR = 512

/** What QEMU's values may consist of, so that a comma in a path is no option. */
const quoted = (value: string): string => value.replaceAll(',', ',,')

/**
 * A QEMU that runs on a streamed image. Its reads wait for what is not here yet; nothing else of it knows.
 *
 * @since 0.1.0
 */
export class QemuGuest implements AsyncDisposable {
  /** QEMU. */
  readonly process: ChildProcess
  /** Settled when QEMU has ended, with its exit status; undefined when a signal ended it. */
  readonly ended: Promise<number | undefined>
  #closing: Promise<void> | undefined

  private constructor(child: ChildProcess, folder: string) {
    this.process = child
    this.ended = new Promise(resolve => {
      child.once('close', status => {
        void rm(folder, { recursive: true, force: true }).then(() => resolve(status ?? undefined))
      })
    })
  }

  /**
   * Starts QEMU on what a server with a UNIX socket serves.
   *
   * @param server - read-only is enough
   * @param image - what it is: its manifest has that
   * @throws StreamError `EINVAL`, `TOOL_MISSING`, `TOOL_FAILED`
   */
  static async start(server: NbdServer, image: Pick<Manifest, 'imageSize' | 'digest'>, options: QemuOptions = {}): Promise<QemuGuest> {
    const { cpus = 1, kernel, initrd, append, args = [], exitWithParent = false, stdio = 'ignore' } = options
    checkQemu(options)
    if (server.socket === undefined) throw invalid('the server must listen at a UNIX socket')
    const memory = bytesOf(options.memory ?? '1GiB') as bigint
    const accelerator = options.accelerator ?? ((await mayOpen('/dev/kvm')) ? 'kvm' : 'tcg')
    const folder = await mkdtemp(path.join(tmpdir(), 'hypertwin-qemu-'))
    try {
      const overlay = path.resolve(options.overlay ?? path.join(folder, 'overlay.qcow2'))
      await makeOverlay(overlay, image)
      const [program, ...before] = exitWithParent ? ['setpriv', '--pdeathsig', 'KILL', '--', QEMU] : [QEMU]
      const child = spawn(
        program,
        [
          ...before,
          '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'mon:stdio',
          '-accel', accelerator, '-m', `${memory / (1n << 20n)}M`, '-smp', String(cpus),
          ...(kernel === undefined ? [] : ['-kernel', kernel]),
          ...(initrd === undefined ? [] : ['-initrd', initrd]),
          ...(append === undefined ? [] : ['-append', append]),
          // A server that is gone for a moment is no error of the guest's.
          '-blockdev', `driver=nbd,node-name=streamed,read-only=on,server.type=unix,server.path=${quoted(server.socket)},reconnect-delay=60`,
          '-blockdev', `driver=file,node-name=overlay-file,filename=${quoted(overlay)}`,
          '-blockdev', 'driver=qcow2,node-name=disk,file=overlay-file,backing=streamed,discard=unmap',
          '-device', 'virtio-blk-pci,drive=disk,bootindex=1', '-object', 'rng-random,id=entropy,filename=/dev/urandom',
          '-device', 'virtio-rng-pci,rng=entropy', ...args
        ],
        { stdio }
      )
      await new Promise<void>((resolve, reject) => {
        child.once('spawn', resolve)
        child.once('error', error => reject(startError(program, error)))
      })
      return new QemuGuest(child, folder)
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw failed('starting QEMU', error)
    }
  }

  /** Ends QEMU as if by pulling the plug. Twice is fine. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.process.kill('SIGKILL')
    await this.ended
  }
}

/** What can be said before there is an image. @internal */
export function checkQemu({ memory, cpus = 1, kernel, initrd, append, exitWithParent = false }: QemuOptions): void {
  if (bytesOf(memory ?? '1GiB') === undefined) throw invalid(noSize(memory))
  if (!Number.isInteger(cpus) || cpus < 1) throw invalid('cpus must be a whole number above 0')
  if (kernel === undefined && (initrd !== undefined || append !== undefined)) throw invalid('initrd and append go with a kernel')
  // The one that is spawned may be another program.
  for (const program of [QEMU, 'qemu-img', ...(exitWithParent ? ['setpriv'] : [])]) if (!isInstalled(program)) throw missing(program)
}

async function mayOpen(file: string): Promise<boolean> {
  return access(file, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false
  )
}

const diskSize = ({ imageSize }: Pick<Manifest, 'imageSize'>): number => Math.ceil(imageSize / SECTOR) * SECTOR

/**
 * Whether an overlay is there; one that is there is this image's.
 *
 * @throws StreamError `EINVAL`
 * @internal
 */
export async function checkOverlay(overlay: string, image: Pick<Manifest, 'imageSize' | 'digest'>): Promise<boolean> {
  if (!(await stat(overlay).catch(() => undefined))) return false
  const of = `${overlay}.digest`
  const info = JSON.parse(await runTool(['qemu-img', 'info', '-f', 'qcow2', '--output=json', '--', overlay])) as Record<string, unknown>
  const made = await readFile(of, 'utf8').catch(() => '')
  if (info['virtual-size'] !== diskSize(image) || info['backing-filename'] !== undefined || made.trim() !== image.digest)
    throw new StreamError(
      `${overlay} is no overlay of this image${made === '' ? `, or ${of} is missing` : ''}: what it holds was written on top of other contents. Give another file, or remove it`,
      { code: 'EINVAL' }
    )
  return true
}

/** Without a name of what is below it: that server has another name each time. */
async function makeOverlay(overlay: string, image: Pick<Manifest, 'imageSize' | 'digest'>): Promise<void> {
  if (await checkOverlay(overlay, image)) return
  await writeFile(`${overlay}.digest`, `${image.digest}\n`)
  await runTool(['qemu-img', 'create', '-q', '-f', 'qcow2', '--', overlay, String(diskSize(image))])
}
