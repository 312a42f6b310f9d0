// The two clocks of a protection.
#pragma once

#include <time.h>

#include <cstdint>

namespace hypertwin::ha {

inline uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// For moments, as in Event and Timeline.
inline uint64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }
// For the lease: goes on while the host sleeps.
inline uint64_t lease_clock_ns() { return clock_ns(CLOCK_BOOTTIME); }

}  // namespace hypertwin::ha
