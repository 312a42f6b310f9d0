// A heat map as lines of text: half blocks in colour, or letters where there is none.
import process from 'node:process'
import type { WriteStream } from 'node:tty'
import { invalid } from './errors.js'
import type { Plot } from './heat_map.js'
import { addressLabel, colour, level, percent, resample, timeLabel, timeTicks, timeToX, type Rgb } from './scale.js'

/**
 * How to draw in a terminal.
 *
 * @since 0.1.0
 */
export interface HeatMapTerminal {
  /** Characters a line. Default the terminal's, 80 where there is none. */
  width?: number
  /** Lines. Default 24. */
  height?: number
  /**
   * `'truecolor'` 24 bit, `'256'`, `'none'` plain ASCII. Default what `stream` can show; none when it is no terminal or
   * the environment has NO_COLOR.
   */
  colours?: 'truecolor' | '256' | 'none'
  /** Where it will be written. Default the standard output. */
  stream?: NodeJS.WritableStream
}

const letters = ' .:-=+*#%@'

function coloursOf(stream: NodeJS.WritableStream): 'truecolor' | '256' | 'none' {
  const terminal = stream as Partial<WriteStream>
  if (terminal.isTTY !== true || (process.env['NO_COLOR'] ?? '') !== '') return 'none'
  const depth = terminal.getColorDepth?.() ?? 1
  return depth >= 24 ? 'truecolor' : depth >= 8 ? '256' : 'none'
}

/** The nearest of the 6 by 6 by 6 cube. */
function cube([red, green, blue]: Rgb): number {
  const part = (value: number): number => Math.round((value / 255) * 5)
  return 16 + 36 * part(red) + 6 * part(green) + part(blue)
}

/** @internal */
export function drawTerminal(plot: Plot, options: HeatMapTerminal): string {
  const stream = options.stream ?? process.stdout
  const width = options.width ?? (stream as Partial<WriteStream>).columns ?? 80
  const height = options.height ?? 24
  if (!Number.isInteger(width) || width < 30 || !Number.isInteger(height) || height < 8)
    throw invalid('a terminal picture needs at least 30 columns and 8 lines')
  const colours = options.colours ?? coloursOf(stream)
  const gutter = addressLabel(plot.address(plot.rows)).length + 1
  const columns = width - gutter - 1
  const lines = height - 4
  const rows = colours === 'none' ? lines : lines * 2
  const shares = resample(plot, rows, columns)
  // Row 0 is the lowest address.
  const at = (fromTop: number, column: number): number =>
    level(shares[(rows - 1 - fromTop) * columns + column] ?? 0)
  const code = (ground: 38 | 48, tint: Rgb): string =>
    colours === 'truecolor' ? `${ground};2;${tint.join(';')}` : `${ground};5;${cube(tint)}`
  const cell = (line: number, column: number): string => {
    if (colours === 'none')
      return letters[Math.ceil(at(line, column) * (letters.length - 1))] ?? ' '
    return `\x1b[${code(38, colour(at(2 * line, column)))};${code(48, colour(at(2 * line + 1, column)))}m▀`
  }
  const reset = colours === 'none' ? '' : '\x1b[0m'
  const rule = colours === 'none' ? '|' : '▏'

  const out = [`${plot.title}: ${plot.subtitle}`.slice(0, width)]
  for (let line = 0; line < lines; line++) {
    const labelled = line % 4 === 0 || line === lines - 1
    const edge = line === 0 ? plot.rows : line === lines - 1 ? 0 : (plot.rows * (lines - line)) / lines
    let text = `${(labelled ? addressLabel(plot.address(edge)) : '').padStart(gutter - 1)} ${rule}`
    for (let column = 0; column < columns; column++) text += cell(line, column)
    out.push(text + reset)
  }
  const axis = new Array<string>(width).fill(' ')
  for (const time of timeTicks(plot.seconds(plot.columns), Math.floor(columns / 12))) {
    const label = timeLabel(time)
    const start = Math.min(gutter + 1 + Math.round(timeToX(plot, time) * (columns - 1)), width - label.length)
    axis.splice(start, label.length, ...label)
  }
  out.push(axis.join('').trimEnd())
  const steps = 24
  let legend = `${' '.repeat(gutter)} ${percent(0)} `
  for (let i = 0; i < steps; i++) {
    const share = (i / (steps - 1)) ** 2
    legend +=
      colours === 'none'
        ? (letters[Math.ceil(level(share) * (letters.length - 1))] ?? ' ')
        : `\x1b[${code(48, colour(level(share)))}m `
  }
  out.push(`${legend}${reset} ${percent(1)} of the pages dirty`)
  return `${out.join('\n')}\n`
}
