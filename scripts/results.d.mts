import type { Parser } from 'tap-parser'

export class Results {
  passed: number
  failures: string[]
  skipped: string[]
  print(): number
}
export function countTap(
  parser: Parser,
  results: Results,
  name?: string
): () => { subtests: number; points: number; failed: number }
