// How far a replay is behind the log: blocks with the time at which they were sent, or came, until the replay
// has passed them. Knows no socket and no machine.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

#include "ha/histogram.h"

namespace hypertwin::ha {

// Any thread.
class Lag {
 public:
  // A block is there, its last record at `boundary`.
  void came(uint64_t boundary, uint64_t now);
  // The replay was at `boundary` at `now`.
  void replayed(uint64_t boundary, uint64_t now);

  // Age of the oldest block that is not replayed; 0 when there is none.
  uint64_t behind(uint64_t now) const {
    const uint64_t oldest = oldest_.load(std::memory_order_relaxed);
    return oldest == 0 || now < oldest ? 0 : now - oldest;
  }
  // Of each block that was replayed.
  const Histogram& samples() const { return samples_; }

 private:
  struct Block {
    uint64_t boundary = 0, at = 0;
  };
  std::mutex mutex_;  // guards blocks_, and who adds to samples_
  std::deque<Block> blocks_;
  std::atomic<uint64_t> oldest_{0};
  Histogram samples_;
};

}  // namespace hypertwin::ha
