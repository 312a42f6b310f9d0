// Writes an archive that the kernel takes for its first root file system (cpio, format newc).
import { constants } from 'node:fs'
import path from 'node:path'

const kinds = { file: constants.S_IFREG, folder: constants.S_IFDIR, link: constants.S_IFLNK, device: constants.S_IFCHR }

function padded(buffer) {
  return [buffer, Buffer.alloc((4 - (buffer.length % 4)) % 4)]
}

/**
 * @param entries - {name, kind, mode, data, device}: kind is file, folder, link (data is its target) or device
 * (device is its two numbers). A folder comes before what is in it.
 */
export function cpio(entries) {
  const parts = []
  const append = ({ name, kind = 'file', mode = 0o755, data = '', device = [0, 0] }, number) => {
    const content = Buffer.from(data)
    const type = number === 0 ? 0 : kinds[kind] | mode
    const links = kind === 'folder' ? 2 : 1
    const numbers = [number, type, 0, 0, links, 0, content.length, 0, 0, ...device, name.length + 1, 0]
    const header = `070701${numbers.map(value => value.toString(16).padStart(8, '0')).join('')}${name}\0`
    parts.push(...padded(Buffer.from(header, 'latin1')), ...padded(content))
  }
  entries.forEach((entry, i) => append(entry, i + 1))
  append({ name: 'TRAILER!!!' }, 0)
  return Buffer.concat(parts)
}

/** Collects entries for cpio(), each after the folders that it is in. */
export class Tree {
  entries = []
  #folders = new Set(['.'])

  folder(name) {
    if (this.#folders.has(name)) return
    this.folder(path.dirname(name))
    this.#folders.add(name)
    this.entries.push({ name, kind: 'folder' })
  }

  add(entry) {
    this.folder(path.dirname(entry.name))
    this.entries.push(entry)
  }

  /** busybox and a link to it for each of its programs. @param programs - their names */
  addBusybox(data, programs) {
    this.add({ name: 'bin/busybox', data })
    for (const name of programs)
      if (name !== 'busybox') this.add({ name: `bin/${name}`, kind: 'link', mode: 0o777, data: 'busybox' })
  }
}
