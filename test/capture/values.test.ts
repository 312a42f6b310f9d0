// Values as bytes: all kinds survive, and bytes that are no values are refused.
import t from 'tap'
import { Assembler, head, toRecords } from '../../lib/capture/messages.js'
import { Unloggable, ValueReader, ValueWriter, type HandleName } from '../../lib/capture/values.js'

class Thing {
  constructor(readonly name: HandleName) {}
}
const nameOf = (value: object): HandleName | undefined => (value instanceof Thing ? value.name : undefined)
const make = (name: HandleName): Thing => new Thing(name)
const write = (value: unknown, canonical = false): Buffer => new ValueWriter(nameOf, canonical).value(value).take()
const read = (bytes: Buffer): unknown => new ValueReader(bytes, make).value()

const values: unknown[] = [
  undefined,
  null,
  true,
  false,
  ...[0, -0, 1, -1, 2147483647, -2147483648, 2147483648, 2 ** 53 - 1, 0.1, NaN, Infinity, -Infinity],
  ...[0n, 1n, -1n, 2n ** 64n - 1n, -(2n ** 63n), 2n ** 64n, -(2n ** 63n) - 1n, 10n ** 100n],
  ...['', 'text', 'ä€😀', '\0', 'x'.repeat(10_000)],
  ...[new Uint8Array(), new Uint8Array([0, 255, 7]), new Uint8Array(5000).fill(9)],
  ...[[], [1, [2n, [null]], undefined], {}, { a: 1, b: { c: [true], d: undefined }, '': 'x' }],
  [new Thing({ className: 'Domain', number: 12345678 }), { dom: new Thing({ className: 'Connect', number: 0 }) }]
]

t.test('every kind of value comes back as it was', async t => {
  for (const value of values) t.strictSame(read(write(value)), value)
  t.ok(Object.is(read(write(-0)), -0))
  t.strictSame(read(write(values)), values)
})

t.test('what no log can hold is said to be that', async t => {
  t.strictSame(read(write([() => 1, Symbol('x')])), [new Unloggable('function'), new Unloggable('symbol')])
  const cycle: unknown[] = []
  cycle.push(cycle)
  t.doesNotThrow(() => read(write(cycle)))
})

t.test('arguments are the same bytes in whatever order their keys are', async t => {
  const bytes = write({ b: 1, a: { d: 2, c: 3n }, e: undefined }, true)
  t.strictSame(write({ a: { c: 3n, d: 2 }, b: 1 }, true), bytes)
  t.notSame(write({ a: { c: 3, d: 2 }, b: 1 }, true), bytes)
})

t.test('bytes that are none are refused', async t => {
  const corrupt = { name: 'EventLogError', code: 'CORRUPT', message: /cannot be read/ }
  const whole = write(values)
  for (let length = 0; length < whole.length; length += 1 + Math.floor(length / 50))
    t.throws(() => read(whole.subarray(0, length)), corrupt)
  for (const bytes of [
    [15],
    [11, 255, 255, 255, 255, 15],
    [12, 2, 1, 65],
    [10, 200, 1, 0],
    [9, 255, 255, 255, 255, 255, 255, 255, 255, 255],
    [8, 1, 120],
    Array.from({ length: 100 }, () => [11, 1]).flat()
  ])
    t.throws(() => read(Buffer.from(bytes)), corrupt)
  // Anything: an error or a value, and it ends.
  let state = 12345
  const random = (below: number): number => (state = (state * 1103515245 + 12345) & 0x7fffffff) % below
  let refused = 0
  const small = values.filter(value => write(value).length < 100)
  for (let i = 0; i < 3000; i++) {
    const bytes = Buffer.from(write([small, { a: small }]))
    for (let n = 1 + random(4); n > 0; n--) bytes[random(bytes.length)] = random(256)
    try {
      read(bytes)
    } catch (error) {
      if ((error as { code?: string }).code !== 'CORRUPT') throw error
      refused++
    }
  }
  t.ok(refused > 500)
})

t.test('messages in records', async t => {
  const long = 'x'.repeat(5 << 20)
  const message = head(new ValueWriter(nameOf), 'call', 300).text('virConnectGetType').value([long]).take()
  const records = [...toRecords(message)]
  t.equal(records.length, 6)
  const assembler = new Assembler()
  const given = records.map(record => assembler.add(record))
  t.strictSame(given.slice(0, -1), Array(5).fill(undefined))
  const call = given.at(-1)
  t.match(call, { type: 'call', operation: 300, name: 'virConnectGetType' })
  if (call?.type === 'call') {
    t.ok(Math.abs(call.time - Date.now()) < 60_000)
    t.strictSame(read(call.body), [long])
  }
  const corrupt = { code: 'CORRUPT' }
  t.throws(() => new Assembler().add(Buffer.from([2, 0, 1])), corrupt, 'of a later layout')
  t.throws(() => new Assembler().add(Buffer.from([1, 2, 1])), corrupt, 'unknown flags')
  t.throws(() => new Assembler().add(Buffer.from([1, 0, 9, 1])), corrupt, 'of an unknown type')
  t.throws(() => new Assembler().add(Buffer.from([])), corrupt)
})
