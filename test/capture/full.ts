// Captures into a folder of a small file system until that is full, and says what came of it.
import path from 'node:path'
import process from 'node:process'
import { captureConnection, replayConnection } from '../../lib/capture/index.js'
import { Connect } from '../../lib/libvirt/index.js'

const directory = path.join(process.argv[2] as string, 'log')
await using connect = await Connect.open('test:///default')
const told: string[] = []
const capture = await captureConnection(connect, directory, { onFailure: error => told.push(error.code) })
let calls = 0
for (; !capture.failure && calls < 5000; calls++) await connect.getCapabilities()
const type = await connect.getType()
const closing = await capture.close().catch((error: unknown) => (error as { message: string }).message)
const replay = await replayConnection(directory)
console.log(JSON.stringify({ told, calls, type, closing, remaining: replay.remaining, damages: replay.damages.length }))
