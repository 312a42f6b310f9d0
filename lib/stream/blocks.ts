// The blocks of an image that comes: what is here, why it came, and when; and a picture of that.
import type { FetchClass } from './order.js'

/**
 * Where a chunk of an image is: not here; nothing but zeros; here before the stream was opened; or come since, by why.
 *
 * @since 0.1.0
 */
export type BlockState = 'missing' | 'zeros' | 'kept' | FetchClass

/** @internal */
export const blockStates: readonly BlockState[] = ['missing', 'zeros', 'kept', 'demand', 'gate', 'profile', 'ahead', 'fill']

/**
 * The chunks of an image that comes.
 *
 * @since 0.1.0
 */
export interface Blocks {
  /** Of each chunk. */
  state: BlockState[]
  /** When each came, in milliseconds since the stream was opened; NaN for those that did not. */
  atMs: Float64Array
}

const words: Record<BlockState, string> = {
  missing: 'not here yet',
  zeros: 'nothing but zeros',
  kept: 'here before',
  demand: 'waited for by a read',
  gate: 'before the start',
  profile: 'of the profile, after it',
  ahead: 'behind a read',
  fill: 'of the rest'
}
const colours: Record<BlockState, string> = {
  missing: '#c9ced6',
  zeros: '#eef0f3',
  kept: '#8c96a3',
  demand: '#c4314b',
  gate: '#1b4fa0',
  profile: '#5b93e6',
  ahead: '#e0962f',
  fill: '#7cc39a'
}
/** From the first to the last. */
const ramp = ['#fde725', '#a0da39', '#4ac16d', '#1fa187', '#277f8e', '#365c8d', '#46327e', '#440154']

const columns = 64
const mostCells = columns * 64
const size = 8
const width = columns * size

/** Of several chunks in one cell, what says most: what was waited for, then what is missing, then what came. */
const weight: readonly BlockState[] = ['zeros', 'kept', 'fill', 'ahead', 'profile', 'gate', 'missing', 'demand']

/**
 * A picture of the image's blocks from its start to its end, as SVG: by state, and by the order in which they came. A
 * cell stands for several chunks where there are many.
 *
 * @param title - above it
 * @since 0.1.0
 */
export function blocksPicture(blocks: Blocks, title: string): string {
  const { state, atMs } = blocks
  const cells = Math.min(mostCells, state.length)
  const rows = Math.ceil(cells / columns)
  const order = ranks(atMs)
  const byState = new Map<string, string>()
  const byOrder = new Map<string, string>()
  const counts = new Map<BlockState, number>()
  for (const one of state) counts.set(one, (counts.get(one) ?? 0) + 1)
  for (let cell = 0; cell < cells; cell++) {
    const from = Math.floor((cell * state.length) / cells)
    const to = Math.floor(((cell + 1) * state.length) / cells)
    let shown: BlockState = 'zeros'
    let first = Infinity
    for (let chunk = from; chunk < to; chunk++) {
      const its = state[chunk] as BlockState
      if (weight.indexOf(its) > weight.indexOf(shown)) shown = its
      first = Math.min(first, order[chunk] as number)
    }
    paint(byState, cell, colours[shown])
    paint(byOrder, cell, first === Infinity ? colours.zeros : (ramp[Math.min(ramp.length - 1, Math.floor(first * ramp.length))] as string))
  }
  const legend = blockStates.filter(name => (counts.get(name) ?? 0) > 0)
  const top = 34
  const below = top + rows * size + 22
  const height = below + legend.length * 18 + 8
  const right = width + 32
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 ${2 * width + 56} ${height}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="11" fill="#33404c" role="img">`,
    `<title>${escaped(title)}</title><rect x="-12" width="100%" height="100%" fill="#fff"/>`,
    `<text y="16" font-size="13" font-weight="600">${escaped(title)}</text>`,
    `<text y="29">each cell ${Math.ceil(state.length / cells) === 1 ? 'one chunk' : `about ${Math.round(state.length / cells)} chunks`}, from the image's start; by state</text>`,
    `<text x="${right}" y="29">by the order in which they came</text>`,
    `<g transform="translate(0 ${top})" shape-rendering="crispEdges">${paths(byState)}</g>`,
    `<g transform="translate(${right} ${top})" shape-rendering="crispEdges">${paths(byOrder)}</g>`,
    ...legend.map((name, i) => {
      const y = below + i * 18
      return `<rect y="${y - 9}" width="11" height="11" fill="${colours[name]}"/><text x="18" y="${y}">${words[name]}: ${counts.get(name) ?? 0}</text>`
    }),
    ...ramp.map((colour, i) => `<rect x="${right + 40 + i * 22}" y="${below - 9}" width="22" height="11" fill="${colour}"/>`),
    `<text x="${right}" y="${below}">first</text><text x="${right + 48 + ramp.length * 22}" y="${below}">last</text>`,
    '</svg>'
  ].join('\n')
}

/** All cells of a colour are one path. */
function paint(picture: Map<string, string>, cell: number, colour: string): void {
  const square = `M${(cell % columns) * size} ${Math.floor(cell / columns) * size}h${size - 1}v${size - 1}h-${size - 1}z`
  picture.set(colour, (picture.get(colour) ?? '') + square)
}

const paths = (picture: Map<string, string>): string => [...picture].map(([colour, d]) => `<path fill="${colour}" d="${d}"/>`).join('')

/** Of each chunk that came, from 0 to 1; the others infinite. */
function ranks(atMs: Float64Array): Float64Array {
  const came = Array.from(atMs.keys()).filter(i => !Number.isNaN(atMs[i]))
  came.sort((a, b) => (atMs[a] as number) - (atMs[b] as number))
  const result = new Float64Array(atMs.length).fill(Infinity)
  came.forEach((chunk, i) => (result[chunk] = i / came.length))
  return result
}

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
