// A pack in a folder of this host.
import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { check, failed, StreamError } from './errors.js'
import type { Source } from './source.js'

const PIECE = 256 * 1024

/** @internal */
export class FileSource implements Source {
  readonly where: string
  readonly local = true

  constructor(folder: string) {
    this.where = path.resolve(folder)
  }

  async file(name: string, limit: number, signal?: AbortSignal): Promise<Buffer> {
    check(signal)
    return this.#with(name, async file => {
      const { size } = await file.stat()
      if (size > limit) throw new StreamError(`${path.join(this.where, name)} has ${size} bytes, more than ${limit}`, { code: 'SOURCE_REFUSED' })
      const bytes = Buffer.alloc(size)
      const { bytesRead } = await file.read(bytes, 0, size, 0)
      return bytes.subarray(0, bytesRead)
    })
  }

  range(name: string, from: number, to: number, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    return Promise.resolve(this.#read(name, from, to, signal))
  }

  close(): void {
    // Each read has its own descriptor.
  }

  async *#read(name: string, from: number, to: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const file = await this.#open(name)
    try {
      for (let at = from; at < to; ) {
        check(signal)
        const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(Math.min(PIECE, to - at)), 0, Math.min(PIECE, to - at), at)
        if (bytesRead === 0)
          throw new StreamError(`${path.join(this.where, name)} ends at ${at}, before ${to}: the pack is not whole`, { code: 'SOURCE_REFUSED' })
        at += bytesRead
        yield buffer.subarray(0, bytesRead)
      }
    } finally {
      await file.close()
    }
  }

  async #open(name: string): Promise<FileHandle> {
    const file = path.join(this.where, name)
    try {
      // A FIFO in its place must not hang this.
      return await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOTDIR')
        throw new StreamError(
          `${this.where} is no folder: give the one that \`hypertwin stream pack\` wrote. A raw image comes from an NBD server, with its manifest (--manifest)`,
          { code: 'SOURCE_REFUSED', cause: error }
        )
      if (code === 'ENOENT')
        throw new StreamError(`There is no ${file}: give the folder that \`hypertwin stream pack\` wrote`, { code: 'SOURCE_REFUSED', cause: error })
      throw failed(`reading ${file}`, error)
    }
  }

  async #with<T>(name: string, body: (file: FileHandle) => Promise<T>): Promise<T> {
    const file = await this.#open(name)
    try {
      return await body(file)
    } catch (error) {
      throw failed(`reading ${path.join(this.where, name)}`, error)
    } finally {
      await file.close()
    }
  }
}
