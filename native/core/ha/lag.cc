// A queue, shortened from its front.
#include "ha/lag.h"

namespace hypertwin::ha {

void Lag::came(uint64_t boundary, uint64_t now) {
  std::lock_guard lock(mutex_);
  if (blocks_.empty()) oldest_.store(now, std::memory_order_relaxed);
  blocks_.push_back({boundary, now});
}

void Lag::replayed(uint64_t boundary, uint64_t now) {
  std::lock_guard lock(mutex_);
  while (!blocks_.empty() && blocks_.front().boundary <= boundary) {
    samples_.add(now > blocks_.front().at ? now - blocks_.front().at : 0);
    blocks_.pop_front();
  }
  oldest_.store(blocks_.empty() ? 0 : blocks_.front().at, std::memory_order_relaxed);
}

}  // namespace hypertwin::ha
