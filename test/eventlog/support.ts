// Recordings for the tests of logs: of hello, and of the mailroom with some load.
import path from 'node:path'
import type { Test } from 'tap'
import { connectMailroom, createMailroom } from '../../lib/cli/mailroom/boot.js'
import {
  Recording,
  Replay,
  type RecordingOptions,
  type RecordingResult,
  type ReplayResult
} from '../../lib/eventlog/index.js'
import type { MailroomClient } from '../../lib/cli/mailroom/client.js'
import { guest } from '../machine/support.js'

export { code, guest, noKvm, scratch } from '../machine/support.js'

/** Records hello from its first instruction to its power-off. */
export async function recordHello(
  t: Test,
  directory: string,
  commandLine = 'ticks=20',
  options: RecordingOptions = {}
): Promise<RecordingResult> {
  const machine = await guest(t, 'hello', commandLine)
  await using recording = await Recording.start(machine, directory, options)
  await machine.start()
  await machine.waitFor('stopped')
  const result = await recording.stop()
  await machine.close()
  return result
}

/** Some users' mail. */
export async function load(client: MailroomClient, users: number, rounds: number): Promise<void> {
  await Promise.all(
    Array.from({ length: users }, async (_, id) => {
      const user = client.user(id)
      if (user.session === 0) await user.login()
      for (let round = 0; round < rounds; round++) {
        const mail = await user.send((id + 1) % users, Buffer.from(`round ${round} of user ${id}`))
        await user.list()
        const { entries } = await user.list()
        const first = entries[0]
        if (first) {
          await user.read(first.id)
          await user.flag(first.id, round & 0xff)
          if (round % 3 === 2) await user.delete(first.id)
        }
        void mail
      }
    })
  )
}

/** Records a mailroom from its first instruction to the end of some load. */
export async function recordMailroom(
  t: Test,
  folder: string,
  options: RecordingOptions & { users?: number; rounds?: number } = {}
): Promise<{ directory: string; result: RecordingResult; digest: string }> {
  const { users = 5, rounds = 4, ...recordingOptions } = options
  const directory = path.join(folder, 'log')
  const machine = await createMailroom({ disk: path.join(folder, 'disk'), memory: '32MiB' })
  t.teardown(() => machine.close())
  await using recording = await Recording.start(machine, directory, recordingOptions)
  await machine.start()
  const client = await connectMailroom(machine)
  await load(client, users, rounds)
  const { digest } = await client.digest()
  client.close()
  const result = await recording.stop()
  await machine.close()
  return { directory, result, digest: String(digest) }
}

/** Replays all of a log. */
export async function replayed(directory: string): Promise<ReplayResult> {
  await using replay = await Replay.open(directory)
  return await replay.run()
}
