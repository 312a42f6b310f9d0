// Two queues of the same blocks, each shortened from its front.
#include "ha/ledger.h"

#include "base/error.h"

namespace hypertwin::ha {

void Ledger::sent(const Block& block) {
  std::lock_guard lock(mutex_);
  bytes_.store(block.end_bytes, std::memory_order_relaxed);
  blocks_.fetch_add(1, std::memory_order_relaxed);
  unacknowledged_.push_back(block);
  if (unreplayed_.empty()) oldest_.store(block.sent_ns, std::memory_order_relaxed);
  unreplayed_.push_back(block);
}

uint64_t Ledger::acknowledged(uint64_t bytes, uint64_t now) {
  std::lock_guard lock(mutex_);
  uint64_t records = records_.load(std::memory_order_relaxed);
  uint64_t sent_ns = 0;
  while (!unacknowledged_.empty() && unacknowledged_.front().end_bytes <= bytes) {
    records = unacknowledged_.front().end_record;
    sent_ns = unacknowledged_.front().sent_ns;
    unacknowledged_.pop_front();
  }
  if (unacknowledged_.empty() && bytes > bytes_.load(std::memory_order_relaxed))
    throw Error("PROTOCOL", "the backup acknowledges " + std::to_string(bytes) +
                                " bytes of the log, but only " + std::to_string(bytes_.load()) +
                                " were sent");
  if (sent_ns != 0 && now >= sent_ns) {
    const uint64_t old = round_trip_.load(std::memory_order_relaxed);
    const uint64_t sample = now - sent_ns;
    round_trip_.store(old == 0 ? sample : old - old / 8 + sample / 8, std::memory_order_relaxed);
  }
  records_.store(records, std::memory_order_relaxed);
  return records;
}

void Ledger::replayed(uint64_t boundary, uint64_t now) {
  std::lock_guard lock(mutex_);
  while (!unreplayed_.empty() && unreplayed_.front().boundary <= boundary) {
    lags_.add(now > unreplayed_.front().sent_ns ? now - unreplayed_.front().sent_ns : 0);
    unreplayed_.pop_front();
  }
  oldest_.store(unreplayed_.empty() ? 0 : unreplayed_.front().sent_ns, std::memory_order_relaxed);
}

}  // namespace hypertwin::ha
