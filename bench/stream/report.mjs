// What all starts together say: medians, ninth deciles, the goals, and a table for docs/streaming.md.

/** The value that a share `q` of the others is not above. */
export function quantile(values, q) {
  const sorted = values.filter(value => value !== undefined && !Number.isNaN(value)).sort((a, b) => a - b)
  return sorted.length === 0 ? undefined : sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]
}

const median = values => quantile(values, 0.5)
const percent = value => (value === undefined ? '' : `${(100 * value).toFixed(1)} %`)
const times = value => (value === undefined ? '' : value.toFixed(2))
const linkOf = ({ mbit, roundTripMs }) => `${mbit} Mb/s, ${roundTripMs} ms`
const ways = ['nbdkit', 'demand', 'fill', 'examined', 'traced', 'full']

/** Rows by link, then by way. */
function grouped(rows) {
  const links = new Map()
  const some = rows.filter(row => ways.includes(row.way) && !row.error)
  for (const row of some.sort((a, b) => a.mbit - b.mbit || a.roundTripMs - b.roundTripMs)) {
    const byWay = links.get(linkOf(row)) ?? new Map()
    links.set(linkOf(row), byWay)
    byWay.set(row.way, [...(byWay.get(row.way) ?? []), row])
  }
  return links
}

/** Of an image: its examined time by its traced one. */
function ratios(byWay, key) {
  const traced = new Map((byWay.get('traced') ?? []).map(row => [row.image, row[key]]))
  return (byWay.get('examined') ?? []).filter(({ image }) => traced.has(image)).map(row => row[key] / traced.get(row.image))
}

/** For each link and way the medians and ninth deciles. */
export function summary(rows) {
  const lines = []
  for (const [link, byWay] of grouped(rows))
    for (const way of ways.filter(way => byWay.has(way))) {
      const some = byWay.get(way)
      const both = key => ({ median: median(some.map(row => row[key])), p90: quantile(some.map(row => row[key]), 0.9) })
      const keys = ['readySeconds', 'toOracle', 'lostSeconds', 'lostToOracle', 'shareOfImage', 'shareOfAllocated', 'shareOfStored', 'stallsBeforeReady', 'stallsAfterReady', 'stallsInMinute', 'vainShare']
      lines.push({ link, way, images: some.length, ...Object.fromEntries(keys.map(key => [key, both(key)])) })
    }
  return lines
}

/**
 * The goals of streaming, each with what was measured and whether it is met; those of which nothing was measured are left out.
 * `where`: the images all, or those that are held out alone.
 */
export function goals(rows) {
  const found = []
  for (const [where, some] of [['all images', rows], ['held out', rows.filter(({ heldOut }) => heldOut)]])
    for (const [link, byWay] of grouped(some)) {
      const add = (goal, value, most, text = times) => {
        if (value !== undefined) found.push({ where, link, goal, value, most, met: value <= most, text: text(value) })
      }
      const of = (way, key) => (byWay.get(way) ?? []).map(row => row[key])
      for (const way of ['traced', 'examined']) {
        for (const [key, name] of [['shareOfImage', 'of the image'], ['shareOfAllocated', 'of its allocated bytes'], ['shareOfStored', 'of the pack']]) {
          add(`${way}: bytes at the first request, ${name}, median`, median(of(way, key)), 0.03, percent)
          add(`${way}: bytes at the first request, ${name}, p90`, quantile(of(way, key), 0.9), 0.05, percent)
        }
        add(`${way}: prefetched in vain, median`, median(of(way, 'vainShare')), 0.2, percent)
        add(`${way}: prefetched in vain, p90`, quantile(of(way, 'vainShare'), 0.9), 0.2, percent)
        if (byWay.get(way)?.[0].mbit === 20) {
          add(`${way}: stalls over 100 ms in the first minute, most`, quantile(of(way, 'stallsInMinute'), 1), 0, String)
          add(`${way}: stalls over 100 ms after the first request, most`, quantile(of(way, 'stallsAfterReady'), 1), 0, String)
        }
      }
      for (const [key, name] of [['toOracle', 'time'], ['lostToOracle', 'local time and what the link cost']]) {
        add(`traced: ${name} to the oracle’s, median`, median(of('traced', key)), 1.15)
        add(`traced: ${name} to the oracle’s, p90`, quantile(of('traced', key), 0.9), 1.15)
        add(`examined to traced, ${name}, median`, median(ratios(byWay, key)), 1.5)
        add(`examined to traced, ${name}, p90`, quantile(ratios(byWay, key), 0.9), 1.5)
      }
    }
  return found
}

const pair = (one, text) => (one.median === undefined ? '' : `${text(one.median)}; ${text(one.p90)}`)

/** Lines of a table in Markdown. */
const table = (heads, lines) => [heads, heads.map(() => '---'), ...lines].map(cells => `| ${cells.join(' | ')} |`)

/** Each image at one link. */
function imageTable(rows, link) {
  const found = new Map()
  for (const row of rows.filter(row => !row.error && (row.way === 'local' || linkOf(row) === link))) found.set(row.image, { ...found.get(row.image), [row.way]: row })
  const both = (one, key, text) => ['traced', 'examined'].map(way => text(one[way]?.[key])).join(', ')
  const seconds = value => (value === undefined ? '' : value.toFixed(1))
  const lines = [...found].map(([image, one]) => [
    `${image}${Object.values(one).some(({ heldOut }) => heldOut) ? ' (held out)' : ''}`,
    one.local ? `${(one.local.neededBytes / 2 ** 20).toFixed(1)} MiB` : '',
    one.local ? `${seconds(one.local.readySeconds)} s` : '',
    `${both(one, 'lostSeconds', seconds)} s`,
    `${both(one, 'lostToOracle', times)}, ${times(one.full?.toOracle)}`,
    both(one, 'shareOfImage', percent),
    both(one, 'shareOfAllocated', percent),
    both(one, 'stallsInMinute', value => value ?? ''),
    percent(one.examined?.vainShare)
  ])
  return table(['Image', 'Needs', 'Local', 'Link cost: traced, examined', 'To the oracle: traced, examined, full', 'Of the image', 'Of its allocated bytes', 'Stalls in the first minute', 'In vain, examined'], lines)
}

/** The tables of docs/streaming.md, and the goals, in Markdown. */
export function tables(rows) {
  const lines = summary(rows).map(row => [
    row.link,
    row.images,
    row.way,
    pair(row.lostSeconds, value => `${value.toFixed(1)} s`),
    pair(row.lostToOracle, times),
    pair(row.toOracle, times),
    pair(row.shareOfImage, percent),
    pair(row.shareOfAllocated, percent),
    pair(row.stallsBeforeReady, String),
    pair(row.stallsAfterReady, String),
    pair(row.vainShare, percent)
  ])
  const met = goals(rows).map(({ goal, link, where, text, most, met }) => [`${goal} <= ${most}`, link, where, text, met ? 'met' : 'not met'])
  return [
    '20 Mb/s, 40 ms:',
    '',
    ...imageTable(rows, '20 Mb/s, 40 ms'),
    '',
    'All links, medians; ninth deciles:',
    '',
    ...table(['Link', 'Images', 'Way', 'Link cost', 'To the oracle', 'As measured', 'Of the image', 'Of its allocated bytes', 'Stalls before the first answer', 'Stalls after it', 'In vain'], lines),
    '',
    ...table(['Goal', 'Link', 'Images', 'Measured', ''], met)
  ].join('\n')
}

/** A line about one start, for people. */
export function lineOf(row) {
  const name = `${row.image.padEnd(12)} ${row.way === 'local' ? 'local' : linkOf(row)}`.padEnd(30)
  if (row.error) return `${name} ${row.way.padEnd(9)} FAILED: ${row.error.split('\n')[0]}`
  if (row.way === 'download') return `${name} ${row.way.padEnd(9)} ${row.downloadSeconds.toFixed(1)} s, ${percent(row.shareOfLink)} of the link`
  const ready = `ready ${row.readySeconds.toFixed(1).padStart(6)} s`
  if (row.way === 'local') return `${name} ${`no. ${row.number}`.padEnd(9)} ${ready}  needs ${(row.neededBytes / 2 ** 20).toFixed(1)} MiB`
  if (row.computed) return `${name} ${row.way.padEnd(9)} ${ready}  ${times(row.toOracle)} of the oracle  (computed)`
  return (
    `${name} ${row.way.padEnd(9)} ${ready}  ${times(row.toOracle)} of the oracle  ${row.lostSeconds === undefined ? '' : `lost ${row.lostSeconds.toFixed(1)} s  `}${percent(row.shareOfImage)} of the image` +
    (row.shareOfAllocated === undefined ? '' : `, ${percent(row.shareOfAllocated)} of what is allocated`) +
    `  stalls ${row.stallsBeforeReady}${row.stallsAfterReady === undefined ? '' : `, then ${row.stallsAfterReady}`}` +
    (row.vainShare === undefined ? '' : `  in vain ${percent(row.vainShare)}`)
  )
}
