// What all renderings of a heat map share: colours, ticks, labels, and the plot at another size.
import type { Plot } from './heat_map.js'

/** @internal */
export type Rgb = readonly [red: number, green: number, blue: number]

/** From nothing to every page, dark to bright, so that it also reads in grey. */
const stops: readonly Rgb[] = [
  [16, 20, 38],
  [48, 40, 110],
  [132, 44, 132],
  [214, 72, 92],
  [248, 150, 60],
  [254, 240, 170]
]

/** The background of pictures, and the colours of text on it. @internal */
export const theme = { background: [11, 14, 27] as Rgb, text: [226, 230, 240] as Rgb, faint: [128, 138, 166] as Rgb }

/** Few dirty pages must be seen beside many: the root, with 0 kept apart. @internal */
export function level(share: number): number {
  return share <= 0 ? 0 : 0.12 + 0.88 * Math.sqrt(share)
}

/** @internal */
export function colour(at: number): Rgb {
  const scaled = Math.max(0, Math.min(1, at)) * (stops.length - 1)
  const index = Math.min(Math.floor(scaled), stops.length - 2)
  const low = stops[index] as Rgb
  const high = stops[index + 1] as Rgb
  const mix = (i: 0 | 1 | 2): number => Math.round(low[i] + (high[i] - low[i]) * (scaled - index))
  return [mix(0), mix(1), mix(2)]
}

/** Shares that the legend names. @internal */
export const legendShares = [1, 0.5, 0.25, 0.1, 0.01, 0] as const

/** @internal */
export function percent(share: number): string {
  return `${Math.round(share * 100)} %`
}

/** Round times from 0 to `last`, about `count` of them. @internal */
export function timeTicks(last: number, count: number): number[] {
  if (!(last > 0)) return [0]
  const raw = last / Math.max(1, count)
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = power * ([1, 2, 5, 10].find(factor => factor * power >= raw) ?? 10)
  const ticks: number[] = []
  for (let i = 0; i * step <= last * (1 + 1e-9); i++) ticks.push(i * step)
  return ticks
}

/** @internal */
export function timeLabel(seconds: number): string {
  return `${Number(seconds.toPrecision(6))} s`
}

/** Where a time lies, as a fraction of the plot's width. @internal */
export function timeToX(plot: Plot, seconds: number): number {
  let column = 0
  while (column < plot.columns && plot.seconds(column + 1) < seconds) column++
  if (column >= plot.columns) return 1
  const from = plot.seconds(column)
  const to = plot.seconds(column + 1)
  return (column + (to > from ? (seconds - from) / (to - from) : 0)) / plot.columns
}

/** @internal */
export function addressLabel(address: bigint): string {
  return `0x${address.toString(16)}`
}

/**
 * The plot at another size: enlarged by repeating, reduced by the mean of what falls together.
 *
 * @internal
 */
export function resample(plot: Plot, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns)
  const span = (i: number, of: number, from: number): [number, number] => {
    const begin = Math.floor((i * from) / of)
    return [begin, Math.max(begin + 1, Math.floor(((i + 1) * from) / of))]
  }
  for (let row = 0; row < rows; row++) {
    const [top, bottom] = span(row, rows, plot.rows)
    for (let column = 0; column < columns; column++) {
      const [left, right] = span(column, columns, plot.columns)
      let sum = 0
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += plot.share(y, x)
      out[row * columns + column] = sum / ((bottom - top) * (right - left))
    }
  }
  return out
}
