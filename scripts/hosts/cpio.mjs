// Writes an archive that the kernel takes for its first root file system (cpio, format newc).
import { constants } from 'node:fs'

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
