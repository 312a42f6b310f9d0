// Replays a log in a process of its own and says what the program has seen.
import process from 'node:process'
import { inspect } from 'node:util'
import { replayConnection } from '../../lib/capture/index.js'
import { libraryVersion } from '../../lib/libvirt/index.js'
import { program } from './program.js'

let library = 'there'
try {
  libraryVersion()
} catch (error) {
  library = (error as { code: string }).code
}
const replay = await replayConnection(process.argv[2] as string)
const seen = await program(replay.connect)
replay.finish()
console.log(JSON.stringify({ library, seen: inspect(seen, { depth: 9 }) }))
