// The addon's dirty-tracking part, as this layer uses it.
import { native } from '../native.js'

/** @internal */
export interface NativeHarvest {
  pages: number
  sequence: number
  startedNs: bigint
  endedNs: bigint
  slots: { slot: number; guestAddress: bigint; pageCount: number; pages: number; bitmap: ArrayBuffer }[]
}

/** @internal */
export interface NativeTracker {
  harvest(): Promise<NativeHarvest>
  markWritten(address: bigint | number, size: bigint | number): void
  plantSkippedPage(): void
  close(): Promise<void>
}

/** @internal */
export interface NativeTarget {
  dirtyTarget(): object
}

interface NativeDirty {
  attach(target: object, mode: string, slots: number[], everythingFirst: boolean): Promise<NativeTracker>
  ringBytes(target: object): number
}

/** @internal */
export const nativeDirty: NativeDirty = (native as { dirty: NativeDirty }).dirty
