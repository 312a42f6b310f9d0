// A machine that runs the mailroom, and a client on its in-process packet queue.
import { open } from 'node:fs/promises'
import { guestPath } from '../../native.js'
import type { Size } from '../../kvm/index.js'
import { Machine, type NetPort } from '../../machine/index.js'
import { MailroomClient, type ClientOptions } from './client.js'
import { FrameLink, type PacketPort } from './link.js'
import { MAILROOM_PORT } from './protocol.js'

/** What a mailroom is booted with. */
export interface BootOptions {
  /** The disk image; created sparse when it is not there. */
  disk: string
  /** RAM. Default 32 MiB. */
  memory?: Size
  /** Bytes of a new disk image. Default 64 MiB. */
  diskSize?: number
  /** A tap interface in place of the in-process queue. */
  tap?: string
  /** Entries of a dirty ring, when one is wanted. */
  dirtyRing?: boolean | number
  /** The KVM device. */
  device?: string
}

/** A machine that will serve mail once it is started. */
export async function createMailroom(options: BootOptions): Promise<Machine> {
  const image = await open(options.disk, 'a')
  try {
    if ((await image.stat()).size === 0) await image.truncate(options.diskSize ?? 64 << 20)
  } finally {
    await image.close()
  }
  return Machine.create({
    kernel: guestPath('mailroom'),
    memory: options.memory ?? '32MiB',
    disks: [{ path: options.disk }],
    nets: [options.tap === undefined ? {} : { backend: { tap: options.tap } }],
    ...(options.dirtyRing === undefined ? {} : { dirtyRing: options.dirtyRing }),
    ...(options.device === undefined ? {} : { device: options.device })
  })
}

/** A machine's network device as the client's link uses it: what one batch of answers causes leaves in one. */
export function packetPort(net: NetPort): PacketPort {
  let handler: (frame: Uint8Array) => void = () => {}
  let outbox: Uint8Array[] | undefined
  const end = net.onPackets(packets => {
    outbox = []
    try {
      for (const packet of packets) handler(packet)
    } finally {
      const frames = outbox
      outbox = undefined
      // What finds no room is lost, and sent again after the time-out.
      if (frames.length > 0) net.send(frames)
    }
  })
  return {
    send(frame) {
      if (!outbox) return net.send(frame) === 1
      outbox.push(frame)
      return true
    },
    receive(f) {
      handler = f
    },
    close: end
  }
}

/** A client of a running mailroom; resolves once the guest answers. */
export async function connectMailroom(
  machine: Machine,
  options: ClientOptions & { signal?: AbortSignal; readyTimeout?: number } = {}
): Promise<MailroomClient> {
  const link = new FrameLink(packetPort(machine.net(0)), { guestPort: MAILROOM_PORT })
  const client = new MailroomClient(link, options)
  try {
    await link.ready(options.readyTimeout ?? 30_000, options.signal)
  } catch (error) {
    client.close()
    throw error
  }
  return client
}
