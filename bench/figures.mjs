// What the benchmarks in JavaScript share; native/bench/bench.h is the same in C++.

export const median = values => [...values].sort((a, b) => a - b)[values.length >> 1]

/** Turns of two sides in one run; the ratio is the median of the ratios of neighbours. */
export class Pairs {
  #values = []
  #baselines = []

  add(value, baseline) {
    this.#values.push(value)
    this.#baselines.push(baseline)
  }

  print(name, unit) {
    const ratio = median(this.#values.map((value, i) => value / this.#baselines[i]))
    console.log(
      JSON.stringify({ name, value: median(this.#values), unit, baseline: median(this.#baselines), ratio })
    )
  }
}
