// A lock between processes of this machine that no death leaves behind: an abstract UNIX socket, which the kernel
// takes back with the process that has it.
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

function listen(name) {
  return new Promise((resolve, reject) => {
    const server = createServer(socket => socket.destroy())
    server.once('error', error => (error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error)))
    server.listen(`\0hypertwin-hosts-${name}`, () => resolve(server))
  })
}

/** Takes the lock unless another process of this network namespace has it; resolves with a function that gives it back. */
export async function tryLock(name) {
  const server = await listen(name)
  return server && (() => new Promise(resolve => server.close(resolve)))
}

/** Runs `work` while no other process of this network namespace runs anything under the same name. */
export async function locked(name, work) {
  let unlock
  while (!(unlock = await tryLock(name))) await sleep(50)
  try {
    return await work()
  } finally {
    await unlock()
  }
}
