// A queue of blocks, shortened from its front.
#include "ha/ledger.h"

#include "base/error.h"

namespace hypertwin::ha {

void Ledger::sent(const Block& block) {
  std::lock_guard lock(mutex_);
  bytes_.store(block.end_bytes, std::memory_order_relaxed);
  blocks_.fetch_add(1, std::memory_order_relaxed);
  unacknowledged_.push_back(block);
  lag_.came(block.boundary, block.sent_ns);
}

uint64_t Ledger::acknowledged(uint64_t bytes, uint64_t now) {
  std::lock_guard lock(mutex_);
  uint64_t records = records_.load(std::memory_order_relaxed);
  uint64_t sent_ns = 0;
  while (!unacknowledged_.empty() && unacknowledged_.front().end_bytes <= bytes) {
    records = unacknowledged_.front().end_record;
    sent_ns = unacknowledged_.front().sent_ns;
    unacknowledged_.pop_front();
    acknowledged_.fetch_add(1, std::memory_order_relaxed);
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

}  // namespace hypertwin::ha
