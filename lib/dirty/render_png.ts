// A heat map as a PNG picture.
import { PNG } from 'pngjs'
import { advance, drawText } from './font.js'
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

/** @internal */
export function drawPng(plot: Plot, width: number, height: number): Buffer {
  const png = new PNG({ width, height })
  const fill = (x: number, y: number, w: number, h: number, [red, green, blue]: Rgb): void => {
    const right = Math.min(width, x + w)
    const bottom = Math.min(height, y + h)
    for (let row = Math.max(0, y); row < bottom; row++)
      for (let column = Math.max(0, x); column < right; column++) {
        const at = (row * width + column) * 4
        png.data[at] = red
        png.data[at + 1] = green
        png.data[at + 2] = blue
        png.data[at + 3] = 255
      }
  }
  const textWidth = (text: string, scale: number): number => (text.length * advance - 1) * scale
  const write = (text: string, x: number, y: number, scale: number, tint: Rgb): void => {
    drawText(text, (dx, dy) => {
      fill(x + dx * scale, y + dy * scale, scale, scale, tint)
    })
  }
  // Small pictures have small letters.
  const scale = width >= 900 ? 2 : 1
  const letter = 7 * scale
  const left = textWidth(addressLabel(plot.address(plot.rows)), scale) + 14 * scale
  const right = 54 * scale
  const top = 26 * scale
  const bottom = 28 * scale
  const plotWidth = Math.max(16, width - left - right)
  const plotHeight = Math.max(16, height - top - bottom)

  fill(0, 0, width, height, theme.background)
  write(plot.title, left, 5 * scale, scale, theme.text)
  const below = textWidth(plot.title, scale) + 12 * scale
  if (left + below + textWidth(plot.subtitle, scale) < width) write(plot.subtitle, left + below, 5 * scale, scale, theme.faint)

  const columns = Math.min(plotWidth, Math.max(1, plot.columns))
  const rows = Math.min(plotHeight, plot.rows)
  const shares = resample(plot, rows, columns)
  for (let row = 0; row < rows; row++) {
    const y = Math.floor(((rows - 1 - row) * plotHeight) / rows)
    const next = Math.floor(((rows - row) * plotHeight) / rows)
    for (let column = 0; column < columns; column++) {
      const x = Math.floor((column * plotWidth) / columns)
      const after = Math.floor(((column + 1) * plotWidth) / columns)
      fill(left + x, top + y, after - x, next - y, colour(level(shares[row * columns + column] ?? 0)))
    }
  }

  const ticks = Math.max(2, Math.min(8, Math.floor(plotHeight / (letter * 4))))
  for (let i = 0; i <= ticks; i++) {
    const y = top + plotHeight - Math.round((i * plotHeight) / ticks)
    const label = addressLabel(plot.address((i * plot.rows) / ticks))
    fill(left - 4 * scale, Math.min(y, top + plotHeight - 1), 4 * scale, 1, theme.faint)
    write(label, left - 6 * scale - textWidth(label, scale), y - Math.floor(letter / 2), scale, theme.faint)
  }
  write('address', left - 6 * scale - textWidth('address', scale), 12 * scale, scale, theme.faint)
  const times = timeTicks(plot.seconds(plot.columns), Math.floor(plotWidth / (60 * scale)))
  for (const time of times) {
    const x = left + Math.round(timeToX(plot, time) * (plotWidth - 1))
    const label = timeLabel(time)
    fill(x, top + plotHeight, 1, 4 * scale, theme.faint)
    write(
      label,
      Math.max(left - 4 * scale, Math.min(x - Math.floor(textWidth(label, scale) / 2), width - textWidth(label, scale) - 2)),
      top + plotHeight + 6 * scale,
      scale,
      theme.faint
    )
  }
  const axis = 'time since the first harvest'
  write(axis, left + Math.floor((plotWidth - textWidth(axis, scale)) / 2), height - letter - 3 * scale, scale, theme.faint)

  const bar = left + plotWidth + 8 * scale
  for (let i = 0; i < plotHeight; i++) fill(bar, top + i, 8 * scale, 1, colour(1 - i / (plotHeight - 1)))
  for (const share of legendShares) {
    const y = top + Math.round((1 - level(share)) * (plotHeight - 1))
    write(percent(share), bar + 11 * scale, Math.max(top, Math.min(y - Math.floor(letter / 2), top + plotHeight - letter)), scale, theme.faint)
  }
  write('dirty', bar, 15 * scale, scale, theme.faint)
  return PNG.sync.write(png)
}
