// The clock of a protection's lease.
#pragma once

#include "base/clock.h"

namespace hypertwin::ha {

// Goes on while the host sleeps.
inline uint64_t lease_clock_ns() { return clock_ns(CLOCK_BOOTTIME); }

}  // namespace hypertwin::ha
