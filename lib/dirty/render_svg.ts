// A heat map as an SVG document. Equal neighbours become one rectangle.
import type { Plot } from './heat_map.js'
import {
  addressLabel,
  colour,
  legendShares,
  level,
  percent,
  resample,
  theme,
  timeLabel,
  timeTicks,
  timeToX,
  type Rgb
} from './scale.js'

/** More cells than this make a document that no viewer likes. */
const maxRows = 160
const maxColumns = 320
/** Shades; fewer make longer runs. */
const shades = 48

const hex = (rgb: Rgb): string => `#${rgb.map(part => part.toString(16).padStart(2, '0')).join('')}`
const escape = (text: string): string =>
  text.replace(/[&<>"]/g, character => `&#${character.codePointAt(0) ?? 0};`)
const round = (value: number): number => Math.round(value * 100) / 100

/** @internal */
export function drawSvg(plot: Plot, width: number, height: number): string {
  const left = 118
  const right = 84
  const top = 52
  const bottom = 56
  const plotWidth = width - left - right
  const plotHeight = height - top - bottom
  const rows = Math.min(maxRows, plot.rows)
  const columns = Math.min(maxColumns, plot.columns)
  const shares = resample(plot, rows, columns)
  const shade = (row: number, column: number): number =>
    Math.round(level(shares[row * columns + column] ?? 0) * shades)
  const out: string[] = []
  const text = (content: string, x: number, y: number, options: string): void => {
    out.push(`<text x="${round(x)}" y="${round(y)}" ${options}>${escape(content)}</text>`)
  }
  out.push(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12" fill="${hex(theme.faint)}" role="img">`,
    `<title>${escape(`${plot.title}: ${plot.subtitle}`)}</title>`,
    `<rect width="${width}" height="${height}" fill="${hex(theme.background)}"/>`
  )
  text(plot.title, left, 24, `font-size="17" font-weight="600" fill="${hex(theme.text)}"`)
  text(plot.subtitle, left, 42, '')
  out.push(
    `<g transform="translate(${left} ${top})" shape-rendering="crispEdges"><rect width="${plotWidth}" height="${plotHeight}" fill="${hex(colour(0))}"/>`
  )
  for (let row = 0; row < rows; row++) {
    const y = round(((rows - 1 - row) * plotHeight) / rows)
    for (let column = 0; column < columns; ) {
      const value = shade(row, column)
      let end = column + 1
      while (end < columns && shade(row, end) === value) end++
      if (value > 0)
        out.push(
          `<rect x="${round((column * plotWidth) / columns)}" y="${y}" width="${round(((end - column) * plotWidth) / columns)}" height="${round(plotHeight / rows)}" fill="${hex(colour(value / shades))}"/>`
        )
      column = end
    }
  }
  out.push('</g>', `<g stroke="${hex(theme.faint)}">`)
  const ticks = Math.max(2, Math.min(8, Math.floor(plotHeight / 50)))
  const times = timeTicks(plot.seconds(plot.columns), Math.floor(plotWidth / 90))
  const yOf = (i: number): number => top + plotHeight - (i * plotHeight) / ticks
  const xOf = (time: number): number => left + timeToX(plot, time) * plotWidth
  for (let i = 0; i <= ticks; i++)
    out.push(`<path d="M${left - 5} ${round(yOf(i))}h5"/>`)
  for (const time of times) out.push(`<path d="M${round(xOf(time))} ${top + plotHeight}v5"/>`)
  out.push('</g>')
  for (let i = 0; i <= ticks; i++)
    text(addressLabel(plot.address((i * plot.rows) / ticks)), left - 9, yOf(i) + 4, 'text-anchor="end" font-family="ui-monospace, monospace"')
  for (const time of times) text(timeLabel(time), xOf(time), top + plotHeight + 20, 'text-anchor="middle"')
  text('time since the first harvest', left + plotWidth / 2, height - 12, 'text-anchor="middle"')
  text('guest address', -(top + plotHeight / 2), 16, 'text-anchor="middle" transform="rotate(-90)"')
  const bar = left + plotWidth + 16
  const steps = 64
  for (let i = 0; i < steps; i++)
    out.push(
      `<rect x="${bar}" y="${round(top + (i * plotHeight) / steps)}" width="14" height="${round(plotHeight / steps + 0.5)}" fill="${hex(colour(1 - i / (steps - 1)))}"/>`
    )
  for (const share of legendShares)
    text(percent(share), bar + 20, top + (1 - level(share)) * plotHeight + 4, '')
  text('dirty', bar, top + plotHeight + 20, '')
  out.push('</svg>')
  return out.join('\n')
}
