// The clients' end of a network whose other end moves: a machine that goes from one process to another.
import type { PacketPort } from './link.js'

/** Frames that are sent while nothing is attached are lost, as on a network. */
export class RoamingPort implements PacketPort {
  #at: PacketPort | undefined
  #handler: (frame: Uint8Array) => void = () => {}

  /** From now on the other end is there. */
  attach(port: PacketPort): void {
    this.#at?.close()
    this.#at = port
    port.receive(frame => {
      if (this.#at === port) this.#handler(frame)
    })
  }

  send(frame: Uint8Array): boolean {
    return this.#at?.send(frame) ?? false
  }

  receive(handler: (frame: Uint8Array) => void): void {
    this.#handler = handler
  }

  close(): void {
    this.#at?.close()
    this.#at = undefined
  }
}
