// Without a binary, the error lists what was tried and what can be done.
import assert from 'node:assert/strict'

const error = await import('hypertwin').catch(reason => reason)
assert.equal(error.code, 'ENATIVE')
for (const part of ['Tried:', 'build/Release', `prebuilds/linux-${process.arch}`, 'What can be done:', 'build-native.mjs'])
  assert.ok(error.message.includes(part), `the message lacks "${part}": ${error.message}`)
