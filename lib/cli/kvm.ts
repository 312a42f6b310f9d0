// Whether KVM can be used at all, said before anything else is done.
import { HypertwinError } from '../errors.js'
import { Kvm } from '../kvm/index.js'
import { CliError, Exit } from './common.js'
import { doctor } from './doctor.js'

/** Throws a CliError with exit code 3 that says what to do when the device cannot be opened. */
export async function checkKvm(device: string): Promise<void> {
  try {
    await (await Kvm.open(device)).close()
  } catch (error) {
    if (!(error instanceof HypertwinError)) throw error
    const { mend } = (await doctor({ device, probes: [] })).device
    throw new CliError(
      `KVM cannot be used here: ${error.message}.${mend === null ? '' : ` What to do: ${mend}.`} ` +
        '`hypertwin doctor` says more.',
      Exit.noKvm,
      error.code
    )
  }
}
