// Which process streams into a cache: a lock of a file in its folder, which goes with the process. Two that find nobody
// at the door cannot both begin.
import { open, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { native } from '../native.js'

export const LOCK_FILE = 'manager.lock'

/** Of an open file or folder; false when somebody has it. */
export const { tryLock } = native as { tryLock: (fd: number) => boolean }

/** @internal */
export class FolderLock {
  readonly #handle: FileHandle

  private constructor(handle: FileHandle) {
    this.#handle = handle
  }

  /** Undefined when somebody has it. */
  static async take(folder: string): Promise<FolderLock | undefined> {
    const handle = await open(path.join(folder, LOCK_FILE), 'a', 0o600)
    try {
      if (tryLock(handle.fd)) return new FolderLock(handle)
    } catch (error) {
      await handle.close()
      throw error
    }
    await handle.close()
    return undefined
  }

  /** Whether somebody has it. */
  static async isTaken(folder: string): Promise<boolean> {
    let handle: FileHandle
    try {
      handle = await open(path.join(folder, LOCK_FILE), 'r+')
    } catch {
      return false
    }
    try {
      return !tryLock(handle.fd)
    } finally {
      await handle.close()
    }
  }

  /** Once. */
  release(): Promise<void> {
    return this.#handle.close()
  }
}
