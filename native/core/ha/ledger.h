// What of the log was sent when, and how far the other side has it: bytes that it acknowledges become
// records, boundaries that it replayed become a lag. Knows no socket.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

#include "ha/lag.h"

namespace hypertwin::ha {

class Ledger {
 public:
  struct Block {
    uint64_t end_bytes = 0;   // of everything sent, with this block
    uint64_t end_record = 0;  // one past its last record
    uint64_t boundary = 0;    // its last record's
    uint64_t sent_ns = 0;
  };

  // The sending thread, before the bytes go: a block; a segment's header.
  void sent(const Block& block);
  void sent_header(uint64_t end_bytes) { bytes_.store(end_bytes, std::memory_order_relaxed); }
  // The receiving thread: so many bytes are there. One past the last record that is there wholly. Throws
  // Error("PROTOCOL") when so much was never sent.
  uint64_t acknowledged(uint64_t bytes, uint64_t now);
  // The receiving thread: the other side was at `boundary` at `now`.
  void replayed(uint64_t boundary, uint64_t now) { lag_.replayed(boundary, now); }

  // Any thread.
  uint64_t acknowledged_records() const { return records_.load(std::memory_order_relaxed); }
  uint64_t acknowledged_blocks() const { return acknowledged_.load(std::memory_order_relaxed); }
  // Age of the oldest block that is not replayed.
  uint64_t lag(uint64_t now) const { return lag_.behind(now); }
  uint64_t round_trip_ns() const { return round_trip_.load(std::memory_order_relaxed); }
  uint64_t blocks() const { return blocks_.load(std::memory_order_relaxed); }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  const Histogram& lags() const { return lag_.samples(); }

 private:
  std::mutex mutex_;  // guards the queue
  std::deque<Block> unacknowledged_;
  std::atomic<uint64_t> records_{0}, acknowledged_{0}, round_trip_{0}, blocks_{0}, bytes_{0};
  Lag lag_;
};

}  // namespace hypertwin::ha
