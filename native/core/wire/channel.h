// Frames over a stream: numbered, checksummed, bounded. Has no thread of its own and no opinion on what the
// frames mean.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "wire/frame.h"
#include "wire/stream.h"

namespace hypertwin::wire {

class Channel {
 public:
  explicit Channel(std::unique_ptr<Stream> stream);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Any thread; frames of several threads do not mix. Waits for the socket, and for the bandwidth limit
  // unless the frame is no bulk one (kPages, kBlocks). Throws Error("PEER_LOST"); ERANGE for a payload
  // beyond kMaxPayload in all.
  void send(FrameType type, std::span<const uint8_t> payload, std::span<const uint8_t> more = {});
  // One thread. nullopt: the peer closed in order, between two frames. Throws Error: PEER_LOST (also: in the
  // middle of a frame, and after close()), PROTOCOL (bad magic, checksum, sequence, size: says what; no frame
  // is received after it).
  std::optional<Frame> receive();
  // Any thread: ends both directions now; what send() was given before still arrives. A peer that waits in
  // send() learns of it when it receives, or when this channel is destroyed.
  void close() noexcept;

  // Bytes a second for bulk frames, 0 for no limit; takes effect at once, also on a send() that waits.
  void limit(uint64_t bytes_per_second);
  // Waits until the limit has room again for what was sent last.
  void settle() { wait_for_bandwidth(0); }

  // Any thread: what is sent from now on is not heard, since either side has ended the connection. False:
  // nobody knows.
  bool ended() const noexcept { return closed_ || stream_->ended(); }

  uint64_t sent_bytes() const { return sent_.load(std::memory_order_relaxed); }
  uint64_t received_bytes() const { return received_.load(std::memory_order_relaxed); }
  // CLOCK_MONOTONIC of the last whole frame received; 0 before it.
  uint64_t last_received_ns() const { return last_received_.load(std::memory_order_relaxed); }
  // CLOCK_MONOTONIC of when the write began that waits for the peer now; 0 when none does.
  uint64_t writing_since_ns() const { return writing_since_.load(std::memory_order_relaxed); }
  std::string peer() const { return stream_->peer(); }

 private:
  void wait_for_bandwidth(size_t bytes);
  // The turn to write: a bulk frame lets every other one that waits go first.
  void take_turn(bool bulk);
  void end_turn() noexcept;
  // Reads until `bytes` lie at begin_; false when the stream ended before.
  bool fill(size_t bytes);
  [[noreturn]] void lost(const std::string& what);

  std::unique_ptr<Stream> stream_;
  std::atomic<uint64_t> sent_{0};
  std::atomic<uint64_t> received_{0};
  std::atomic<uint64_t> last_received_{0};
  std::atomic<uint64_t> writing_since_{0};
  std::atomic<bool> closed_{false};

  std::mutex turn_mutex_;  // guards the three below; not held while writing
  std::condition_variable turn_changed_;
  bool writing_ = false;
  unsigned waiting_bulk_ = 0;
  unsigned waiting_other_ = 0;
  uint64_t next_sent_ = 0;  // the writer's, while it has the turn

  std::mutex limit_mutex_;  // guards the bucket
  std::condition_variable limit_changed_;
  uint64_t rate_ = 0;
  double tokens_ = 0;  // may be in debt: a frame is never cut
  std::chrono::steady_clock::time_point filled_;

  // The receiving thread's.
  std::unique_ptr<uint8_t[]> buffer_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t consume_ = 0;  // the last frame, which lives until the next one is received
  uint64_t next_received_ = 0;
  bool broken_ = false;
};

}  // namespace hypertwin::wire
