// Whether tests may use KVM here.
import { accessSync, constants } from 'node:fs'

/** Why a test's device cannot be used here; false when it can. */
export function unusable(device: string): string | false {
  try {
    accessSync(device, constants.R_OK | constants.W_OK)
    return false
  } catch (error) {
    return `no usable ${device}: ${(error as Error).message}`
  }
}

/** Why tests on a guest cannot run here; false when they can. */
export const noKvm: string | false = unusable('/dev/kvm')
