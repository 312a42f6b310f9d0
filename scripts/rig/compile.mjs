// The Node tests as plain JavaScript: build/rig-test is the checkout once more, with the tests compiled and what was built
// of lib in its place. Compiling them anew in each of their processes takes a rig more than a minute each.
import { lstatSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { filesBelow, hashOf, readStamp, root, writeStamp } from '../support.mjs'
import { compiledFolder, compiledName } from './node-tests.mjs'

// Made here, or nobody's business.
const own = new Set(['lib', 'test', 'node_modules'])

function linkTheRest(folder) {
  const wanted = new Map([['lib', '../../dist']])
  for (const name of readdirSync(root)) if (!own.has(name) && !name.startsWith('.')) wanted.set(name, `../../${name}`)
  for (const [name, target] of wanted) {
    const there = lstatSync(path.join(folder, name), { throwIfNoEntry: false })
    if (!there) symlinkSync(target, path.join(folder, name))
  }
}

/** new URL('./child.ts', import.meta.url) is the compiled program. */
function withCompiledChildren(ts) {
  const isOwnUrl = node =>
    ts.isNewExpression(node) && node.expression.getText() === 'URL' && node.arguments?.[1]?.getText() === 'import.meta.url'
  return context => file => {
    const visit = node => {
      const [first, ...rest] = (isOwnUrl(node) && node.arguments) || []
      if (!first || !ts.isStringLiteral(first)) return ts.visitEachChild(node, visit, context)
      const { factory } = context
      return factory.updateNewExpression(node, node.expression, undefined, [factory.createStringLiteral(compiledName(first.text)), ...rest])
    }
    return ts.visitNode(file, visit)
  }
}

/** Compiles the tests where they have changed. */
export async function compileTests() {
  const folder = path.join(root, compiledFolder)
  mkdirSync(folder, { recursive: true })
  linkTheRest(folder)
  const sources = filesBelow('test').filter(name => !name.startsWith('test/package/'))
  const stamp = `${compiledFolder}/made-of`
  const hash = hashOf([...sources, ...filesBelow('tsconfig.json', 'package-lock.json', 'scripts/rig/compile.mjs')])
  if (readStamp(stamp) === hash) return
  console.error('rig: compiling the tests')
  const { default: ts } = await import('typescript')
  const { config, error } = ts.readConfigFile(path.join(root, 'tsconfig.json'), name => readFileSync(name, 'utf8'))
  if (error) throw new Error(ts.flattenDiagnosticMessageText(error.messageText, '\n'))
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  // Folders stay: a rig that is up has them open.
  const written = new Set()
  for (const name of sources) {
    const text = readFileSync(path.join(root, name))
    const out = path.join(compiledFolder, compiledName(name))
    written.add(out)
    mkdirSync(path.join(root, path.dirname(out)), { recursive: true })
    if (out.endsWith(name)) writeFileSync(path.join(root, out), text)
    else {
      const { outputText } = ts.transpileModule(text.toString(), {
        fileName: path.join(root, name),
        compilerOptions: { ...options, module: ts.ModuleKind.ESNext, noEmit: false, inlineSourceMap: true, inlineSources: true },
        transformers: { before: [withCompiledChildren(ts)] }
      })
      writeFileSync(path.join(root, out), outputText)
    }
  }
  for (const name of filesBelow(`${compiledFolder}/test`)) if (!written.has(name)) rmSync(path.join(root, name))
  writeStamp(stamp, hash)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await compileTests()
