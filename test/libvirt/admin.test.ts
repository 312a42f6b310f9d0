// libvirt crashes in a process that opens connections and administration: the second kind is refused instead.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { noLibvirt } from './support.js'

const skip = noLibvirt

function inChild(first: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(new URL('both-kinds.ts', import.meta.url)), [first])
    child.once('message', resolve)
    child.once('exit', (code, signal) => reject(new Error(`the child ended with ${signal ?? code}`)))
  })
}

t.test('administration after a connection', { skip }, async t => {
  t.strictSame(await inChild('connection'), ['object', 'LIBVIRT_CONFLICT', 'object', 'number'])
})

t.test('a connection after administration', { skip }, async t => {
  t.strictSame(await inChild('administration'), ['VIR_ERR_SYSTEM_ERROR', 'LIBVIRT_CONFLICT', 'VIR_ERR_SYSTEM_ERROR', 'number'])
})
