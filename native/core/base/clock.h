// The host's clocks, as nanoseconds.
#pragma once

#include <time.h>

#include <cstdint>

namespace hypertwin {

inline uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// For moments and distances.
inline uint64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

}  // namespace hypertwin
