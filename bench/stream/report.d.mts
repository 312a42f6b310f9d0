/** Of a start; see rows.mjs. */
export type Row = Record<string, unknown>

export interface Spread {
  median: number | undefined
  p90: number | undefined
}
export interface Goal {
  where: string
  link: string
  goal: string
  value: number
  most: number
  met: boolean
  text: string
}

export function quantile(values: (number | undefined)[], q: number): number | undefined
export function summary(rows: Row[]): ({ link: string; way: string; images: number } & Record<string, Spread>)[]
export function goals(rows: Row[]): Goal[]
export function tables(rows: Row[]): string
