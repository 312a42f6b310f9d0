// What the benchmarks share: a clock, medians, and the form of their output, one JSON object a line:
// {name, value, unit, baseline, ratio, quartiles}, the last three where there is something to compare with.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace hypertwin::bench {

inline double clock_seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

inline double now() { return clock_seconds(CLOCK_MONOTONIC); }

inline double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(static_cast<double>(values.size() - 1) * share + 0.5)];
}
inline double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

inline void print(const std::string& name, double value, const char* unit) {
  std::printf("{\"name\":\"%s\",\"value\":%.5g,\"unit\":\"%s\"}\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

inline void print(const std::string& name, double value, const char* unit, double baseline, double ratio) {
  std::printf("{\"name\":\"%s\",\"value\":%.5g,\"unit\":\"%s\",\"baseline\":%.5g,\"ratio\":%.4f}\n",
              name.c_str(), value, unit, baseline, ratio);
  std::fflush(stdout);
}

// Turns of two sides in one run. The ratio is the median of the ratios of neighbours, so that what slows the
// whole machine for a while falls out; their quartiles say how sure it is.
class Pairs {
 public:
  void add(double value, double baseline) {
    values_.push_back(value);
    baselines_.push_back(baseline);
    ratios_.push_back(value / baseline);
  }
  double value() const { return median(values_); }
  double baseline() const { return median(baselines_); }
  double ratio() const { return median(ratios_); }
  void print(const std::string& name, const char* unit, double scale = 1) const {
    std::printf(
        "{\"name\":\"%s\",\"value\":%.5g,\"unit\":\"%s\",\"baseline\":%.5g,\"ratio\":%.4f,\"quartiles\":[%."
        "3f,%.3f]}\n",
        name.c_str(), value() * scale, unit, baseline() * scale, ratio(), quantile(ratios_, 0.25),
        quantile(ratios_, 0.75));
    std::fflush(stdout);
  }

 private:
  std::vector<double> values_, baselines_, ratios_;
};

}  // namespace hypertwin::bench
