// The failover as a picture: what the users were answered in each 10 ms, and around the kill in each millisecond.
import { BIN_MS, type Seen } from './messages.js'

/** A moment to mark; milliseconds on the clock of {@link Seen}. */
export interface Mark {
  at: number
  label: string
  color: string
}

interface Panel {
  title: string
  from: number
  to: number
  /** Milliseconds of a column. */
  step: number
  marks: Mark[]
}

const WIDTH = 1000
const PANEL = 240
const LEFT = 50
const RIGHT = 30
const TOP = 44
/** A mark's label, above the columns. */
const LABEL = 15

/** @param marks - those within 300 ms of the first are marked in the close-up too */
export function timelineSvg(seen: Seen, marks: Mark[], title: string): string {
  const kill = marks[0]?.at
  const panels: Panel[] = [
    { title: 'Answers in each 10 ms', from: seen.begun, to: seen.ended, step: 10, marks }
  ]
  if (kill !== undefined)
    panels.push({
      title: 'Around the kill: answers in each millisecond',
      from: kill - 50,
      to: kill + Math.max(100, 2 * ((marks.find(mark => mark.label === 'live')?.at ?? kill) - kill)),
      step: 1,
      marks
    })
  const height = TOP + panels.length * (PANEL + 70)
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
<text x="${LEFT}" y="24" font-size="16">${escape(title)}</text>
${panels.map((panel, i) => drawn(seen, panel, TOP + i * (PANEL + 70))).join('\n')}
</svg>
`
}

function drawn({ bins, begun }: Seen, panel: Panel, top: number): string {
  const { from, to, step } = panel
  // At most two columns for a point.
  const width = Math.max(step, Math.ceil((to - from) / (2 * (WIDTH - LEFT - RIGHT) * step)) * step)
  const sums: number[] = []
  for (let at = from; at < to; at += width) {
    const first = Math.round((at - begun) / BIN_MS)
    let sum = 0
    for (let i = Math.max(0, first); i < first + width / BIN_MS; i++) sum += bins[i] ?? 0
    sums.push((sum * step) / width)
  }
  const most = Math.max(1, ...sums)
  const plot = top + 24
  const x = (at: number) => LEFT + ((at - from) / (to - from)) * (WIDTH - LEFT - RIGHT)
  const base = plot + PANEL
  const y = (n: number) => base - (n / most) * (PANEL - LABEL * panel.marks.length - 10)
  const path = sums.map((n, i) => `L${x(from + i * width).toFixed(1)} ${y(n).toFixed(1)}H${x(from + (i + 1) * width).toFixed(1)}`)
  const seconds = (at: number) => (step === 1 ? `${Math.round(at - (panel.marks[0]?.at ?? from))} ms` : `${((at - begun) / 1000).toFixed(1)} s`)
  const ticks = Array.from({ length: 11 }, (_, i) => from + ((to - from) * i) / 10)
  const inside = panel.marks.filter(mark => mark.at >= from && mark.at <= to)
  return [
    `<text x="${LEFT}" y="${top + 12}">${escape(panel.title)}</text>`,
    `<path d="M${LEFT} ${base}${path.join('')}V${base}Z" fill="#9dbfe0"/>`,
    `<path d="M${LEFT} ${plot}V${base}H${WIDTH - RIGHT}" fill="none" stroke="#444"/>`,
    `<text x="${LEFT - 6}" y="${y(most) + 4}" text-anchor="end">${Math.round(most)}</text>`,
    `<text x="${LEFT - 6}" y="${base}" text-anchor="end">0</text>`,
    ...ticks.map(
      at =>
        `<path d="M${x(at).toFixed(1)} ${base}v4" stroke="#444"/><text x="${x(at).toFixed(1)}" y="${base + 17}" text-anchor="middle">${seconds(at)}</text>`
    ),
    ...inside.map(
      ({ at, label, color }, i) =>
        `<path d="M${x(at).toFixed(1)} ${plot}V${base}" stroke="${color}" stroke-width="1.5"/>` +
        `<text x="${(x(at) + 4).toFixed(1)}" y="${plot + 11 + i * LABEL}" fill="${color}">${escape(label)}</text>`
    )
  ].join('\n')
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
