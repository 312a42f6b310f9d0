// `hypertwin dirty`: runs a guest and shows which pages it writes.
import { writeFile } from 'node:fs/promises'
import type { DirtyMode } from '../dirty/index.js'
import { bytes, count, Exit, interruption, resolveGuest, Ui } from './common.js'
import { createGuest, runGuest, trouble, type GuestOptions } from './guest.js'
import { checkKvm } from './kvm.js'
import { picture, Tracking } from './tracking.js'

interface DirtyOptions extends GuestOptions {
  seconds: number
  interval: number
  mode: DirtyMode | 'auto'
  png?: string
  svg?: string
  json?: boolean
}

export async function dirty(guest: string, options: DirtyOptions): Promise<number> {
  const ui = new Ui(options.json === true)
  const signal = interruption()
  resolveGuest(guest)
  await checkKvm(options.kvmDevice)
  await using machine = await createGuest(guest, options, options.mode === 'ring')
  const tracking = await Tracking.start(machine, options.mode, options.interval)
  ui.say(`Dirty pages are tracked by ${tracking.reason}`)
  let peak = 0
  let shown = false
  tracking.onSample = ({ pages, bytesPerSecond, workingSetPages, milliseconds }) => {
    peak = Math.max(peak, pages)
    const line =
      `${count(pages).padStart(8)} pages in ${Math.round(milliseconds)} ms  ${bytes(bytesPerSecond).padStart(10)}/s  ` +
      `working set ${bytes(workingSetPages * 4096)}`
    if (!ui.tty) return ui.say(line)
    ui.picture(`${picture(tracking.heat, ui)}\n${line}`, !shown)
    shown = true
  }
  const begun = performance.now()
  let end
  try {
    end = await runGuest(machine, new Ui(true), options.seconds, signal)
  } finally {
    await tracking.stop()
  }
  const took = (performance.now() - begun) / 1000
  if (!ui.tty && !ui.json) ui.say(picture(tracking.heat, ui))
  if (options.png !== undefined) await writeFile(options.png, tracking.heat.toPng())
  if (options.svg !== undefined) await writeFile(options.svg, tracking.heat.toSvg())
  ui.say(
    `${count(tracking.pages)} dirty pages in ${took.toFixed(1)} s, ${count(tracking.uniquePages)} different ones ` +
      `(${bytes(tracking.uniquePages * 4096)})`
  )
  for (const file of [options.png, options.svg]) if (file !== undefined) ui.say(`heat map  ${file}`)
  ui.result({
    mode: tracking.mode,
    reason: tracking.reason,
    seconds: took,
    harvests: tracking.harvests,
    dirtyPages: tracking.pages,
    uniquePages: tracking.uniquePages,
    peakPages: peak,
    state: end.state,
    end: end.reason,
    png: options.png ?? null,
    svg: options.svg ?? null,
    interrupted: signal.aborted
  })
  const problem = trouble(end)
  if (problem) throw problem
  return signal.aborted ? Exit.interrupted : Exit.ok
}
