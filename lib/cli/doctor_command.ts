// `hypertwin doctor`, as the command.
import { Exit, Ui } from './common.js'
import { doctor as examine, renderDoctor } from './doctor.js'

export async function doctor(options: { json?: boolean; kvmDevice: string }): Promise<number> {
  const ui = new Ui(options.json === true)
  const report = await examine({
    device: options.kvmDevice,
    onProbe: ({ title }) => {
      if (ui.tty) ui.live(title)
    }
  })
  if (!ui.json) ui.say(renderDoctor(report))
  ui.result(report)
  if (!report.device.usable) return Exit.noKvm
  return report.ok ? Exit.ok : Exit.failed
}
