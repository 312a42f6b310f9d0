// The same options as Machine.create takes, one call each.
import type { Size } from '../kvm/size.js'
import { MachineError } from './errors.js'
import { Machine } from './machine.js'
import type { DiskOptions, MachineBoard, MachineOptions, NetOptions, VsockOptions } from './options.js'

/**
 * Puts a machine together, part by part.
 *
 * @example
 * ```ts
 * const machine = await new MachineBuilder()
 *   .memory('32MiB')
 *   .kernel(guestPath('mailroom'))
 *   .net()
 *   .disk({ path: 'mail.img' })
 *   .build()
 * ```
 *
 * @since 0.1.0
 */
export class MachineBuilder {
  readonly #options: Partial<MachineOptions> = {}

  /** See {@link MachineOptions.board}. @since 0.1.0 */
  board(board: MachineBoard): this {
    this.#options.board = board
    return this
  }

  /** See {@link MachineOptions.vcpus}. @since 0.1.0 */
  vcpus(count: number): this {
    this.#options.vcpus = count
    return this
  }

  /** See {@link MachineOptions.console}. @since 0.1.0 */
  console(which: 'serial' | 'virtio'): this {
    this.#options.console = which
    return this
  }

  /** See {@link MachineOptions.balloon}. @since 0.1.0 */
  balloon(wanted = true): this {
    this.#options.balloon = wanted
    return this
  }

  /** See {@link MachineOptions.vsock}. @since 0.1.0 */
  vsock(options: VsockOptions): this {
    this.#options.vsock = options
    return this
  }

  /** See {@link MachineOptions.memory}. */
  memory(size: Size): this {
    this.#options.memory = size
    return this
  }

  /** See {@link MachineOptions.kernel}. */
  kernel(kernel: string | Uint8Array): this {
    this.#options.kernel = kernel
    return this
  }

  /** See {@link MachineOptions.initrd}. */
  initrd(initrd: string | Uint8Array): this {
    this.#options.initrd = initrd
    return this
  }

  /** See {@link MachineOptions.commandLine}. */
  commandLine(line: string): this {
    this.#options.commandLine = line
    return this
  }

  /** Adds a block device. */
  disk(disk: DiskOptions): this {
    ;(this.#options.disks ??= []).push(disk)
    return this
  }

  /** Adds a network device. */
  net(net: NetOptions = {}): this {
    ;(this.#options.nets ??= []).push(net)
    return this
  }

  /** See {@link MachineOptions.wallClock}. */
  wallClock(time: Date): this {
    this.#options.wallClock = time
    return this
  }

  /** See {@link MachineOptions.dirtyRing}. */
  dirtyRing(entries: number | boolean = true): this {
    this.#options.dirtyRing = entries
    return this
  }

  /** See {@link MachineOptions.device}. */
  device(path: string): this {
    this.#options.device = path
    return this
  }

  /**
   * Makes the machine, see {@link Machine.create}.
   *
   * @throws MachineError `EINVAL` without a kernel
   */
  async build(): Promise<Machine> {
    const { kernel, ...others } = this.#options
    if (kernel === undefined)
      throw new MachineError('a machine needs a kernel: call kernel() before build()', { code: 'EINVAL' })
    return Machine.create({ ...others, kernel })
  }
}
