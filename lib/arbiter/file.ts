// An arbiter in a folder that both sides share. A claim is a hard link: who makes it first has won.
//
//   1. write <key>.<who>.<random>.tmp: who and when; fsync it
//   2. link it to <key>.claim: fails when that exists
//   3. fsync the folder
//   4. read <key>.claim: it says who has won, whatever step 2 reported
//
// A kill between any two steps leaves either no claim or a whole one. Over NFS, a link that was made although its
// answer was lost is seen in step 4.
import { randomBytes } from 'node:crypto'
import { constants, type Stats } from 'node:fs'
import { link, open, readdir, readFile, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import type { Arbiter, Claim } from './arbiter.js'
import { ArbiterError, checkClaim, invalid, milliseconds, winnerIn, within } from './errors.js'

/**
 * How a {@link FileArbiter} works.
 *
 * @since 0.1.0
 */
export interface FileArbiterOptions {
  /** After so many milliseconds without an answer of the storage a claim is `'unreachable'`. Default 3000. */
  timeoutMs?: number
}

/**
 * An arbiter in a folder on storage that both sides reach: NFS 3 or later, a cluster file system, or a local folder
 * when both sides are on one host. It needs hard links and an fsync that means it; a folder that each side has for
 * itself decides nothing.
 *
 * A claim is a file of about 200 bytes, `<key>.claim`, which says who has it, since when and from which host. It stays:
 * remove it only when both sides are known to have ended.
 *
 * @example
 * ```ts
 * const arbiter = new FileArbiter('/mnt/shared/claims')
 * ```
 *
 * @since 0.1.0
 */
export class FileArbiter implements Arbiter {
  /** The folder. */
  readonly folder: string
  /** Why the last answer was `'unreachable'`; undefined when it was not. */
  lastError: Error | undefined
  readonly #timeoutMs: number
  /** Storage that hangs keeps one call for a claim, not one for each time it is asked. */
  readonly #running = new Map<string, Promise<Claim>>()

  /**
   * @param folder - exists, and both sides may write to it
   * @throws ArbiterError `EINVAL`
   */
  constructor(folder: string, options: FileArbiterOptions = {}) {
    if (typeof folder !== 'string' || folder === '' || folder.includes('\0'))
      throw invalid('the folder must be a path')
    this.folder = path.resolve(folder)
    this.#timeoutMs = milliseconds(options.timeoutMs ?? 3000, 'timeoutMs')
  }

  /**
   * See {@link Arbiter.claim}.
   *
   * @throws ArbiterError `EINVAL`
   */
  async claim(key: string, who: string): Promise<Claim> {
    checkClaim(key, who)
    const id = `${key} ${who}`
    let work = this.#running.get(id)
    if (!work) {
      work = this.#claim(key, who).finally(() => this.#running.delete(id))
      this.#running.set(id, work)
    }
    return this.#answer(work, 'unreachable')
  }

  /** Whether claims can be made in the folder now: makes a link there, and removes it. */
  async prepare(): Promise<boolean> {
    return this.#answer(
      (async () => {
        const name = await this.#write('probe', 'probe')
        try {
          await link(name, `${name}.link`)
          await unlink(`${name}.link`)
        } finally {
          await unlink(name)
        }
        return true
      })(),
      false
    )
  }

  async #answer<T>(work: Promise<T>, otherwise: T): Promise<T> {
    try {
      const answer = await within(this.#timeoutMs, work, `the folder ${this.folder}`)
      this.lastError = undefined
      return answer
    } catch (error) {
      this.lastError = error as Error
      return otherwise
    }
  }

  async #claim(key: string, who: string): Promise<Claim> {
    const claim = path.join(this.folder, `${key}.claim`)
    // Who lost, or asks again, need not write.
    let winner = await this.#winner(claim)
    if (winner === undefined) {
      const name = await this.#write(key, who)
      let failed: unknown
      try {
        await link(name, claim)
      } catch (error) {
        failed = error
      }
      winner = await this.#winner(claim)
      await unlink(name).catch(() => undefined)
      if (winner === undefined) throw failed ?? new ArbiterError(`the claim ${claim} is gone again`, { code: 'ENOENT' })
    }
    // Before anybody acts on it, it must outlast a power failure.
    const folder = await open(this.folder, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
    void this.#tidy(key)
    return winner === who ? 'won' : 'lost'
  }

  /** A file that is whole and on the storage; its path. */
  async #write(key: string, who: string): Promise<string> {
    const name = path.join(this.folder, `${key}.${who}.${randomBytes(8).toString('hex')}.tmp`)
    const text = JSON.stringify({ key, winner: who, at: new Date().toISOString(), host: hostname(), pid: process.pid })
    const file = await open(name, 'wx', 0o644)
    try {
      await file.writeFile(`${text}\n`)
      await file.sync()
    } finally {
      await file.close()
    }
    return name
  }

  async #winner(claim: string): Promise<string | undefined> {
    let there: Stats
    try {
      there = await stat(claim)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
    return winnerIn(there.isFile() && there.size <= 4096 ? await readFile(claim, 'utf8') : '', claim)
  }

  /**
   * Removes what killed attempts on a decided key left behind, while nobody waits. A link that is still tried then
   * finds the claim there.
   */
  async #tidy(key: string): Promise<void> {
    try {
      for (const name of await readdir(this.folder))
        if (name.startsWith(`${key}.`) && name.endsWith('.tmp')) await unlink(path.join(this.folder, name)).catch(() => undefined)
    } catch {
      // The claim counts, not what lies beside it.
    }
  }
}
