// Draws docs/performance.md's pictures of protection and migration from what the benchmarks printed:
//   npm run -s bench -- ha migrate --json > figures.jsonl && node bench/pictures.mjs figures.jsonl docs/pictures
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'

const [input, folder] = process.argv.slice(2)
if (!input || !folder) {
  console.error('usage: node bench/pictures.mjs FIGURES.jsonl FOLDER')
  process.exit(2)
}
const figures = new Map(
  readFileSync(input, 'utf8')
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line))
    .map(figure => [figure.name, figure])
)

const colours = ['#3b6ea5', '#e0a030', '#5aa469', '#9aa7b3']
const goalColour = '#b03a3a'
const number = value => String(Number(value.toPrecision(3)))

/**
 * Groups of bars on a logarithmic axis. A group: {label, bars: [{value, series, goal?}]}.
 */
function bars(title, unit, series, groups, least) {
  const [left, top, height, wide] = [64, 58, 220, 26]
  const all = groups.flatMap(({ bars }) => bars.flatMap(({ value, goal }) => [value, goal ?? value]))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...all) * 1.02))
  const share = value => Math.max(0, Math.log(Math.max(value, least) / least) / Math.log(most / least))
  const y = value => top + height * (1 - share(value))
  const step = Math.max(...groups.map(({ bars }) => bars.length)) * wide + 24
  const width = left + step * groups.length + 24
  const text = (x, at, words, more = '') => `<text x="${x.toFixed(1)}" y="${at.toFixed(1)}"${more}>${words}</text>`
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top + height + 46}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="11" fill="#33404c" role="img">`,
    `<title>${title}</title><rect width="100%" height="100%" fill="#fff"/>`,
    text(left, 20, title, ' font-size="14" font-weight="600"')
  ]
  let x = left
  series.forEach((name, i) => {
    out.push(`<rect x="${x}" y="30" width="10" height="10" fill="${colours[i]}"/>`, text(x + 14, 39, name))
    x += 28 + name.length * 6.2
  })
  if (groups.some(({ bars }) => bars.some(({ goal }) => goal !== undefined)))
    out.push(`<path d="M${x} 35h14" stroke="${goalColour}" stroke-width="2"/>`, text(x + 18, 39, 'goal: at most'))
  for (let tick = least; tick <= most * 1.001; tick *= 10)
    out.push(`<path d="M${left} ${y(tick)}H${width - 16}" stroke="#e3e8ed"/>`, text(left - 6, y(tick) + 4, `${number(tick)} ${unit}`, ' text-anchor="end"'))
  groups.forEach(({ label, bars }, group) => {
    const from = left + 12 + step * group
    bars.forEach(({ value, series, goal }, i) => {
      const at = from + i * wide
      out.push(
        `<rect x="${at}" y="${y(value).toFixed(1)}" width="${wide - 6}" height="${(top + height - y(value)).toFixed(1)}" fill="${colours[series]}"/>`,
        text(at + (wide - 6) / 2, y(value) - 4, number(value), ' text-anchor="middle" font-size="9"')
      )
      if (goal !== undefined) out.push(`<path d="M${at - 2} ${y(goal).toFixed(1)}h${wide - 2}" stroke="${goalColour}" stroke-width="2"/>`)
    })
    out.push(text(from + (bars.length * wide - 6) / 2, top + height + 18, label, ' text-anchor="middle"'))
  })
  out.push('</svg>')
  return `${out.join('\n')}\n`
}

const value = name => figures.get(name)?.value
mkdirSync(folder, { recursive: true })
const draw = (file, picture) => {
  writeFileSync(path.join(folder, file), picture)
  console.log(path.join(folder, file))
}

const goals = { reset: { p99: 10 }, silent: { p50: 20, p99: 50 } }
const pauses = ['reset', 'silent'].map((how, series) => ({
  label: how === 'reset' ? 'the connection is reset' : 'power is cut silently',
  bars: ['p50', 'p90', 'p99', 'max'].flatMap(part => {
    const found = value(`ha/failover-pause/${how}/${part}`)
    return found === undefined ? [] : [{ value: found, series: ['p50', 'p90', 'p99', 'max'].indexOf(part), goal: goals[how][part] }]
  }),
  series
}))
if (pauses.every(({ bars }) => bars.length > 0))
  draw('failover-pause.svg', bars('Pause that users see when the primary dies', 'ms', ['p50', 'p90', 'p99', 'longest'], pauses, 0.1))

for (const how of ['plain', 'compressed']) {
  const groups = [0, 0.25, 0.5, 1, 2, 4].flatMap(factor => {
    const found = figures.get(`migrate/blackout/${how}/${factor}x-link`)
    if (!found) return []
    const baseline = found.baseline === undefined ? [] : [{ value: found.baseline, series: 1 }]
    return [{ label: `${factor} x`, bars: [{ value: found.value, series: 0 }, ...baseline] }]
  })
  if (groups.length > 0)
    draw(
      `migration-blackout-${how}.svg`,
      bars(`Blackout by dirty rate, in link speeds (${how})`, 'ms', ['blackout', 'raw copy of the rest at the link’s speed'], groups, 0.1)
    )
}
