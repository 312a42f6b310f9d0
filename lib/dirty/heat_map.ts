// A picture of which memory was written when: guest addresses upwards, time to the right, brighter where more
// pages were dirty. Bounded memory, however long it is fed.
import { invalid } from './errors.js'
import { pageRuns, type DirtyHarvest } from './harvest.js'
import { drawPng } from './render_png.js'
import { drawSvg } from './render_svg.js'
import { drawTerminal, type HeatMapTerminal } from './render_terminal.js'

export type { HeatMapTerminal } from './render_terminal.js'

/**
 * How fine a heat map is.
 *
 * @since 0.1.0
 */
export interface HeatMapOptions {
  /** Rows the tracked memory is divided into, at most (default 256): 8 bytes for each row and column. */
  rows?: number
  /** Columns at most (default 512, an even number). When full, pairs of them are put together. */
  columns?: number
  /** Above the picture. Default `'Dirty pages'`. */
  title?: string
  /** Which addresses are drawn: `'all'` tracked ones (default), or the `'touched'` ones from the lowest to the highest. */
  area?: 'all' | 'touched'
}

/**
 * The size of a picture, in pixels.
 *
 * @since 0.1.0
 */
export interface HeatMapImage {
  /** Default 1200. */
  width?: number
  /** Default 640. */
  height?: number
}

/**
 * What there is to draw: everything that a renderer needs.
 *
 * @internal
 */
export interface Plot {
  title: string
  /** "41,234 pages (161 MiB) in 30 harvests". */
  subtitle: string
  rows: number
  columns: number
  /** Mean share of dirty pages, 0 to 1; row 0 holds the lowest addresses. */
  share(row: number, column: number): number
  /** Seconds since the first harvest's beginning, at the left edge of column `at` (may be a fraction). */
  seconds(at: number): number
  /** The guest address at the lower edge of row `at`. */
  address(at: number): bigint
}

interface Part {
  slot: number
  guestAddress: bigint
  pageCount: number
  /** Pages of the parts before it. */
  before: number
}

interface Span {
  from: number
  to: number
}

const pageSize = 4096n

/**
 * Gathers harvests and draws them.
 *
 * @since 0.1.0
 */
export class HeatMap {
  readonly #title: string
  readonly #touchedOnly: boolean
  readonly #maxRows: number
  readonly #maxColumns: number
  #parts: Part[] = []
  #pages = 0
  #rows = 0
  /** Column by column: dirty pages of each row, summed up over the column's harvests. */
  #cells = new Float64Array(0)
  /** Begin and end of each column, in ms. */
  #spans: Span[] = []
  #harvestsPerColumn = 1
  #inLast = 0
  #harvests = 0
  #total = 0

  /** @throws DirtyError `EINVAL` */
  constructor(options: HeatMapOptions = {}) {
    this.#maxRows = options.rows ?? 256
    this.#maxColumns = options.columns ?? 512
    this.#title = options.title ?? 'Dirty pages'
    this.#touchedOnly = options.area === 'touched'
    if (!['all', 'touched', undefined].includes(options.area)) throw invalid("area must be 'all' or 'touched'")
    if (!Number.isInteger(this.#maxRows) || this.#maxRows < 1 || this.#maxRows > 65536)
      throw invalid('rows must be a whole number from 1 to 65536')
    if (!Number.isInteger(this.#maxColumns) || this.#maxColumns < 2 || this.#maxColumns > 65536 || this.#maxColumns % 2)
      throw invalid('columns must be an even number from 2 to 65536')
  }

  /** How many harvests it holds. */
  get harvests(): number {
    return this.#harvests
  }

  /** Takes the next harvest of a tracker in; all of them must be of the same slots. @throws DirtyError `EINVAL` */
  add(harvest: DirtyHarvest): void {
    if (this.#harvests === 0) this.#begin(harvest)
    if (
      harvest.slots.length !== this.#parts.length ||
      harvest.slots.some(({ slot, pageCount }, i) => {
        const part = this.#parts[i]
        return part?.slot !== slot || part.pageCount !== pageCount
      })
    )
      throw invalid('a heat map shows one set of memory slots: this harvest is of another')
    if (this.#spans.length === 0 || this.#inLast === this.#harvestsPerColumn) this.#nextColumn(harvest)
    const column = this.#spans.length - 1
    const span = this.#spans[column] as Span
    span.to = harvest.endedAt
    this.#inLast++
    this.#harvests++
    this.#total += harvest.pages
    const base = column * this.#rows
    harvest.slots.forEach(({ bitmap }, i) => {
      const before = (this.#parts[i] as Part).before
      for (const { first, count } of pageRuns(bitmap)) {
        let page = before + first
        let left = count
        while (left > 0) {
          const row = Math.floor((page * this.#rows) / this.#pages)
          const n = Math.min(left, this.#firstPage(row + 1) - page)
          this.#cells[base + row] = (this.#cells[base + row] ?? 0) + n
          page += n
          left -= n
        }
      }
    })
  }

  /** The picture as a PNG file. */
  toPng(image: HeatMapImage = {}): Buffer {
    return drawPng(this.#plot(), ...size(image))
  }

  /** The picture as an SVG document. */
  toSvg(image: HeatMapImage = {}): string {
    return drawSvg(this.#plot(), ...size(image))
  }

  /** The picture as lines of text for a terminal. */
  toTerminal(options: HeatMapTerminal = {}): string {
    return drawTerminal(this.#plot(), options)
  }

  #begin(harvest: DirtyHarvest): void {
    let before = 0
    this.#parts = harvest.slots.map(({ slot, guestAddress, pageCount }) => {
      const part = { slot, guestAddress, pageCount, before }
      before += pageCount
      return part
    })
    this.#pages = before
    this.#rows = Math.max(1, Math.min(this.#maxRows, before))
    this.#cells = new Float64Array(this.#rows * this.#maxColumns)
  }

  #nextColumn(harvest: DirtyHarvest): void {
    if (this.#spans.length === this.#maxColumns) this.#halve()
    this.#spans.push({ from: harvest.startedAt, to: harvest.endedAt })
    this.#inLast = 0
  }

  /** Every column is full when this is called. */
  #halve(): void {
    const half = this.#maxColumns / 2
    for (let column = 0; column < half; column++) {
      for (let row = 0; row < this.#rows; row++)
        this.#cells[column * this.#rows + row] =
          (this.#cells[2 * column * this.#rows + row] ?? 0) + (this.#cells[(2 * column + 1) * this.#rows + row] ?? 0)
    }
    this.#cells.fill(0, half * this.#rows)
    this.#spans = Array.from({ length: half }, (_, i) => ({
      from: (this.#spans[2 * i] as Span).from,
      to: (this.#spans[2 * i + 1] as Span).to
    }))
    this.#harvestsPerColumn *= 2
  }

  /** The first page of a row: of those for which floor(page * rows / pages) is the row. */
  #firstPage(row: number): number {
    return Math.ceil((row * this.#pages) / this.#rows)
  }

  /** The lowest and the highest row that are drawn. */
  #drawn(columns: number): [number, number] {
    const all: [number, number] = [0, this.#rows - 1]
    if (!this.#touchedOnly) return all
    const touched: boolean[] = []
    for (let i = 0; i < columns * this.#rows; i++) if (this.#cells[i]) touched[i % this.#rows] = true
    const lowest = touched.indexOf(true)
    return lowest < 0 ? all : [lowest, touched.lastIndexOf(true)]
  }

  #plot(): Plot {
    if (this.#harvests === 0) throw invalid('there is nothing to draw yet: add a harvest')
    const columns = this.#spans.length
    const [lowest, highest] = this.#drawn(columns)
    const first = (this.#spans[0] as Span).from
    const mebibytes = (this.#total * 4096) / 2 ** 20
    return {
      title: this.#title,
      subtitle: `${this.#total.toLocaleString('en')} pages (${mebibytes.toLocaleString('en', { maximumFractionDigits: 1 })} MiB) in ${this.#harvests.toLocaleString('en')} harvests`,
      rows: highest - lowest + 1,
      columns,
      share: (at, column) => {
        const row = lowest + at
        const harvests = column === columns - 1 ? this.#inLast : this.#harvestsPerColumn
        const pages = this.#firstPage(row + 1) - this.#firstPage(row)
        return Math.min(1, (this.#cells[column * this.#rows + row] ?? 0) / (pages * harvests))
      },
      seconds: at => {
        const column = Math.min(Math.floor(at), columns - 1)
        const { from, to } = this.#spans[column] as Span
        return (from + (to - from) * (at - column) - first) / 1000
      },
      address: at => {
        const page = Math.min(Math.round(((lowest + at) * this.#pages) / this.#rows), this.#pages)
        const part = this.#parts.findLast(({ before }) => before <= page)
        return (part?.guestAddress ?? 0n) + BigInt(page - (part?.before ?? 0)) * pageSize
      }
    }
  }
}

function size({ width = 1200, height = 640 }: HeatMapImage): [number, number] {
  for (const [name, value, least] of [
    ['width', width, 320],
    ['height', height, 200]
  ] as const)
    if (!Number.isInteger(value) || value < least || value > 16384)
      throw invalid(`${name} must be a whole number of pixels from ${least} to 16384`)
  return [width, height]
}
