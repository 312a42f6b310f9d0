// Frames over a stream: numbered, checksummed, bounded. Has no thread of its own and no opinion on what the
// frames mean.
#pragma once

#include <atomic>
#include <chrono>
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
  // middle of a frame), PROTOCOL (bad magic, checksum, sequence, size: says what).
  std::optional<Frame> receive();
  // Any thread: ends both directions now.
  void close() noexcept;

  // Bytes a second for bulk frames, 0 for no limit; takes effect at once, also on a send() that waits.
  void limit(uint64_t bytes_per_second);

  uint64_t sent_bytes() const { return sent_.load(std::memory_order_relaxed); }
  uint64_t received_bytes() const { return received_.load(std::memory_order_relaxed); }
  // CLOCK_MONOTONIC of the last whole frame received; 0 before it.
  uint64_t last_received_ns() const { return last_received_.load(std::memory_order_relaxed); }
  std::string peer() const { return stream_->peer(); }

 private:
  // The implementer of channel.cc may change everything private.
  std::unique_ptr<Stream> stream_;
  std::atomic<uint64_t> sent_{0};
  std::atomic<uint64_t> received_{0};
  std::atomic<uint64_t> last_received_{0};
};

}  // namespace hypertwin::wire
