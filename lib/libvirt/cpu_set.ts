// Sets of CPU numbers: what libvirt gives and takes as a CPU map.

/**
 * A set of CPU numbers. Everything that takes CPUs takes any iterable of numbers; everything that returns CPUs
 * returns one of these.
 *
 * @since 0.1.0
 */
export class CpuSet extends Set<number> {
  /**
   * Reads libvirt's notation: numbers and ranges, later `^` ones taken out again.
   *
   * @param text - for example `'0-3,^2,8'`
   * @throws RangeError when the text is no such list
   * @since 0.1.0
   */
  static parse(text: string): CpuSet {
    const set = new CpuSet()
    for (const part of text.split(',')) {
      const match = /^\s*(\^?)(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(part)
      const first = Number(match?.[2])
      const last = Number(match?.[3] ?? match?.[2])
      if (!match || last < first) throw new RangeError(`'${text}' is no list of CPUs such as '0-3,^2,8'`)
      for (let cpu = first; cpu <= last; cpu++)
        if (match[1] === '^') set.delete(cpu)
        else set.add(cpu)
    }
    return set
  }

  /** The set in libvirt's notation, for domain XML and for the functions that take it as text. */
  override toString(): string {
    const sorted = [...this].sort((a, b) => a - b)
    const parts: string[] = []
    for (let at = 0; at < sorted.length; ) {
      let end = at
      while (sorted[end + 1] === (sorted[end] ?? 0) + 1) end++
      parts.push(end > at ? `${sorted[at]}-${sorted[end]}` : `${sorted[at]}`)
      at = end + 1
    }
    return parts.join(',')
  }
}
