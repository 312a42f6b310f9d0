// The certificates that commands are given as files.
import { readFileSync } from 'node:fs'
import { usage } from './common.js'

/** The options that these commands share. */
export interface TlsFileOptions {
  tlsCa?: string
  tlsCert?: string
  tlsKey?: string
  tlsName?: string
}

/** What is in a file that an option names. */
export function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw usage(`The file ${file} cannot be read: ${(error as Error).message}`)
  }
}

/** Undefined when none is given; all three files are needed, since both sides show a certificate. */
export function tlsFiles(options: TlsFileOptions): { ca: string; cert: string; key: string; servername?: string } | undefined {
  const { tlsCa, tlsCert, tlsKey, tlsName } = options
  if (tlsCa === undefined && tlsCert === undefined && tlsKey === undefined) {
    if (tlsName !== undefined) throw usage('--tls-name needs --tls-ca, --tls-cert and --tls-key')
    return undefined
  }
  if (tlsCa === undefined || tlsCert === undefined || tlsKey === undefined)
    throw usage('TLS needs --tls-ca, --tls-cert and --tls-key: both sides show a certificate')
  return {
    ca: textOf(tlsCa),
    cert: textOf(tlsCert),
    key: textOf(tlsKey),
    ...(tlsName === undefined ? {} : { servername: tlsName })
  }
}
