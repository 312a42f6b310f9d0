// How fast a domain writes its memory, as the hypervisor measures it.
import { setTimeout as sleep } from 'node:timers/promises'
import type { DirtyRateSample, DirtyRateSource } from '../dirty_rate.js'
import { oneOf, within } from './checks.js'
import type { Domain } from './domain.js'
import { LibvirtError } from './errors.js'
import { DomainDirtyRateCalcFlags, DomainDirtyRateStatus, DomainStatsTypes } from './generated/enums.js'
import { domainListGetStats } from './generated/functions.js'

/**
 * How the hypervisor measures:
 * - `'page-sampling'`: it looks at some pages twice; cheap, and an estimate
 * - `'dirty-bitmap'`: it counts dirty pages; slows the guest down a little
 * - `'dirty-ring'`: by KVM's dirty ring, each vCPU for itself; the domain must have it (`<features><kvm><dirty-ring/>`)
 *
 * @since 0.1.0
 */
export type DomainDirtyRateMode = 'page-sampling' | 'dirty-bitmap' | 'dirty-ring'

/**
 * What one measurement showed. libvirt gives whole MiB a second.
 *
 * @since 0.1.0
 */
export interface DomainDirtyRateSample extends DirtyRateSample {
  /** How it was measured. */
  mode: DomainDirtyRateMode
  /** Of each vCPU, with `'dirty-ring'`: bytes a second. */
  vcpus: number[]
}

const flags: Record<DomainDirtyRateMode, number> = {
  'page-sampling': DomainDirtyRateCalcFlags.PAGE_SAMPLING,
  'dirty-bitmap': DomainDirtyRateCalcFlags.DIRTY_BITMAP,
  'dirty-ring': DomainDirtyRateCalcFlags.DIRTY_RING
}

/** Bytes of a page of x86. */
const pageSize = 4096

/**
 * How fast a domain writes its memory: the interface that a `DirtyTracker` of `hypertwin/dirty` has, too. Which pages
 * they are the hypervisor does not say.
 *
 * ```ts
 * for await (const { bytesPerSecond } of domain.dirtyRate('dirty-bitmap').samples()) console.log(bytesPerSecond)
 * ```
 *
 * @since 0.1.0; libvirt 7.2.0
 */
export class DomainDirtyRate implements DirtyRateSource {
  /** How it is measured. */
  readonly mode: DomainDirtyRateMode
  readonly #domain: Domain

  /** @internal */
  constructor(domain: Domain, mode: DomainDirtyRateMode) {
    this.mode = oneOf(mode, 'mode', ['page-sampling', 'dirty-bitmap', 'dirty-ring'])
    this.#domain = domain
  }

  /**
   * Measures once. One measurement of a domain at a time.
   *
   * @param options - `seconds`: how long, a whole number from 1 to 60, 1 if left out; `signal`: gives up waiting
   * @throws LibvirtError
   * @see [virDomainStartDirtyRateCalc](https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainStartDirtyRateCalc)
   */
  async measure(options: { seconds?: number; signal?: AbortSignal } = {}): Promise<DomainDirtyRateSample> {
    const { seconds = 1, signal } = options
    within(seconds, 'seconds', 1, 60)
    signal?.throwIfAborted()
    await this.#domain.startDirtyRateCalc(seconds, flags[this.mode])
    const deadline = performance.now() + seconds * 1000 + 30_000
    for (let wait = seconds * 1000; ; wait = 50) {
      try {
        await sleep(wait, undefined, signal ? { signal } : {})
      } catch (error) {
        signal?.throwIfAborted()
        throw error
      }
      const [record] = await domainListGetStats([this.#domain], DomainStatsTypes.DIRTYRATE)
      await record?.dom.close()
      const params = record?.params ?? {}
      if (params['dirtyrate.calc_status'] === DomainDirtyRateStatus.MEASURED) return this.#sample(params, seconds)
      if (performance.now() > deadline)
        throw new LibvirtError('the hypervisor does not come to an end with measuring the dirty rate', { code: 'TIMEOUT' })
    }
  }

  /**
   * Measures again and again; nothing is measured while nobody asks.
   *
   * @param options - `intervalMs`: how long each takes, whole seconds from 1000 to 60,000, 1000 if left out; `signal`:
   * rejects with its reason
   * @throws LibvirtError
   */
  async *samples(
    options: { intervalMs?: number; signal?: AbortSignal } = {}
  ): AsyncGenerator<DomainDirtyRateSample, void, void> {
    const seconds = Math.round(within(options.intervalMs ?? 1000, 'intervalMs', 1000, 60_000) / 1000)
    for (;;) yield await this.measure({ seconds, ...(options.signal && { signal: options.signal }) })
  }

  #sample(params: Record<string, unknown>, seconds: number): DomainDirtyRateSample {
    const mebibytes = (name: string): number => Number(params[name] ?? 0) * 2 ** 20
    const bytesPerSecond = mebibytes('dirtyrate.megabytes_per_second')
    const vcpus = Array.from({ length: vcpuCount(params) }, (_, i) => mebibytes(`dirtyrate.vcpu.${i}.megabytes_per_second`))
    const bytes = bytesPerSecond * seconds
    return { mode: this.mode, milliseconds: seconds * 1000, bytes, bytesPerSecond, pages: Math.round(bytes / pageSize), vcpus }
  }
}

function vcpuCount(params: Record<string, unknown>): number {
  let count = 0
  while (params[`dirtyrate.vcpu.${count}.megabytes_per_second`] !== undefined) count++
  return count
}
