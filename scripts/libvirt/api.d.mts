export const newest: string
export function apiInstalled(): boolean
export function installedAgainstNewest(): -1 | 0 | 1
