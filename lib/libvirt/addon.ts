// The addon's libvirt part, as this layer uses it.
import { native } from '../native.js'
import type { ConnectCredentialType } from './generated/enums.js'

/** One event as it comes from the addon. @internal */
export interface NativeEvent {
  callbackId: number
  /** Of its registration, from 1; those that were dropped are counted. */
  sequence: number
  /** How many are missing just before it. */
  dropped: number
  /** Milliseconds since 1970. */
  time: number
  /** An instance of one of the classes; undefined where it is about the connection. */
  object: unknown
  args: object
}

/** What a connection asks for. @internal */
export interface NativeCredentialRequest {
  type: ConnectCredentialType
  prompt: string
  challenge: string | undefined
  default: string | undefined
}

interface NativeLibvirt {
  libvirtTableHash(): string
  /** libvirt's names of the functions, by the index for libvirtCall(). */
  libvirtFunctionNames(): string[]
  /** Throws `LIBVIRT_MISSING`. */
  libvirtVersion(): number
  libvirtSupports(name: string): boolean
  /** The constructors, by the C++ enum Class. */
  libvirtClasses(constructors: (Constructor | undefined)[]): void
  libvirtCall(index: number, ...args: unknown[]): Promise<unknown>
  libvirtOpen(
    uri: string | null,
    flags: number,
    auth: ((requests: NativeCredentialRequest[]) => Promise<(string | undefined)[] | null>) | undefined,
    types: number[]
  ): Promise<unknown>
  /** Resolves when libvirt's reference is dropped, after the calls in flight. */
  libvirtClose(handle: object): Promise<void>
  libvirtIsClosed(handle: object): boolean
  libvirtSame(a: object, b: object): boolean
  /** What the process holds: for tests. */
  libvirtUsage(): { handles: number; threads: number; running: number; waiting: number }
  /** Resolves with a number for libvirtOff(). The callback gets null once when the connection is closed here. */
  libvirtOn(
    family: number,
    event: number,
    connect: object,
    object: object | undefined,
    name: string | undefined,
    flags: number,
    callback: (batch: NativeEvent[] | null) => void,
    limit?: number
  ): Promise<number>
  libvirtOff(id: number): Promise<void>
  /** A hole's length, if `sparse`; null at the end. */
  libvirtStreamRecv(stream: object, most: number, sparse: boolean): Promise<Uint8Array | bigint | null>
  libvirtStreamSend(stream: object, data: Uint8Array): Promise<void>
  libvirtStreamSendHole(stream: object, length: bigint, flags: number): Promise<void>
  /** Each call of the callback is the last before libvirtStreamRearm(). */
  libvirtStreamListen(stream: object, events: number, callback: ((events: number) => void) | undefined): Promise<void>
  libvirtStreamRearm(stream: object): void
  libvirtStreamFinish(stream: object): Promise<void>
  libvirtStreamAbort(stream: object): Promise<void>
}

type Constructor = new () => object

/** libvirt itself. @internal */
export const direct = native as NativeLibvirt

/** What this layer calls: libvirt itself, or for some objects what stands for it (backend.ts). @internal */
export const addon: NativeLibvirt = { ...direct }
