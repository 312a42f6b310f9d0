// `hypertwin doctor`, as the command.
import { Exit, Ui } from './common.js'
import { checkKvm } from './kvm.js'

export async function doctor(options: { json?: boolean; kvmDevice: string }): Promise<number> {
  const ui = new Ui(options.json === true)
  await checkKvm(options.kvmDevice)
  ui.say('KVM can be used.')
  ui.result({ usable: true })
  return Exit.ok
}
