// A process that streams into a cache until it is killed; says so when it does. Arguments: source, cache.
import process from 'node:process'
import { ImageStream } from '../../lib/stream/index.js'

const [source = '', cache = ''] = process.argv.slice(2)
await ImageStream.open(source, { cache })
process.stdout.write('open\n')
setInterval(() => undefined, 60_000)
