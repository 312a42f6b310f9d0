// The sum that `npm test` ends with: what counts as a test, and that no failure is lost.
import { Parser } from 'tap-parser'
import t from 'tap'
import { Results, countTap } from '../../scripts/results.mjs'

// What is printed for the failures in the samples would read as failures of this run.
t.beforeEach(t => {
  t.capture(console, 'error')
})

function count(tap: string): { passed: number; failures: string[]; skipped: string[] } {
  const results = new Results()
  const parser = new Parser()
  const finish = countTap(parser, results)
  parser.end(tap)
  finish()
  return { passed: results.passed, failures: results.failures, skipped: results.skipped }
}

t.test('subtests count, their assertions do not', async t => {
  const tap = `TAP version 14
# Subtest: a.test.ts
    # Subtest: one
        ok 1 - x
        ok 2 - y
        1..2
    ok 1 - one
    # Subtest: two
        # Subtest: inner
            ok 1 - z
            1..1
        ok 1 - inner
        1..1
    ok 2 - two
    1..2
ok 1 - a.test.ts
# Subtest: b.test.ts
    ok 1 - no subtest
    ok 2 - at all
    1..2
ok 2 - b.test.ts
1..2
`
  t.strictSame(count(tap), { passed: 3, failures: [], skipped: [] })
})

t.test('a failure is counted once, where it happened', async t => {
  const tap = `TAP version 14
# Subtest: a.test.ts
    # Subtest: good
        ok 1 - x
        1..1
    ok 1 - good
    # Subtest: bad
        not ok 1 - x
        not ok 2 - y
        1..2
    not ok 2 - bad
    1..2
not ok 1 - a.test.ts
1..1
`
  t.strictSame(count(tap), { passed: 1, failures: ['node a.test.ts > bad'], skipped: [] })
})

t.test('a crash and a failed assertion beside subtests are failures', async t => {
  const tap = `TAP version 14
# Subtest: crash.test.ts
    # Subtest: good
        ok 1 - x
        1..1
    ok 1 - good
not ok 1 - crash.test.ts
  ---
  signal: SIGSEGV
  ...
# Subtest: beside.test.ts
    # Subtest: good
        ok 1 - x
        1..1
    ok 1 - good
    not ok 2 - thrown
    1..2
not ok 2 - beside.test.ts
1..2
`
  t.strictSame(count(tap), {
    passed: 2,
    failures: ['node crash.test.ts', 'node beside.test.ts > thrown'],
    skipped: []
  })
})

t.test('skips are counted with their reasons, and are no passes', async t => {
  const tap = `TAP version 14
# Subtest: a.test.ts
    ok 1 - needs tap # SKIP no /dev/net/tun
    # Subtest: inside
        ok 1 - not today # SKIP
        1..1
    ok 2 - inside
    1..2
ok 1 - a.test.ts
ok 2 - b.test.ts # SKIP nothing here
1..2
`
  t.strictSame(count(tap), {
    passed: 0,
    failures: [],
    skipped: [
      'node a.test.ts > needs tap: no /dev/net/tun',
      'node a.test.ts > inside: not today',
      'node b.test.ts: nothing here'
    ]
  })
})

t.test('no passed test is no success', async t => {
  const results = new Results()
  const log = t.capture(console, 'log')
  t.equal(results.print(), 1)
  results.passed = 2
  results.skipped.push('x: y')
  t.equal(results.print(), 0)
  results.failures.push('z')
  t.equal(results.print(), 1)
  t.equal(log().at(-1)?.args[0], '2 passed, 1 failed, 1 skipped')
})
