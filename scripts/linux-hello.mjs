// Boots Debian's own kernel on the standard board, types a command at its prompt, saves the machine, and goes on from
// the snapshot. Needs a whole KVM: `npm run rig -- up && npm run rig -- exec -- node scripts/linux-hello.mjs` elsewhere.
//   node scripts/linux-hello.mjs [kernel initrd]
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { Machine } from 'hypertwin/machine'
import { guestImage } from './hosts/index.mjs'

const [, , kernel, initrd] = process.argv
const image = kernel && initrd ? { kernel, initrd } : await guestImage()
const folder = mkdtempSync(path.join(tmpdir(), 'linux-hello-'))
const prompt = 'guest# '

try {
  const begun = performance.now()
  const machine = await Machine.create({
    board: 'standard',
    vcpus: 2,
    memory: '256MiB',
    kernel: image.kernel,
    initrd: image.initrd,
    commandLine: 'console=ttyS0 quiet'
  })
  await machine.start()
  await machine.console.waitFor(prompt)
  console.log(`a prompt after ${((performance.now() - begun) / 1000).toFixed(1)} s`)
  machine.console.write('uname -sr; nproc\n')
  console.log(await machine.console.waitFor(/Linux .*\s+\d+/))

  const file = path.join(folder, 'booted.htsnap')
  await machine.pause()
  await machine.snapshot(file)
  await machine.close()
  const again = performance.now()
  const restored = await Machine.restore(file)
  await restored.resume()
  restored.console.write('echo still $((6 * 7))\n')
  await restored.console.waitFor('still 42')
  console.log(`restored, and it answers, after ${(performance.now() - again).toFixed(0)} ms`)
  restored.pressPowerButton()
  await restored.waitFor('stopped')
  console.log(`it ended by ${restored.reason}`)
  await restored.close()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
