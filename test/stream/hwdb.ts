// A database of hardware as systemd writes it: a head, nodes (children before their parents), texts.

/** What all below a node begins with; its children by their first letters; what is said where a device's name ends there. */
export interface HardwareNode {
  prefix?: string
  children?: Record<string, HardwareNode>
  values?: [name: string, value: string][]
}

const HEAD = 80
const NODE = 24
const CHILD = 16
const VALUE = 32

/**
 * @param apart - nodes, and texts, begin at multiples of this
 * @returns the file, and where each node lies and each text
 */
export function hardwareDatabase(root: HardwareNode, apart = 8): { file: Buffer; nodes: Map<HardwareNode, number>; texts: Map<string, number> } {
  const up = (at: number): number => Math.ceil(at / apart) * apart
  const nodes = new Map<HardwareNode, number>()
  let at = up(HEAD)
  const place = (node: HardwareNode): void => {
    Object.values(node.children ?? {}).forEach(place)
    nodes.set(node, at)
    at = up(at + NODE + CHILD * Object.keys(node.children ?? {}).length + VALUE * (node.values?.length ?? 0))
  }
  place(root)
  const texts = new Map<string, number>()
  for (const node of nodes.keys())
    for (const text of [node.prefix ?? '', ...(node.values ?? []).flat()])
      if (!texts.has(text)) {
        texts.set(text, at)
        at = up(at + text.length + 1)
      }
  // Nothing in it is a hole.
  const file = Buffer.alloc(at, 0x55)
  const number = (offset: number, value: number): number => file.writeBigUInt64LE(BigInt(value), offset)
  file.write('KSLPHHRH', 'latin1')
  ;[252, at, HEAD, NODE, CHILD, VALUE, nodes.get(root) as number].forEach((value, i) => number(8 + 8 * i, value))
  for (const [text, offset] of texts) file.write(`${text}\0`, offset, 'latin1')
  for (const [node, offset] of nodes) {
    const children = Object.entries(node.children ?? {}).sort(([a], [b]) => a.charCodeAt(0) - b.charCodeAt(0))
    number(offset, texts.get(node.prefix ?? '') as number)
    file[offset + 8] = children.length
    number(offset + 16, node.values?.length ?? 0)
    children.forEach(([letter, child], i) => {
      const entry = offset + NODE + i * CHILD
      file[entry] = letter.charCodeAt(0)
      number(entry + 8, nodes.get(child) as number)
    })
    node.values?.forEach(([name, value], i) => {
      const entry = offset + NODE + children.length * CHILD + i * VALUE
      number(entry, texts.get(name) as number)
      number(entry + 8, texts.get(value) as number)
    })
  }
  return { file, nodes, texts }
}
