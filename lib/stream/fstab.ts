// What a system's /etc/fstab mounts from partitions, and how the one that it means is known.
import { withoutEnd } from './hints.js'

/** Of a file system and of the partition in which it lies. */
interface Candidate {
  /** Of the file system, in lower case. */
  uuid: string
  label: string
  partition: { uuid: string; label: string; number?: number }
}

/** @internal */
export interface Mount {
  /** Where. */
  folder: string
  /** What, as it is written there. */
  what: string
  is: (one: Candidate) => boolean
}

/** Of the first disk; which one that is called elsewhere does not matter. */
const firstDisk = /^\/dev\/(?:[svh]da|xvda|nvme0n1p|mmcblk0p)(\d+)$/
/** No files lie in these, or they are on no disk. */
const others = /^(?:swap|tmpfs|proc|sysfs|devpts|none|nfs4?|cifs|9p|virtiofs)$/

/**
 * Mounts from partitions that happen at a start, besides the root's, outer ones first.
 *
 * @internal
 */
export function mountsIn(fstab: string): Mount[] {
  const mounts: Mount[] = []
  for (const line of fstab.split('\n')) {
    const [what = '', folder = '', type = '', options = ''] = line.trim().split(/\s+/).map(unescaped)
    if (what.startsWith('#') || !/^\/./.test(folder) || others.test(type) || options.split(',').includes('noauto') || options.split(',').includes('bind')) continue
    const is = meant(what)
    if (is) mounts.push({ folder: withoutEnd(folder, '/'), what, is })
  }
  const depth = ({ folder }: Mount): number => folder.split('/').length
  return mounts.sort((a, b) => depth(a) - depth(b))
}

/** Undefined when it is no partition's name. */
function meant(what: string): Mount['is'] | undefined {
  const [, tag = '', value = ''] = /^(UUID|LABEL|PARTUUID|PARTLABEL)="?([^"]*)"?$/.exec(what) ?? /^\/dev\/disk\/by-(uuid|label|partuuid|partlabel)\/(.+)$/.exec(what) ?? []
  if (value === '' && tag !== '') return undefined
  switch (tag.toUpperCase()) {
    case 'UUID':
      return ({ uuid }) => uuid === value.toLowerCase()
    case 'LABEL':
      return ({ label }) => label === value
    case 'PARTUUID':
      return ({ partition }) => partition.uuid === value.toLowerCase()
    case 'PARTLABEL':
      return ({ partition }) => partition.label === value
  }
  if (!what.startsWith('/dev/')) return undefined
  const number = Number(firstDisk.exec(what)?.[1])
  return ({ partition }) => partition.number === number
}

/** Spaces in it are written as their octal codes. */
const unescaped = (word: string): string => word.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(parseInt(code, 8)))
