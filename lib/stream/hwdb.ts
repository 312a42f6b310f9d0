// Where udev looks in its database of hardware (hwdb.bin) at a start: a trie in which it seeks what each device is, a page here
// and there of a large file. Its format is systemd's, and no tool tells where a search goes. What does not fit ends a search:
// hints mislead at worst.

const PAGE = 4096
/** Linux reads so much around a page of a mapped file that is not there yet, half of it before that. */
const AROUND = 128 << 10
/** Bytes that are looked at; what is beyond is not. Systemd's own takes some tens of KiB. */
const MAX_LOOKED = 8 << 20
const MAX_DEPTH = 256
const MAX_TEXT = 2048
/** Of what the head says of the parts' sizes, no less. */
const NODE = 24
const CHILD = 16
const VALUE = 16

const bios = 'bvnSeaBIOS:bvr1.16.2:bd04/01/2014:br0.0:svnQEMU:pnStandardPC:pvrpc:cvnQEMU:ct1:cvrpc:'

/** Devices of most virtual machines, as udev asks for them. */
const devices = [
  'pci:v00008086d00001237sv00001AF4sd00001100bc06sc00i00',
  'pci:v00008086d00007000sv00001AF4sd00001100bc06sc01i00',
  'pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80',
  'pci:v00008086d00007113sv00001AF4sd00001100bc06sc80i00',
  'pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00',
  'pci:v00008086d00002918sv00001AF4sd00001100bc06sc01i00',
  'pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01',
  'pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00',
  'pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00',
  'pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00',
  'pci:v00001B36d00000008sv00001AF4sd00001100bc06sc00i00',
  'pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00',
  ...['PNP0A03', 'PNP0303', 'PNP0501', 'PNP0C0F', 'LNXPWRBN', 'LNXSYSTM', 'ACPI0007', 'QEMU0002'].map(name => `acpi:${name}:`),
  'input:b0011v0001p0001eAB41-e0,1,4,11,14,k71',
  'evdev:input:b0011v0001p0001eAB41-e0,1,4,11,14,k71',
  `evdev:name:AT Translated Set 2 keyboard:dmi:${bios}`,
  `evdev:atkbd:dmi:${bios}`,
  `dmi:${bios}`
]

/**
 * The bytes of the database that a start reads, in the order of the file.
 *
 * @param file - its contents
 * @param asked - devices; by default those of most virtual machines
 * @internal
 */
export function hardwareReads(file: Buffer, asked: readonly string[] = devices): (readonly [from: number, to: number])[] {
  const pages = new Set<number>()
  const looked = { left: MAX_LOOKED }
  for (const device of asked)
    try {
      new Search(file, pages, looked).run(device)
    } catch (error) {
      // What is named lies outside of the file.
      if (!(error instanceof RangeError)) throw error
    }
  const reads: [from: number, to: number][] = []
  for (const page of [...pages].sort((a, b) => a - b)) {
    const [from, to] = [Math.max(0, page * PAGE - AROUND / 2), Math.min(file.length, page * PAGE + AROUND / 2)]
    const last = reads.at(-1)
    if (last && from <= last[1]) last[1] = to
    else reads.push([from, to])
  }
  return reads
}

interface Node {
  at: number
  /** Where the text lies that all below it begin with. */
  prefix: number
  children: number
  values: number
}

class Search {
  readonly #file: Buffer
  readonly #pages: Set<number>
  readonly #looked: { left: number }
  readonly #nodeSize: number
  readonly #childSize: number
  readonly #valueSize: number

  constructor(file: Buffer, pages: Set<number>, looked: { left: number }) {
    this.#file = file
    this.#pages = pages
    this.#looked = looked
    if (file.toString('latin1', 0, 8) !== 'KSLPHHRH') throw new RangeError('no database of hardware')
    this.#nodeSize = this.#number(32)
    this.#childSize = this.#number(40)
    this.#valueSize = this.#number(48)
    if (this.#nodeSize < NODE || this.#childSize < CHILD || this.#valueSize < VALUE) throw new RangeError('no database of hardware')
  }

  run(device: string): void {
    let at = 0
    for (let node: Node | undefined = this.#node(this.#number(56)); node; ) {
      for (let i = 0; ; i++) {
        const letter = this.#byte(node.prefix + i)
        if (letter === 0) break
        if (isWild(letter)) return this.#wild(node, i, '', 0)
        if (letter !== device.charCodeAt(at++)) return
      }
      for (const letter of wild) {
        const child = this.#child(node, letter.charCodeAt(0))
        if (child) this.#wild(child, 0, letter, 0)
      }
      if (at >= device.length) return this.#values(node)
      node = this.#child(node, device.charCodeAt(at++))
    }
  }

  /** All below a node with a wildcard in its text. Of what a pattern has, nothing but a last star is taken to fit. */
  #wild(node: Node, skipped: number, pattern: string, depth: number): void {
    if (depth > MAX_DEPTH) return
    const text = pattern + this.#string(node.prefix + skipped)
    for (let i = 0; i < node.children; i++) {
      const at = node.at + this.#nodeSize + i * this.#childSize
      this.#wild(this.#node(this.#number(at + 8)), 0, text + String.fromCharCode(this.#byte(at)), depth + 1)
    }
    if (text === '*') this.#values(node)
  }

  /** They are read where they fit: each a name and what it is. */
  #values(node: Node): void {
    for (let i = 0; i < node.values; i++) {
      const at = node.at + this.#nodeSize + node.children * this.#childSize + i * this.#valueSize
      for (const part of [at, at + 8]) this.#string(this.#number(part))
    }
  }

  #node(at: number): Node {
    return { at, prefix: this.#number(at), children: this.#byte(at + 8), values: this.#number(at + 16) }
  }

  /** By halves, as children are in order. */
  #child(node: Node, letter: number): Node | undefined {
    let [low, high] = [0, node.children]
    while (low < high) {
      const middle = (low + high) >> 1
      const at = node.at + this.#nodeSize + middle * this.#childSize
      const found = this.#byte(at)
      if (found === letter) return this.#node(this.#number(at + 8))
      if (found < letter) low = middle + 1
      else high = middle
    }
    return undefined
  }

  #byte(at: number): number {
    this.#look(at, 1)
    return this.#file.readUInt8(at)
  }

  #number(at: number): number {
    this.#look(at, 8)
    return Number(this.#file.readBigUInt64LE(at))
  }

  #string(at: number): string {
    const text = this.#file.toString('latin1', at, at + MAX_TEXT)
    const end = text.indexOf('\0')
    if (end < 0) throw new RangeError('a text without an end')
    this.#look(at, end + 1)
    return text.slice(0, end)
  }

  #look(at: number, size: number): void {
    this.#looked.left -= size
    if (this.#looked.left < 0 || at + size > this.#file.length) throw new RangeError('it has no end')
    for (let page = Math.floor(at / PAGE); page <= Math.floor((at + size - 1) / PAGE); page++) this.#pages.add(page)
  }
}

const wild = '*?['
const isWild = (letter: number): boolean => wild.includes(String.fromCharCode(letter))
