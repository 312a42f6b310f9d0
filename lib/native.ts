// Finds and loads the addon, and says where the package's own guest programs lie. It knows nothing of what
// the addon does.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { HypertwinError } from './errors.js'

const require = createRequire(import.meta.url)

/** The package's folder: this file lies one level below it, as lib/native.ts and as dist/native.js. */
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')

/** @internal */
export const usesMusl = ((): boolean => {
  // Else it waits for the names of all connections' hosts.
  const report: NodeJS.ProcessReport & { excludeNetwork?: boolean } = process.report
  const { excludeNetwork = false } = report
  report.excludeNetwork = true
  const { header } = report.getReport() as unknown as { header?: { glibcVersionRuntime?: string } }
  report.excludeNetwork = excludeNetwork
  return header?.glibcVersionRuntime === undefined
})()

/**
 * Where the addon was found, for a child process that loads it alone.
 *
 * @internal
 */
export let addonPath = ''

function load(): unknown {
  const libc = process.env['LIBC']
  try {
    // node-gyp-build knows musl only by a file of Alpine's.
    if (libc === undefined && usesMusl) process.env['LIBC'] = 'musl'
    addonPath = (require('node-gyp-build') as { resolve: (dir: string) => string }).resolve(root)
    return require(addonPath)
  } catch (cause) {
    const tuple = `${process.platform}-${process.arch} (${usesMusl ? 'musl' : 'glibc'}), Node ${process.version}`
    const places = [`${root}/build/Release/*.node`, `${root}/prebuilds/${process.platform}-${process.arch}/`]
    throw new HypertwinError(
      [
        `hypertwin's native addon could not be loaded on ${tuple}: ${cause instanceof Error ? cause.message : String(cause)}`,
        'Tried:',
        ...places.map(place => `  - ${place}`),
        'What can be done:',
        '  - hypertwin runs on Linux; prebuilt binaries exist for x86-64, with glibc and with musl',
        '  - reinstall: npm install --force hypertwin (optional or platform files may have been left out)',
        `  - build it: cd ${root} && npm install --no-save cmake-js node-addon-api node-api-headers && node scripts/build-native.mjs (needs g++ or clang, make, cmake, libxxhash-dev and liblz4-dev)`
      ].join('\n'),
      { code: 'ENATIVE', cause }
    )
  } finally {
    if (libc === undefined) delete process.env['LIBC']
  }
}

/**
 * The addon's exports. Each layer casts it to the interface that it uses.
 *
 * @internal
 */
export const native: unknown = load()

/**
 * The plugin for nbdkit: what was built here, or what came with the package; undefined when there is none.
 *
 * @internal
 */
export function nbdkitPlugin(): string | undefined {
  const built = [process.env['HYPERTWIN_PREBUILD'] ?? root, root].map(folder => path.join(folder, 'dist', 'nbdkit', 'hypertwin.so'))
  const packed = usesMusl ? [] : [path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'hypertwin.nbdkit.so')]
  return [...built, ...packed].find(file => existsSync(file))
}

/**
 * The path of one of the package's own guest programs (an ELF file).
 *
 * @param name - the guest's name, for example `'mailroom'`
 * @throws HypertwinError `ENOENT` when there is no such guest
 * @since 0.1.0
 */
export function guestPath(name: string): string {
  const file = path.join(root, 'dist', 'guests', `${path.basename(name)}.elf`)
  if (!existsSync(file))
    throw new HypertwinError(`There is no guest program ${file}: run \`npm run build\``, { code: 'ENOENT' })
  return file
}
