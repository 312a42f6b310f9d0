// What is needed from Debian: programs are installed, what only guests need is fetched and unpacked.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { installDebianPackages } from '../setup.mjs'
import { output } from '../support.mjs'
import { ToolError } from './error.mjs'
import { locked } from './lock.mjs'
import { execute, must } from './process.mjs'

const isDebian = () => output('dpkg-query', ['--version']) !== undefined

/**
 * Installs the packages that are missing; where there is no apt-get, looks for the programs that matter of them.
 * Throws with the command to type where it may not.
 */
export async function install(packages, programs = []) {
  await locked('install', async () => {
    if (isDebian()) return installDebianPackages(packages)
    const folders = ['/usr/sbin', '/sbin', ...(process.env.PATH ?? '').split(':')]
    const missing = programs.filter(name => !folders.some(folder => existsSync(path.join(folder, name))))
    if (missing.length > 0)
      throw new ToolError(`These programs are missing; install them by your package manager: ${missing.join(', ')}`)
  })
}

/** The kernel that a package which stands for Debian's newest of a flavour depends on. */
async function newestKernel(flavour) {
  const { stdout } = await execute(['apt-cache', 'depends', flavour])
  return /Depends: (linux-image-\S+)/.exec(stdout)?.[1]
}

/** The packages of libraries that a package depends on; none where the package is not known. */
async function librariesOf(name) {
  const { stdout } = await execute(['apt-cache', 'depends', name])
  return [...stdout.matchAll(/^ *Depends: (z?lib\S+)$/gm)].map(([, library]) => library)
}

/**
 * Fetches packages; none is installed.
 * @param names - one that begins with linux-image- stands for the newest kernel of a flavour, linux-image-cloud-amd64; one
 * that ends with + is fetched with the libraries that it depends on
 * @param cache - the folder in which they are for a while
 * @returns their files by name, the kernel's as `kernel`, and a function that removes them
 */
export async function fetchPackages(names, cache) {
  if (!isDebian()) throw new ToolError('The kernel is one of Debian’s packages, which this system does not have.')
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(path.join(cache, 'fetch-'))
  try {
    const fetched = await locked('install', async () => {
      const download = async () => {
        const each = async name => {
          if (name.startsWith('linux-image-')) return newestKernel(name)
          if (!name.endsWith('+')) return name
          const libraries = await librariesOf(name.slice(0, -1))
          return libraries.length > 0 ? [name.slice(0, -1), ...libraries] : undefined
        }
        const wanted = (await Promise.all(names.map(each))).flat()
        if (wanted.includes(undefined)) return { status: 1, stderr: 'a package is not known' }
        // As root, since the user _apt may not write here.
        const options = ['-q', '-o', 'APT::Sandbox::User=root']
        return execute(['sh', '-c', 'cd "$0" && exec apt-get download "$@"', folder, ...options, ...wanted], {
          timeout: 300_000
        })
      }
      // The package lists are fetched only where what is there does not do.
      const first = await download()
      if (first.status === 0) return first
      await execute(['apt-get', 'update', '-q'], { timeout: 300_000 })
      return download()
    })
    if (fetched.status !== 0)
      throw new ToolError(`apt-get could not fetch ${names.join(', ')}: ${fetched.stderr.trim()}`)
    const files = {}
    for (const file of readdirSync(folder)) {
      const name = file.split('_')[0]
      files[name.startsWith('linux-image-') ? 'kernel' : name] = path.join(folder, file)
    }
    return { files, discard: () => rmSync(folder, { recursive: true, force: true }) }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

/** Unpacks those files of a package that the patterns of tar(1) name. */
export async function unpack(file, folder, ...patterns) {
  mkdirSync(folder, { recursive: true })
  await must(
    ['sh', '-c', 'dpkg-deb --fsys-tarfile "$0" | tar -x -C "$FOLDER" --wildcards -- "$@"', file, ...patterns],
    { env: { ...process.env, FOLDER: folder } }
  )
}
