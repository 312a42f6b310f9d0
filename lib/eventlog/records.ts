// The log's records as JavaScript sees them, and how they come out of the addon's packed batches.

/**
 * What every record has.
 *
 * @since 0.1.0
 */
export interface LogRecordBase {
  /** Its number in the log, from 0. */
  index: bigint
  /** The boundary at which it was applied. */
  boundary: bigint
  /** Records are lost between the one before and this one. */
  afterGap: boolean
}

/** The guest's clock moved to `ns`. @since 0.1.0 */
export interface TimeRecord extends LogRecordBase {
  kind: 'time'
  /** Virtual nanoseconds. */
  ns: bigint
}
/** A packet came to a network device. @since 0.1.0 */
export interface PacketRecord extends LogRecordBase {
  kind: 'packet'
  device: number
  /** An Ethernet frame without its checksum. */
  bytes: Buffer
}
/** Bytes were typed to the console. @since 0.1.0 */
export interface ConsoleRecord extends LogRecordBase {
  kind: 'console'
  device: number
  bytes: Buffer
}
/** A request of a block device was completed. @since 0.1.0 */
export interface BlockCompletionRecord extends LogRecordBase {
  kind: 'block-completion'
  device: number
  /** The request's number. */
  request: bigint
  /** As virtio has it: 0 ok, 1 I/O error, 2 unsupported. */
  status: number
  /** What a read returned. */
  data: Buffer
}
/** The guest took an interrupt. @since 0.1.0 */
export interface InterruptRecord extends LogRecordBase {
  kind: 'interrupt'
  vector: number
}
/** Random bytes for the guest. @since 0.1.0 */
export interface EntropyRecord extends LogRecordBase {
  kind: 'entropy'
  device: number
  bytes: Buffer
}
/** The rolling digest that a replay must have here. @since 0.1.0 */
export interface CheckRecord extends LogRecordBase {
  kind: 'check'
  /** 32 hexadecimal digits. */
  rolling: string
  /** The low 16 bits of the digest at each boundary since the check before. */
  prefixes: Uint16Array
  /** The register file, if recorded. */
  registers: Buffer
}
/** The digests of the machine's whole state here. @since 0.1.0 */
export interface StateDigestRecord extends LogRecordBase {
  kind: 'state-digest'
  memory: string
  devices: string
  vcpu: string
}
/** Registers and pages that replace replay up to here. @since 0.1.0 */
export interface EpochRecord extends LogRecordBase {
  kind: 'epoch'
  bytes: Buffer
}
/** A note. @since 0.1.0 */
export interface MarkerRecord extends LogRecordBase {
  kind: 'marker'
  text: string
  annotation: Buffer
}
/** The recording ended: nothing follows. @since 0.1.0 */
export interface EndRecord extends LogRecordBase {
  kind: 'end'
  /** `'stopped'`: at a boundary, with the state's digest. `'no-boundary'`: the guest ran without exits. */
  reason: 'stopped' | 'no-boundary' | 'other'
}
/** A button was pressed. @since 0.1.0 */
export interface LifecycleRecord extends LogRecordBase {
  kind: 'lifecycle'
  request: number
}
/** Something left the machine; who follows the log must come so far before going live. @since 0.1.0 */
export interface OutputRecord extends LogRecordBase {
  kind: 'output'
}
/** A record of a later version that may be skipped. @since 0.1.0 */
export interface ExtensionRecord extends LogRecordBase {
  kind: 'extension'
  /** The number in the file, 128 or more. */
  extension: bigint
  bytes: Buffer
}
/** No record: something of the log is lost or useless here. @since 0.1.0 */
export interface GapRecord {
  kind: 'gap'
  damage: LogDamage
}

/**
 * A record of the log, or (where asked for) a gap in it.
 *
 * @since 0.1.0
 */
export type LogRecord =
  | TimeRecord
  | PacketRecord
  | ConsoleRecord
  | BlockCompletionRecord
  | InterruptRecord
  | EntropyRecord
  | CheckRecord
  | StateDigestRecord
  | EpochRecord
  | MarkerRecord
  | EndRecord
  | LifecycleRecord
  | OutputRecord
  | ExtensionRecord

/**
 * What is wrong with a log, and what is lost by it.
 *
 * @since 0.1.0
 */
export interface LogDamage {
  /** `'torn-tail'`, `'block'`, …: see docs/eventlog-format.md. */
  kind: string
  /** The segment file's number, from 1. */
  segment: number
  /** Where it begins in the segment. */
  offset: bigint
  /** How many bytes are unusable. */
  bytes: bigint
  /** Records are lost, so a replay cannot go beyond. */
  gap: boolean
  /** The first record that is lost. */
  firstLost: bigint
  /** One past the last; undefined when their number is unknown. */
  endLost: bigint | undefined
  /** The lost records' boundaries lie from here … */
  fromBoundary: bigint
  /** … to here; undefined: anything later. */
  toBoundary: bigint | undefined
  /** One sentence. */
  text: string
}

/** Indices into a batch's numbers for one record. Its bytes follow one another in the batch's. */
const numbersPerRecord = 9

/** The kinds as they stand in the file. */
const kinds = { time: 1, packet: 2, console: 3, block: 4, interrupt: 5, entropy: 6, check: 7, state: 8, epoch: 9, marker: 10, end: 11, lifecycle: 12, output: 13 }

/**
 * A batch's numbers, nine for each record: kind, after a gap?, index, boundary, three of the kind, and the
 * lengths of two byte strings.
 *
 * @internal
 */
export function decodeRecords(numbers: BigUint64Array, bytes: Uint8Array): LogRecord[] {
  const records: LogRecord[] = []
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let used = 0
  const take = (length: bigint): Buffer => {
    const from = used
    used += Number(length)
    return all.subarray(from, used)
  }
  for (let at = 0; at + numbersPerRecord <= numbers.length; at += numbersPerRecord) {
    const n = (i: number): bigint => numbers[at + i] ?? 0n
    const base = { index: n(2), boundary: n(3), afterGap: n(1) !== 0n }
    const first = take(n(7))
    const second = take(n(8))
    const device = Number(n(4))
    switch (Number(n(0))) {
      case kinds.time:
        records.push({ kind: 'time', ...base, ns: n(4) })
        break
      case kinds.packet:
        records.push({ kind: 'packet', ...base, device, bytes: first })
        break
      case kinds.console:
        records.push({ kind: 'console', ...base, device, bytes: first })
        break
      case kinds.block:
        records.push({ kind: 'block-completion', ...base, device, request: n(5), status: Number(n(6)), data: first })
        break
      case kinds.interrupt:
        records.push({ kind: 'interrupt', ...base, vector: Number(n(4)) })
        break
      case kinds.entropy:
        records.push({ kind: 'entropy', ...base, device, bytes: first })
        break
      case kinds.check: {
        // A copy: the batch's bytes need not be aligned.
        const prefixes = new Uint16Array(Uint8Array.from(first).buffer, 16)
        records.push({ kind: 'check', ...base, rolling: hex(first, 0), prefixes, registers: second })
        break
      }
      case kinds.state:
        records.push({
          kind: 'state-digest',
          ...base,
          memory: hex(first, 0),
          devices: hex(first, 16),
          vcpu: hex(first, 32)
        })
        break
      case kinds.epoch:
        records.push({ kind: 'epoch', ...base, bytes: first })
        break
      case kinds.marker:
        records.push({ kind: 'marker', ...base, text: first.toString('utf8'), annotation: second })
        break
      case kinds.end:
        records.push({ kind: 'end', ...base, reason: n(4) === 0n ? 'stopped' : n(4) === 1n ? 'no-boundary' : 'other' })
        break
      case kinds.lifecycle:
        records.push({ kind: 'lifecycle', ...base, request: Number(n(4)) })
        break
      case kinds.output:
        records.push({ kind: 'output', ...base })
        break
      default:
        records.push({ kind: 'extension', ...base, extension: n(0), bytes: first })
    }
  }
  return records
}

/** The addon gives digests most significant byte first. */
function hex(bytes: Buffer, at: number): string {
  return bytes.toString('hex', at, at + 16)
}
