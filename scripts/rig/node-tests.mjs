// Runs the compiled Node tests: each file is a program that writes TAP. Without tap's own runner, whose loader compiles
// TypeScript in each process.
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { ToolError } from '../shared/error.mjs'
import { countTap } from '../results.mjs'
import { filesBelow, root } from '../support.mjs'

/** Where compile.mjs puts them. */
export const compiledFolder = 'build/rig-test'

/** The name of a source file, compiled. */
export function compiledName(name) {
  return name.replace(/\.ts$/, '.js')
}

/** Seconds after which a file has failed. */
const limit = 3600
/** How many times as long as elsewhere tests wait: test/patience.ts. */
const slow = '20'

/** The test files that the arguments name, by files and folders; all without any. */
export function testFiles(args) {
  const all = filesBelow('test').filter(name => name.endsWith('.test.ts'))
  if (args.length === 0) return all
  return args.flatMap(arg => {
    const name = path.relative(root, path.resolve(arg))
    const found = all.filter(file => file === name || file.startsWith(`${name}/`))
    if (found.length === 0) throw new ToolError(`There is no test ${arg}: a rig takes files and folders, such as test/machine/lifecycle.test.ts.`)
    return found
  })
}

/** What a file wrote, and its end: as TAP's line of a subtest has it. */
async function runFile(file, running) {
  const child = spawn(process.execPath, ['--enable-source-maps', path.join(root, compiledFolder, compiledName(file))], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { HYPERTWIN_SLOW: slow, ...process.env, TAP_TIMEOUT: String(limit) }
  })
  running.add(child)
  // tap ends it with a report; this is for one that does not listen any more.
  const timer = setTimeout(() => child.kill('SIGKILL'), (limit + 60) * 1000)
  let text = ''
  child.stdout.setEncoding('utf8').on('data', data => (text += data))
  const end = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status, signal) => resolve(signal ?? status))
  })
  clearTimeout(timer)
  running.delete(child)
  return { text, end, skip: /^1\.\.0 *# *skip *(.*)/im.exec(text)?.[1] }
}

/** Runs them, as many at once as there are processors, and counts what they say. */
export async function runCompiled(results, { args = [] } = {}) {
  const { Parser } = await import('tap-parser')
  const files = testFiles(args)
  const waiting = [...files]
  const parser = new Parser({ strict: false })
  const finish = countTap(parser, results)
  const parsed = new Promise(resolve => parser.on('complete', resolve))
  const running = new Set()
  const stop = signal => {
    results.failures.push(`node: ended by ${signal}; ${waiting.length} files have not begun`)
    waiting.length = 0
    for (const child of running) child.kill(signal)
  }
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop)
  let number = 0
  const work = async () => {
    for (let file; (file = waiting.shift()); ) {
      const began = Date.now()
      const { text, end, skip } = await runFile(file, running)
      const ok = end === 0
      const seconds = ((Date.now() - began) / 1000).toFixed(1)
      console.error(`${ok ? 'ok  ' : 'FAIL'} ${file} (${seconds} s${ok ? '' : `, ended with ${end}`}) [${++number} of ${files.length}]`)
      parser.write(`# Subtest: ${file}\n${text.replace(/^(?=.)/gm, '    ')}\n${ok ? 'ok' : 'not ok'} ${number} - ${file}`)
      parser.write(skip === undefined ? '\n' : ` # SKIP ${skip}\n`)
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, work))
  parser.end(`1..${number}\n`)
  await parsed
  finish()
}
