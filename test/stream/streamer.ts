// A process that streams into a cache until it is killed; says so when it does. Arguments: source, cache, and `demand` for one
// that brings nothing unasked.
import process from 'node:process'
import { ImageStream } from '../../lib/stream/index.js'

const [source = '', cache = '', how] = process.argv.slice(2)
await ImageStream.open(source, { cache, fill: how !== 'demand' })
process.stdout.write('open\n')
setInterval(() => undefined, 60_000)
