// `npm run rig -- test`: the tests, run in a rig, of what this checkout has built.
import process from 'node:process'
import { ToolError } from '../shared/error.mjs'
import { setup } from '../setup.mjs'
import { compileTests } from './compile.mjs'
import { testFiles } from './node-tests.mjs'
import { openRigs, rigsUp } from './rigs.mjs'
import { runInRig } from './run.mjs'

/** Runs scripts/test.mjs in the first rig, or in one of its own where none is up; its exit status. */
export async function testInRig(args) {
  if (args[0] === 'node') testFiles(args.slice(1))
  try {
    setup({ tests: args[0] !== 'node' })
    if (args[0] !== 'native') await compileTests()
  } catch (error) {
    throw new ToolError(error.message, { cause: error })
  }
  const there = openRigs()
  const [rig] = there ?? []
  if (rig && !rig.alive) throw new ToolError('rig1 has ended. Start it again: npm run rig -- up')
  const own = rig ? undefined : await rigsUp(1, { memory: 2048 })
  try {
    const words = [process.execPath, 'scripts/test.mjs', ...args, '--built']
    return await runInRig(rig ?? own.rigs[0], words, { input: null })
  } finally {
    await own?.down()
  }
}
