// A process that claims: each key that it is sent, or many at once until it is killed.
import process from 'node:process'
import { FileArbiter } from '../../lib/arbiter/index.js'

const [folder = '', who = '', keys = ''] = process.argv.slice(2)
if (folder !== '') {
  const arbiter = new FileArbiter(folder)
  if (keys !== '')
    for (const key of keys.split(',')) process.send?.({ key, claim: await arbiter.claim(key, who) })
  else
    process.on('message', (key: string) => {
      void arbiter.claim(key, who).then(claim => process.send?.({ key, claim }))
    })
  process.send?.({ key: 'ready', claim: '' })
}
