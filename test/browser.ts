// A real browser, for tests of pages.
import { existsSync } from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { chromium, type Browser, type Page } from 'playwright-core'
import type { Test } from 'tap'
import { scratch } from './machine/support.js'
import { limit } from './patience.js'

const program = process.env['CHROMIUM'] ?? '/usr/bin/chromium'
export const noBrowser = existsSync(program) ? false : `no browser: ${program} is not there (Debian package chromium)`

/** A page in it, and what it complains of or asks elsewhere for. */
export async function browse(t: Test, url: string, colorScheme: 'light' | 'dark' = 'light'): Promise<{ page: Page; problems: string[] }> {
  const profile = path.join(scratch(t), 'profile')
  const args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run']
  args.push('--disable-background-networking', '--disable-component-update', '--disable-sync')
  const context = await chromium.launchPersistentContext(profile, { executablePath: program, args, colorScheme, timeout: limit(60_000) })
  const browser: Browser | null = context.browser()
  t.teardown(async () => {
    await context.close()
    await browser?.close()
  })
  const page = context.pages()[0] ?? (await context.newPage())
  page.setDefaultTimeout(limit(60_000))
  const problems: string[] = []
  page.on('console', message => (message.type() === 'error' || message.type() === 'warning') && problems.push(message.text()))
  page.on('pageerror', error => problems.push(error.message))
  page.on('request', one => one.url().startsWith(url) || one.url().startsWith('data:') || problems.push(`asked for ${one.url()}`))
  await page.goto(url)
  return { page, problems }
}
