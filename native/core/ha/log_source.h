// A log as it comes over a channel: kept until its reader has read it. Any thread may call any method, one
// at a time each side: who receives, and who reads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "ha/block_codec.h"
#include "log/source.h"

namespace hypertwin::ha {

class LogSource final : public log::Source {
 public:
  explicit LogSource(size_t limit) : limit_(limit) {}

  // ---- Who receives. Throw Error: PROTOCOL (a segment out of turn, bytes before one), BACKUP_SLOW (more
  // than `limit` bytes are unread).
  void begin_segment(uint32_t number, std::span<const uint8_t> header);
  // A kLog frame's payload. The reader is told of it by announce().
  void append(std::span<const uint8_t> frame);
  void announce();
  // Of the last record that came.
  uint64_t boundary() const { return unpacker_.boundary(); }
  // Bytes of both, ever.
  uint64_t received() const { return received_.load(std::memory_order_relaxed); }
  // No more will come: the reader ends behind what is there.
  void finish();
  // Lets the reader, if it waits, return to its caller for once.
  void wake();
  // Since when the reader waits for more; 0 when it does not.
  uint64_t dry_since() const { return dry_since_.load(std::memory_order_relaxed); }

  // ---- log::Source
  std::vector<uint32_t> segments() override;
  uint64_t size(uint32_t segment) override;
  size_t read(uint32_t segment, uint64_t offset, std::span<uint8_t> out) override;
  void wait(std::chrono::milliseconds timeout) override;
  void cancel() override;
  bool cancelled() const override { return cancelled_.load(std::memory_order_acquire); }
  bool complete() const override { return complete_.load(std::memory_order_acquire); }
  bool yields() override { return woken_.exchange(false); }

 private:
  struct Segment {
    uint32_t number = 0;
    std::vector<uint8_t> header;  // its first bytes, kept
    uint64_t begin = 0;           // of chunks
    uint64_t end = 0;
    std::deque<std::vector<uint8_t>> chunks;
  };
  void check_room(size_t size) const;
  Segment* find(uint32_t number);

  BlockUnpacker unpacker_;  // who receives
  const size_t limit_;
  std::mutex mutex_;  // guards the members up to seen_
  std::condition_variable grown_;
  std::deque<Segment> segments_;
  size_t unread_ = 0;
  uint64_t changes_ = 0, seen_ = 0;
  std::atomic<uint64_t> received_{0}, dry_since_{0};
  std::atomic<bool> cancelled_{false}, complete_{false}, woken_{false};
};

}  // namespace hypertwin::ha
