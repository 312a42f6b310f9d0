// Runs ctest and tap, counts what they say, and prints the sum as the last line.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { inspect } from 'node:util'
import { bin, root, run } from './support.mjs'

/** Counts of one or several runs. `skipped` and `failures` hold a line each. */
export class Results {
  passed = 0
  failures = []
  skipped = []

  /** Prints the skips with their reasons, the failures, and `N passed, N failed, N skipped`; the exit status. */
  print() {
    for (const line of this.skipped) console.log(`skipped: ${line}`)
    for (const line of this.failures) console.log(`failed: ${line}`)
    console.log(`${this.passed} passed, ${this.failures.length} failed, ${this.skipped.length} skipped`)
    return this.failures.length === 0 && this.passed > 0 ? 0 : 1
  }
}

function unescapeXml(text) {
  const names = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' }
  return text.replace(/&(?:(lt|gt|quot|apos|amp)|#(\d+)|#x([0-9a-f]+));/gi, (_, name, decimal, hex) =>
    name ? names[name] : String.fromCodePoint(decimal ? Number(decimal) : parseInt(hex, 16))
  )
}

/** Runs the native tests of a build folder. */
export function runNative(results, buildDir, { env = {}, args = [] } = {}) {
  const report = path.join(root, buildDir, 'ctest.xml')
  rmSync(report, { force: true })
  const status = run(
    'ctest',
    ['--test-dir', buildDir, '--output-junit', report, '--output-on-failure', '--no-tests=error', '-j2', '--progress',
      '--test-output-size-passed', '100000', ...args],
    { env: { ...process.env, ...env } }
  )
  const before = results.failures.length
  let ran = 0
  const xml = existsSync(report) ? readFileSync(report, 'utf8') : ''
  for (const [, attributes, body = ''] of xml.matchAll(/<testcase ([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const name = unescapeXml(/name="([^"]*)"/.exec(attributes)?.[1] ?? '?')
    const state = /status="([^"]*)"/.exec(attributes)?.[1]
    ran++
    if (/<skipped/.test(body)) {
      // GoogleTest prints `file:line: Skipped` and then the reason.
      const reason = /: Skipped\s+([^\n]*)/.exec(unescapeXml(body))?.[1]?.trim() || 'no reason given'
      results.skipped.push(`native ${name}: ${reason}`)
    } else if (state === 'run' && !/<failure/.test(body)) results.passed++
    else results.failures.push(`native ${name}`)
  }
  if (ran === 0) results.failures.push('native: no test ran')
  else if (status !== 0 && results.failures.length === before)
    results.failures.push(`native: ctest ended with status ${status}`)
}

function printDiagnostics(label, diagnostics) {
  const { diff, ...rest } = diagnostics ?? {}
  console.error(`not ok: ${label}\n${inspect(rest, { depth: 6 })}${diff ? `\n${diff}` : ''}`)
}

/**
 * Counts what a TAP parser will see. A test is a subtest without subtests of its own, or a file without any.
 * Call the returned function at the end: it gives what was seen below `parser`.
 */
export function countTap(parser, results, name = '') {
  const within = assertName => (name ? `${name} > ${assertName}` : assertName)
  const seen = { subtests: 0, points: 0, failed: 0 }
  const looseFailures = []
  let last
  const fail = label => {
    seen.failed++
    results.failures.push(`node ${label}`)
  }
  parser.on('child', sub => {
    seen.subtests++
    last = countTap(sub, results, within(sub.name))
  })
  parser.on('assert', assert => {
    const sub = last?.()
    last = undefined
    const label = within(assert.name)
    const reason = assert.skip || assert.todo
    if (reason) {
      // t.skip('reason') has the reason for a name.
      results.skipped.push(`node ${reason === true ? `${name || 'skipped'}: ${assert.name}` : `${label}: ${reason}`}`)
      return
    }
    seen.points++
    if (!sub) {
      // An assertion. It counts through its test, unless it stands beside subtests.
      if (!assert.ok) {
        looseFailures.push(label)
        printDiagnostics(label, assert.diag)
      }
    } else if (assert.ok) {
      if (sub.subtests === 0 && sub.points > 0) results.passed++
    } else if (sub.failed === 0) {
      printDiagnostics(label, assert.diag)
      fail(label)
    } else seen.failed += sub.failed
  })
  return () => {
    if (seen.subtests > 0) looseFailures.splice(0).forEach(fail)
    return seen
  }
}

/** Runs the node tests; `args` go to tap. */
export async function runNode(results, { env = {}, args = [] } = {}) {
  const { Parser } = await import('tap-parser')
  const before = { failures: results.failures.length, passed: results.passed, skipped: results.skipped.length }
  const parser = new Parser({ strict: false })
  const finish = countTap(parser, results)
  parser.on('assert', ({ ok, name, time }) => console.error(`${ok ? 'ok  ' : 'FAIL'} ${name}${time ? ` (${Math.round(time)} ms)` : ''}`))
  const tap = spawn(bin('tap'), ['--reporter=tap', ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 2],
    env: { ...process.env, ...env }
  })
  const ended = new Promise(resolve => {
    tap.on('error', error => resolve(error.message))
    tap.on('close', (status, signal) => resolve(signal ?? status))
  })
  const parsed = new Promise(resolve => parser.on('complete', resolve))
  tap.stdout.pipe(parser)
  const status = await ended
  parser.end()
  await parsed
  finish()
  const failed = results.failures.length > before.failures
  if (!failed && results.passed === before.passed && results.skipped.length === before.skipped)
    results.failures.push('node: no test ran')
  else if (!failed && status !== 0) results.failures.push(`node: tap ended with ${status}`)
}
