// What libvirt has found out about QEMU, handed from hosts that have ended to later ones: it costs a second of CPU time.
// libvirt itself asks again when QEMU, libvirt or the kernel is not the same any more.
import { copyFileSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { cacheFolder } from './debian.mjs'

const kept = path.join(cacheFolder, 'capabilities')
const inHost = folder => path.join(folder, 'var/cache/libvirt/qemu/capabilities')

function copyAll(from, to) {
  let names = []
  try {
    names = readdirSync(from).filter(name => name.endsWith('.xml'))
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
  if (names.length > 0) mkdirSync(to, { recursive: true })
  for (const name of names) {
    const whole = path.join(to, `${name}.${process.pid}`)
    copyFileSync(path.join(from, name), whole)
    renameSync(whole, path.join(to, name))
  }
}

/** Gives a host that is to be what earlier ones knew. */
export function lend(folder) {
  copyAll(kept, inHost(folder))
}

/** Keeps what a host knows. */
export function keep(folder) {
  copyAll(inHost(folder), kept)
}
