// Writes one log: records are encoded on the caller's thread into a bounded buffer and committed in
// blocks by a thread of the writer's own ("ht-log"). It knows no machine.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "log/format.h"
#include "log/record.h"
#include "log/sink.h"

namespace hypertwin::log {

enum class SyncPolicy {
  kNone,      // durable = handed to the kernel: survives the process, not the host
  kInterval,  // durable = synced, at least once in `sync_interval` while records come
  kAlways,    // durable = synced, at each commit
};

enum class FullPolicy {
  kWait,  // append() waits for room
  kFail,  // append() throws Error("LOG_BUFFER_FULL")
};

struct WriterOptions {
  SyncPolicy sync = SyncPolicy::kNone;
  std::chrono::milliseconds sync_interval{50};
  // A record waits at most about this long for others to share its block …
  std::chrono::microseconds commit_latency{1500};
  // … or until so many bytes are there.
  size_t commit_bytes = 64u << 10;
  // … or until it is full: of so many records, for who wants them one by one.
  uint32_t block_records = UINT32_MAX;
  // Records not yet durable, in bytes; at least 2 * kMaxRecordBytes are taken.
  size_t buffer_bytes = 8u << 20;
  FullPolicy full = FullPolicy::kWait;
  uint64_t segment_bytes = 64u << 20;
  // Called by ht-log with durable_index() whenever it has grown; must not call the writer's flush(),
  // retry() or close().
  std::function<void(uint64_t)> on_durable;
  // Called by ht-log once per failure; same rule.
  std::function<void(const Error&)> on_failure;
};

struct WriterStats {
  uint64_t records = 0;
  // Blocks and segment headers included, as handed to the sink.
  uint64_t bytes = 0;
  uint64_t blocks = 0;
  uint64_t segments = 0;
  uint64_t syncs = 0;
  uint64_t buffer_high_water = 0;
  // How often append() had to wait for room.
  uint64_t waits = 0;
  // Bytes from outside in the records (see input_bytes()): what the log is measured against.
  uint64_t input_bytes = 0;
  // Encoded bytes by kind; [0] is all extensions.
  std::array<uint64_t, 14> bytes_by_kind{};
};

// append() is for one thread (or several that exclude one another); everything else for any thread.
//
// When the sink fails (disk full, I/O error) the writer is failed: append(), flush() and close() throw
// Error("LOG_WRITE_FAILED") with the errno, the path and how much is durable. append() did then not take
// its record. Everything taken before stays in the buffer; retry() goes on with it, in order.
class Writer {
 public:
  // Creates the log's directory and first segment. Throws Error: LOG_EXISTS, or the failed call.
  static std::unique_ptr<Writer> create(const std::filesystem::path& directory, const LogHeader& header,
                                        WriterOptions options = {});
  Writer(std::unique_ptr<Sink> sink, const LogHeader& header, WriterOptions options);
  // Closes; what close() would throw is lost.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Takes a record and returns its index. `boundary` never goes back. Throws Error: LOG_WRITE_FAILED,
  // LOG_BUFFER_FULL, LOG_BAD_RECORD (too big, boundary goes back), LOG_CLOSED (also after an End record).
  uint64_t append(uint64_t boundary, const Body& body);

  // Everything appended so far is written as soon as can be, whatever commit_latency is; waits for nothing.
  void commit();
  // Waits until everything appended so far is written, and synced unless the policy is kNone.
  void flush();
  // After a failure: tries again; returns once the blocks of before are durable, throws as append() does.
  void retry();
  // Flushes and ends the thread. When it throws the writer is failed as before and may be retried; a
  // second close() after success does nothing.
  void close();

  // One past the last durable record.
  uint64_t durable_index() const { return durable_index_.load(std::memory_order_acquire); }
  // Waits until durable_index() >= index; throws as flush() does.
  void wait_durable(uint64_t index);
  // Cheap: for a look at each boundary.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // The failure while failed().
  std::optional<Error> error() const;
  WriterStats stats() const;
  // The chain after the last durable block.
  Digest128 chain() const;
  const LogHeader& header() const { return header_; }

 private:
  // Room for a block header, then the payload.
  struct Block {
    std::unique_ptr<uint8_t[]> data;
    size_t capacity = 0;
    size_t size = 0;
    BlockHeader header;
    Digest128 chain_after;
    bool encoded = false;
  };
  using Lock = std::unique_lock<std::mutex>;
  using Clock = std::chrono::steady_clock;

  void run();
  void commit(Lock& lock, bool sync);
  void encode(Block& block);
  void write(const Block& block);
  void roll(const Block& block);
  void sync(Lock& lock);
  // Takes `count` blocks that became durable out of pending_.
  void release(Lock& lock, size_t count);
  void fail(Lock& lock, const Error& cause);
  bool sync_due(Clock::time_point now) const;
  void seal();
  void open_block(size_t payload);
  void wait_for_room(Lock& lock, size_t bytes);
  void wait_until_durable(Lock& lock, uint64_t index);
  [[noreturn]] void throw_failed() const;

  const LogHeader header_;
  const WriterOptions options_;
  const uint64_t seed_;
  const std::vector<uint8_t> header_blob_;

  // Used by ht-log only (and by the constructor before that runs).
  std::unique_ptr<Sink> sink_;
  uint32_t segment_ = 0;
  uint64_t segment_header_bytes_ = 0;
  uint64_t offset_ = 0;
  Digest128 encoded_chain_;

  // Guards everything below.
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable progress_;
  // The block that append() fills; no data when it has no record.
  Block open_;
  Clock::time_point open_since_;
  // Sealed blocks, in order; the first written_ of them only wait for a sync.
  std::deque<Block> pending_;
  size_t written_ = 0;
  uint64_t unsynced_bytes_ = 0;
  Clock::time_point last_sync_;
  std::vector<Block> spare_;
  // Bytes of open_ and pending_.
  size_t buffered_ = 0;
  Cursor cursor_;
  uint64_t next_index_ = 0;
  // Someone waits until everything before this index is durable.
  uint64_t wanted_ = 0;
  // ht-log sleeps without a deadline.
  bool idle_ = false;
  bool ended_ = false;
  bool stop_ = false;
  bool closed_ = false;
  std::optional<Error> error_;
  Digest128 durable_chain_;
  WriterStats stats_;

  std::atomic<uint64_t> durable_index_{0};
  std::atomic<bool> failed_{false};
  std::thread thread_;
};

}  // namespace hypertwin::log
