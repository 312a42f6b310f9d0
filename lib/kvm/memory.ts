// Guest memory: allocation, copies in and out, windows.
import { nativeKvm, type NativeMemory } from './addon.js'
import { closedError, kvmErrors } from './errors.js'
import { room, toBytes, type Size } from './size.js'

/**
 * How guest memory is backed.
 *
 * @since 0.1.0
 */
export interface GuestMemoryOptions {
  /** `'anonymous'` (the default), or `'memfd'`, whose descriptor another process can map. */
  backing?: 'anonymous' | 'memfd'
  /** Huge pages of this size (`'2MiB'`, `'1GiB'`), reserved beforehand in /proc/sys/vm/nr_hugepages. */
  hugePageSize?: Size
  /** The memfd's name in /proc/<pid>/maps. */
  name?: string
}

/**
 * Host memory that backs guest memory. A VM keeps what its slots use; closing this handle only ends its own use.
 *
 * @since 0.1.0
 */
export class GuestMemory implements AsyncDisposable {
  readonly #native: NativeMemory
  #closing: Promise<void> | undefined
  /** Bytes. */
  readonly size: bigint

  private constructor(native: NativeMemory, size: bigint) {
    this.#native = native
    this.size = size
  }

  /**
   * Allocates zeroed memory; pages are taken from the host when they are touched first (mmap(2), memfd_create(2)).
   *
   * @param size - a multiple of the page size, of the huge page size where one is given
   * @throws KvmError `EALIGN`, `ERANGE`, `EINVAL`, `ENOMEM`
   * @since 0.1.0
   */
  static async allocate(size: Size, options: GuestMemoryOptions = {}): Promise<GuestMemory> {
    return kvmErrors(async () => {
      const bytes = toBytes(size)
      const native = await nativeKvm.allocateMemory(
        bytes,
        options.backing === 'memfd',
        toBytes(options.hugePageSize ?? 0),
        options.name ?? 'hypertwin'
      )
      return new GuestMemory(native, bytes)
    })
  }

  /**
   * Maps memory that exists: another process's memfd, a snapshot's file. The descriptor is duplicated.
   *
   * @param options - `offset` in the file; `privateCopy` makes writes stay in this process (copy on write)
   * @throws KvmError `EBADF`, `EALIGN`, `ERANGE` when the file is shorter
   * @since 0.1.0
   */
  static async fromFd(
    fd: number,
    size: Size,
    options: { offset?: Size; privateCopy?: boolean } = {}
  ): Promise<GuestMemory> {
    return kvmErrors(async () => {
      const bytes = toBytes(size)
      const native = await nativeKvm.memoryFromFd(fd, toBytes(options.offset ?? 0), bytes, options.privateCopy ?? false)
      return new GuestMemory(native, bytes)
    })
  }

  /** Whether close() was called. */
  get closed(): boolean {
    return this.#closing !== undefined
  }

  /** The memfd, or -1 for anonymous memory. It belongs to this object. */
  get fd(): number {
    return kvmErrors(() => this.native.fd())
  }

  /** @internal */
  get native(): NativeMemory {
    if (this.#closing) throw closedError('The guest memory')
    return this.#native
  }

  /**
   * Copies bytes out.
   *
   * @param offset - from the memory's start, not a guest address
   * @throws KvmError `ERANGE`, `EINVAL`, `CLOSED`
   * @since 0.1.0
   */
  read(offset: bigint | number, length: number): Uint8Array {
    return kvmErrors(() => this.native.read(offset, room(length, this.size)))
  }

  /**
   * Copies bytes into a buffer of the caller's, which it returns.
   *
   * @throws KvmError `ERANGE`, `CLOSED`
   * @since 0.1.0
   */
  readInto(offset: bigint | number, into: Uint8Array): Uint8Array {
    return kvmErrors(() => this.native.read(offset, into))
  }

  /**
   * Copies bytes in. KVM's dirty log does not see what the host writes.
   *
   * @throws KvmError `ERANGE`, `CLOSED`
   * @since 0.1.0
   */
  write(offset: bigint | number, from: Uint8Array): void {
    kvmErrors(() => {
      this.native.write(offset, from)
    })
  }

  /**
   * A window: the memory itself, at most 1 GiB of it, not a copy. It stays valid after close() for as long as it is
   * referenced.
   *
   * @throws KvmError `ERANGE`; `ENOTSUP` where the runtime forbids external buffers (Electron); `CLOSED`
   * @since 0.1.0
   */
  window(offset: bigint | number, length: number): Uint8Array {
    return kvmErrors(() => new Uint8Array(this.native.window(offset, length)))
  }

  /** Ends this handle's use of the memory; twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#native.close()
    return this.#closing
  }

  /** As close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
