export function stale(): Promise<string[]>
