// When silence counts as death: adapted to the gaps that the connection showed, within bounds. Knows no
// clock and no connection.
#pragma once

#include <atomic>
#include <cstdint>

#include "ha/ha.h"

namespace hypertwin::ha {

// heard() is for one thread, timeout_ns() for any.
class Detector {
 public:
  explicit Detector(const Heartbeats& options);
  // Something came at `now`.
  void heard(uint64_t now);
  uint64_t timeout_ns() const { return timeout_.load(std::memory_order_relaxed); }

 private:
  void update();

  const double interval_, min_, max_;
  uint64_t last_ = 0;
  double mean_, deviation_;  // of gaps that are not the middle of a burst
  double peak_;              // the longest gap, fading
  std::atomic<uint64_t> timeout_{0};
};

}  // namespace hypertwin::ha
