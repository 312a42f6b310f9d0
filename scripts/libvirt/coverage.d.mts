/** What is bound, of one library. */
export interface LibraryCoverage {
  total: number
  bound: Map<string, string>
  internal: Map<string, string>
  missing: string[]
}
export function coverage(): Record<string, LibraryCoverage>
export function strayAnnotations(): string[]
