export function apiInstalled(): boolean
