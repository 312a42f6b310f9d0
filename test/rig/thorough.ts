// What the tests of Linux share.
import process from 'node:process'

/** Whether `npm run test:linux` asks for all that they can do, rather than what the gate has time for. */
export const thorough = process.env['HYPERTWIN_THOROUGH'] === '1'

/** What docs/machine.md says that Linux needs on the deterministic board. */
export const deterministic = 'acpi=off nolapic reboot=p lpj=4000000'
