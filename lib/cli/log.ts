// `hypertwin log show` and `hypertwin log verify`. Needs no KVM.
import { once } from 'node:events'
import process from 'node:process'
import { EventLog, type GapRecord, type LogRecord } from '../eventlog/index.js'
import { brokenPipe, bytes, count, Exit, interruption, needLog, toJson, Ui, usage } from './common.js'

const kinds = [
  'time',
  'packet',
  'console',
  'block-completion',
  'interrupt',
  'entropy',
  'check',
  'state-digest',
  'epoch',
  'marker',
  'end',
  'lifecycle',
  'output',
  'extension'
] as const

interface ShowOptions {
  from?: bigint
  kind?: string[]
  limit?: number
  follow?: boolean
  json?: boolean
}

function shorten(data: Buffer): string {
  return data.length <= 24 ? data.toString('hex') : `${data.toString('hex', 0, 24)}…`
}

/** What a record says, for people. */
function describe(record: LogRecord): string {
  switch (record.kind) {
    case 'time':
      return `${(Number(record.ns) / 1e9).toFixed(9)} s`
    case 'packet':
      return `net${record.device} ${record.bytes.length} bytes ${shorten(record.bytes)}`
    case 'console':
      return `console${record.device} ${JSON.stringify(record.bytes.toString('utf8'))}`
    case 'block-completion':
      return `disk${record.device} request ${record.request} status ${record.status} ${record.data.length} bytes`
    case 'interrupt':
      return `vector 0x${record.vector.toString(16)}`
    case 'entropy':
      return `device ${record.device} ${record.bytes.length} bytes`
    case 'check':
      return `${record.rolling} over ${record.prefixes.length} boundaries`
    case 'state-digest':
      return `memory ${record.memory} devices ${record.devices} vcpu ${record.vcpu}`
    case 'epoch':
      return `${record.bytes.length} bytes`
    case 'marker':
      return `${JSON.stringify(record.text)}${record.annotation.length > 0 ? ` ${shorten(record.annotation)}` : ''}`
    case 'end':
      return record.reason
    case 'lifecycle':
      return `request ${record.request}`
    case 'output':
      return ''
    case 'extension':
      return `kind ${record.extension}, ${record.bytes.length} bytes`
  }
}

function line(record: LogRecord | GapRecord): string {
  if (record.kind === 'gap') return `-- ${record.damage.text}`
  const { boundary, kind, index } = record
  return `${String(index).padStart(8)} ${String(boundary).padStart(10)} ${kind.padEnd(16)} ${describe(record)}`
}

function jsonLine(record: LogRecord | GapRecord): string {
  return toJson(record.kind === 'check' ? { ...record, prefixes: Array.from(record.prefixes) } : record)
}

export async function show(folder: string, options: ShowOptions): Promise<number> {
  brokenPipe.exitCode = Exit.ok
  const wanted = new Set(options.kind?.flatMap(text => text.split(',')).map(name => name.replaceAll('_', '-')))
  for (const name of wanted)
    if (!(kinds as readonly string[]).includes(name))
      throw usage(`There is no kind of record "${name}": the kinds are ${kinds.join(', ')}`)
  const signal = interruption()
  await using log = await EventLog.open(needLog(folder))
  const records = log.records({
    withGaps: true,
    extensions: true,
    follow: options.follow === true,
    signal,
    ...(options.from === undefined ? {} : { from: options.from })
  })
  let left = options.limit ?? Infinity
  let text = ''
  try {
    for await (const record of records) {
      if (record.kind !== 'gap' && wanted.size > 0 && !wanted.has(record.kind)) continue
      text += `${options.json ? jsonLine(record) : line(record)}\n`
      if (text.length >= 65536 || options.follow) {
        if (!process.stdout.write(text)) await once(process.stdout, 'drain', { signal })
        text = ''
      }
      if (record.kind !== 'gap' && --left <= 0) break
    }
  } catch (error) {
    if (!signal.aborted) throw error
    return Exit.interrupted
  } finally {
    process.stdout.write(text)
  }
  // A torn tail is where a recorder was killed: every record that was whole is shown.
  return records.damages.some(({ gap, kind }) => gap && kind !== 'torn-tail') ? Exit.failed : Exit.ok
}

export async function verify(folder: string, options: { json?: boolean }): Promise<number> {
  const ui = new Ui(options.json === true)
  await using log = await EventLog.open(needLog(folder))
  const report = await log.verify()
  const { header } = log
  if (!ui.json) {
    ui.say(`log ${header.id}, recorded ${header.created.toISOString()} on ${header.cpuVendor}`)
    ui.say(
      `${count(report.records)} records in ${count(report.blocks)} blocks, ${count(report.segments)} segment${report.segments === 1n ? '' : 's'}, ${bytes(Number(report.bytes))}; boundaries ${report.firstBoundary} to ${report.lastBoundary}`
    )
    for (const damage of report.damages) ui.say(`damaged: ${damage.text}`)
    if (!report.chainOk) ui.say('The hash chain is broken: blocks are missing, or were put there later.')
    if (!report.ok)
      ui.say(`It can be replayed up to boundary ${report.replayableBoundary} (${count(report.replayableRecords)} records).`)
    if (!report.ended) ui.say('It has no end record: its recorder was killed, or still runs.')
    if (report.ok && report.chainOk && report.ended) ui.say('It is whole.')
  }
  ui.result({ directory: folder, log: header.id, ...report })
  return report.ok && report.chainOk ? Exit.ok : Exit.failed
}
