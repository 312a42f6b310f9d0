// What the benchmarks in JavaScript share; native/bench/bench.h is the same in C++.

const quantile = (values, share) =>
  [...values].sort((a, b) => a - b)[Math.round((values.length - 1) * share)]

export const median = values => quantile(values, 0.5)

/** Five digits are more than any of these figures deserves. */
const round = value => Number(value.toPrecision(5))

export function print(figure) {
  console.log(JSON.stringify(figure, (_, value) => (typeof value === 'number' ? round(value) : value)))
}

/** Turns of two sides in one run; the ratio is the median of the ratios of neighbours. */
export class Pairs {
  #values = []
  #baselines = []

  add(value, baseline) {
    this.#values.push(value)
    this.#baselines.push(baseline)
  }

  get lastBaseline() {
    return this.#baselines.at(-1)
  }

  print(name, unit) {
    const ratios = this.#values.map((value, i) => value / this.#baselines[i])
    print({
      name,
      value: median(this.#values),
      unit,
      baseline: median(this.#baselines),
      ratio: median(ratios),
      quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)]
    })
  }
}

/** Calls a second, with so many in flight for so long. */
export async function rate(seconds, inFlight, call) {
  const start = performance.now()
  const end = start + seconds * 1000
  let calls = 0
  const one = async () => {
    while (performance.now() < end) {
      await call()
      calls++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, one))
  return calls / ((performance.now() - start) / 1000)
}
