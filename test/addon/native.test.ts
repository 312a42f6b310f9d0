// The addon's base: loading, errors, promises from native threads.
import { constants } from 'node:os'
import { existsSync } from 'node:fs'
import t from 'tap'
import { HypertwinError, guestPath, version } from '../../lib/index.js'
import { withLayerErrors } from '../../lib/errors.js'
import { native } from '../../lib/native.js'

const addon = native as {
  version: string
  selfTest(value: number, milliseconds: number, errno: number): Promise<number>
}

class TestError extends HypertwinError {
  override name = 'TestError'
}

t.test('the version is the package’s', async t => {
  const manifest = await import('../../package.json', { with: { type: 'json' } })
  t.equal(version, manifest.default.version)
})

t.test('a promise resolves from a native thread', async t => {
  t.strictSame(await Promise.all([1, 2, 3].map(n => addon.selfTest(n, 0, 0))), [1, 2, 3])
})

t.test('a native error arrives as the layer’s class with code, errno and call', async t => {
  const { ENOSPC } = constants.errno
  const error = await withLayerErrors(TestError, () => addon.selfTest(0, 0, ENOSPC)).catch((e: unknown) => e)
  t.type(error, TestError)
  t.match(error, { name: 'TestError', code: 'ENOSPC', errno: ENOSPC, call: 'selftest' })
  t.match((error as Error).message, /selftest failed while trying the way of an error/)
})

t.test('errors that are not native pass unchanged', async t => {
  const own = new TypeError('mine')
  t.equal(await withLayerErrors(TestError, () => Promise.reject(own)).catch((e: unknown) => e), own)
  t.throws(
    () =>
      withLayerErrors(TestError, () => {
        throw own
      }),
    own
  )
})

t.test('guests lie where guestPath says, and an unknown one is named', async t => {
  t.ok(existsSync(guestPath('hello')))
  t.throws(() => guestPath('nosuch'), { code: 'ENOENT', message: /nosuch\.elf/ })
  t.throws(() => guestPath('../../package'), { code: 'ENOENT' })
})
