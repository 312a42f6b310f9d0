// A file that is there whole or not at all, whoever reads it meanwhile and whenever its writer is killed.
import { open, realpath, rename, rm, stat, writeFile } from 'node:fs/promises'
import process from 'node:process'

/** Where a new file cannot take its place (a folder that may not be written, a file that is mounted) it is written over. @internal */
export async function writeWhole(file: string, contents: string | Uint8Array, mode = 0o666): Promise<void> {
  const there = await stat(file).catch(() => undefined)
  // Nothing takes the place of a pipe or a terminal.
  if (there && !there.isFile()) return writeFile(file, contents)
  const target = there ? await realpath(file) : file
  const name = `${target}.${process.pid}.tmp`
  try {
    const handle = await open(name, 'w', mode)
    try {
      if (there) await handle.chmod(there.mode & 0o7777)
      await handle.writeFile(contents)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(name, target)
  } catch (error) {
    await rm(name, { force: true })
    if (!there || !['EACCES', 'EBUSY', 'EPERM', 'EROFS'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    await writeFile(target, contents)
  }
}
