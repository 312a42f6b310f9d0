// An eventfd that somebody polls.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace hypertwin {

// Readable from now on. Async-signal-safe.
inline void ring(int event) {
  const uint64_t one = 1;
  // Fails only where the count is full: then it is readable already.
  [[maybe_unused]] const ssize_t written = ::write(event, &one, sizeof(one));
}

// Not readable until it rings again. For one that does not block.
inline void unring(int event) {
  uint64_t rings = 0;
  // Fails only where it was not readable.
  [[maybe_unused]] const ssize_t taken = ::read(event, &rings, sizeof(rings));
}

}  // namespace hypertwin
