// The time-out is the larger of mean + 8 deviations and 3 times the longest gap of late: the first follows a
// slow but even connection, the second one with rare hiccups.
#include "ha/detector.h"

#include <algorithm>
#include <cmath>

namespace hypertwin::ha {

namespace {
constexpr double kWeight = 1.0 / 16;
constexpr double kDeviations = 8;
constexpr double kPeaks = 3;
constexpr double kFade = 2e9;      // the peak falls by e in so many nanoseconds
constexpr double kFirstPeak = 10;  // intervals, until something is known

double nanoseconds(std::chrono::microseconds t) { return static_cast<double>(t.count()) * 1e3; }
}  // namespace

Detector::Detector(const Heartbeats& options)
    : interval_(nanoseconds(options.interval)),
      min_(nanoseconds(options.min_timeout)),
      max_(std::max(min_, nanoseconds(options.max_timeout))),
      mean_(interval_),
      deviation_(interval_ / 4),
      peak_(interval_ * kFirstPeak) {
  update();
}

void Detector::heard(uint64_t now) {
  const double gap = last_ == 0 || now < last_ ? 0 : static_cast<double>(now - last_);
  last_ = now;
  // Behind the fade, so that a long gap does not fade itself.
  peak_ = std::max(interval_ + (peak_ - interval_) * std::exp(-gap / kFade), gap);
  if (gap > interval_ / 2) {
    deviation_ += kWeight * (std::abs(gap - mean_) - deviation_);
    mean_ += kWeight * (gap - mean_);
  }
  update();
}

void Detector::update() {
  const double want = std::max(mean_ + kDeviations * deviation_, kPeaks * peak_);
  timeout_.store(static_cast<uint64_t>(std::clamp(want, min_, max_)), std::memory_order_relaxed);
}

}  // namespace hypertwin::ha
