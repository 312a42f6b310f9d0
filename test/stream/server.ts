// A process that serves a cache at a socket until it is killed; says so when it does. Arguments: cache, socket.
import process from 'node:process'
import { NbdServer } from '../../lib/stream/index.js'

const [cache = '', socket = ''] = process.argv.slice(2)
await NbdServer.start(cache, { socket })
process.stdout.write('serving\n')
setInterval(() => undefined, 60_000)
