// The picture of a migration's rounds: a table and bars for a terminal, an SVG for a file.
import type { MigrationResult, MigrationRound } from '../migrate/index.js'
import { bytes, count } from './common.js'

const blocks = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉']

function bar(share: number, width: number): string {
  const eighths = Math.round(Math.max(0, Math.min(1, share)) * width * 8)
  return '█'.repeat(eighths >> 3) + (blocks[eighths & 7] ?? '')
}

const most = (rounds: MigrationRound[], of: (round: MigrationRound) => number): number => Math.max(1, ...rounds.map(of))
const kinds = [
  ['zeroPages', 'zero', '#b9c4cf'],
  ['rawPages', 'as they are', '#3b6ea5'],
  ['compressedPages', 'compressed', '#5aa469'],
  ['deltaPages', 'difference', '#e0a030']
] as const

/** A line for each round, the last one the stop's. */
export function roundsTable({ rounds, blackoutMs }: { rounds: MigrationRound[]; blackoutMs: number | undefined }): string {
  const pages = most(rounds, round => round.pages - round.zeroPages)
  const lines = rounds.map((round, i) =>
    [
      String(round.round).padStart(5),
      count(round.pages).padStart(9),
      count(round.zeroPages).padStart(9),
      bytes(round.bytes).padStart(10),
      `${round.durationMs.toFixed(1)} ms`.padStart(11),
      (i === rounds.length - 1 ? 'stopped' : `${count(round.dirtyPagesPerSecond)}/s`).padStart(11),
      ` ${bar((round.pages - round.zeroPages) / pages, 24)}`
    ].join(' ')
  )
  const head = ['round', '    pages', '  of zero', '   on wire', '       took', '    written', ' pages that hold something'].join(' ')
  const still = blackoutMs === undefined ? 'How long the machine stood still is not known.' : `The machine stood still for ${blackoutMs.toFixed(1)} ms.`
  return [head, ...lines, still].join('\n')
}

/** Bytes on the wire, pages by how they were sent, and the rate at which the guest wrote, round by round. */
export function roundsSvg(result: MigrationResult): string {
  const { rounds } = result
  const [left, top, height] = [64, 56, 200]
  const step = Math.max(34, Math.min(90, 720 / Math.max(1, rounds.length)))
  const width = left + step * rounds.length + 76
  const pages = most(rounds, round => round.pages - round.zeroPages)
  const rate = most(rounds, round => round.dirtyPagesPerSecond)
  const y = (share: number): number => top + height * (1 - share)
  const text = (x: number, at: number, words: string, more = ''): string =>
    `<text x="${x.toFixed(1)}" y="${at.toFixed(1)}"${more}>${words}</text>`
  const parts: string[] = []
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(`<line x1="${left}" x2="${width - 76}" y1="${y(share)}" y2="${y(share)}" stroke="#e3e8ed"/>`)
    parts.push(text(left - 6, y(share) + 4, count(pages * share), ' text-anchor="end"'))
    parts.push(text(width - 70, y(share) + 4, `${count(rate * share)}/s`, ' fill="#b03a3a"'))
  }
  const points: string[] = []
  rounds.forEach((round, i) => {
    const x = left + step * i + 4
    let at = 0
    for (const [name, , colour] of kinds) {
      if (name === 'zeroPages') continue
      const share = round[name] / pages
      parts.push(
        `<rect x="${x.toFixed(1)}" y="${y(at + share).toFixed(1)}" width="${(step - 8).toFixed(1)}" height="${(share * height).toFixed(1)}" fill="${colour}"/>`
      )
      at += share
    }
    if (i < rounds.length - 1) points.push(`${(x + step / 2 - 4).toFixed(1)},${y(round.dirtyPagesPerSecond / rate).toFixed(1)}`)
    const middle = x + step / 2 - 4
    parts.push(text(middle, top + height + 16, i === rounds.length - 1 ? 'stop' : String(round.round), ' text-anchor="middle"'))
    parts.push(text(middle, top + height + 31, bytes(round.bytes), ' text-anchor="middle" fill="#68737d"'))
    parts.push(text(middle, top + height + 46, `${round.durationMs.toFixed(0)} ms`, ' text-anchor="middle" fill="#68737d"'))
  })
  if (points.length > 0)
    parts.push(`<polyline points="${points.join(' ')}" fill="none" stroke="#b03a3a" stroke-width="2"/>`)
  let at = left
  const legend = [...kinds.slice(1).map(([, name, colour]) => [name, colour] as const), ['written by the guest', '#b03a3a'] as const]
  for (const [name, colour] of legend) {
    parts.push(`<rect x="${at}" y="32" width="10" height="10" fill="${colour}"/>`, text(at + 15, 41, name))
    at += 30 + name.length * 6.5
  }
  const title = `Migration: ${rounds.length} rounds, ${bytes(result.progress.bytes)} on the wire, ${result.totalMs.toFixed(0)} ms, stood still ${result.blackoutMs.toFixed(1)} ms`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.max(width, at)}" height="${top + height + 60}" font-family="sans-serif" font-size="11" fill="#2b333a">`,
    '<rect width="100%" height="100%" fill="white"/>',
    text(left, 20, title, ' font-size="13" font-weight="bold"'),
    ...parts,
    '</svg>\n'
  ].join('\n')
}
