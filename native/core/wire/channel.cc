// Frames over a stream. A send of small parts is one write, and one read takes in as many frames as are
// there.
#include "wire/channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/digest.h"
#include "base/error.h"

namespace hypertwin::wire {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadAhead = 256u << 10;
// What may be sent at once after a pause, as a part of a second's worth.
constexpr double kBurstSeconds = 0.02;

bool is_bulk(FrameType type) { return type == FrameType::kPages || type == FrameType::kBlocks; }

}  // namespace

Channel::Channel(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

Channel::~Channel() { close(); }

void Channel::lost(const std::string& what) {
  throw Error("PEER_LOST", closed_ ? "wire: the connection to " + peer() + " was closed on this side"
                                   : "wire: " + peer() + " " + what);
}

void Channel::take_turn(bool bulk) {
  std::unique_lock lock(turn_mutex_);
  auto& waiting = bulk ? waiting_bulk_ : waiting_other_;
  waiting++;
  turn_changed_.wait(lock, [&] { return !writing_ && (!bulk || waiting_other_ == 0); });
  waiting--;
  writing_ = true;
}

void Channel::end_turn() noexcept {
  std::lock_guard lock(turn_mutex_);
  writing_ = false;
  if (waiting_bulk_ + waiting_other_ != 0) turn_changed_.notify_all();
}

void Channel::wait_for_bandwidth(size_t bytes) {
  std::unique_lock lock(limit_mutex_);
  while (rate_ != 0 && !closed_) {
    const auto now = Clock::now();
    const auto rate = static_cast<double>(rate_);
    tokens_ =
        std::min(tokens_ + rate * std::chrono::duration<double>(now - filled_).count(), rate * kBurstSeconds);
    filled_ = now;
    if (tokens_ >= 0) {
      tokens_ -= static_cast<double>(bytes);
      return;
    }
    // Never longer than a second: very low limits would overflow the clock.
    const double wait = std::min(-tokens_ / rate, 1.0);
    limit_changed_.wait_until(
        lock, now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(wait)) +
                  std::chrono::microseconds(1));
  }
}

void Channel::limit(uint64_t bytes_per_second) {
  std::lock_guard lock(limit_mutex_);
  rate_ = bytes_per_second;
  tokens_ = 0;
  filled_ = Clock::now();
  limit_changed_.notify_all();
}

void Channel::send(FrameType type, std::span<const uint8_t> payload, std::span<const uint8_t> more) {
  if (payload.size() > kMaxPayload || more.size() > kMaxPayload - payload.size())
    throw Error("ERANGE", std::string("wire: a ") + frame_name(type) + " frame of " +
                              std::to_string(payload.size() + more.size()) + " bytes; " +
                              std::to_string(kMaxPayload) + " is the most");
  const size_t size = payload.size() + more.size();
  const bool bulk = is_bulk(type);
  if (bulk) wait_for_bandwidth(size + kHeaderBytes);
  const uint64_t checksum = checksum64_of(payload, more);
  std::array<uint8_t, kHeaderBytes> head;

  take_turn(bulk);
  struct Turn {
    Channel* channel;
    ~Turn() {
      channel->writing_since_.store(0, std::memory_order_relaxed);
      channel->end_turn();
    }
  } turn{this};
  if (closed_) lost("");
  encode_header({type, static_cast<uint32_t>(size), next_sent_}, checksum, head);
  const std::array<std::span<const uint8_t>, 3> parts{head, payload, more};
  writing_since_.store(now_ns(), std::memory_order_relaxed);
  try {
    stream_->write(parts);
  } catch (...) {
    // Perhaps a part of the frame went out: nothing may follow it.
    if (closed_) lost("");
    stream_->shutdown();
    throw;
  }
  next_sent_++;
  sent_.fetch_add(size + kHeaderBytes, std::memory_order_relaxed);
}

bool Channel::fill(size_t bytes) {
  if (begin_ + bytes > capacity_) {
    if (bytes > capacity_) {
      const size_t capacity = std::max(bytes, kReadAhead);
      auto buffer = std::make_unique_for_overwrite<uint8_t[]>(capacity);
      if (end_ != begin_) std::memcpy(buffer.get(), buffer_.get() + begin_, end_ - begin_);
      buffer_ = std::move(buffer);
      capacity_ = capacity;
    } else {
      std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    }
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ - begin_ < bytes) {
    const size_t got = stream_->read({buffer_.get() + end_, capacity_ - end_});
    if (got == 0) return false;
    end_ += got;
  }
  return true;
}

std::optional<Frame> Channel::receive() {
  if (broken_) throw Error("PROTOCOL", "wire: the connection to " + peer() + " is broken");
  begin_ += std::exchange(consume_, 0);
  if (begin_ == end_) begin_ = end_ = 0;
  try {
    if (!fill(kHeaderBytes)) {
      if (closed_ || begin_ != end_) lost("went away in the middle of a frame");
      return std::nullopt;
    }
    FrameHeader header = decode_header(
        std::span<const uint8_t, kHeaderBytes>(buffer_.get() + begin_, kHeaderBytes), next_received_);
    if (!fill(kHeaderBytes + header.size)) lost("went away in the middle of a frame");
    const std::span<const uint8_t> payload(buffer_.get() + begin_ + kHeaderBytes, header.size);
    check_frame(std::span<const uint8_t, kHeaderBytes>(buffer_.get() + begin_, kHeaderBytes), payload);
    consume_ = kHeaderBytes + header.size;
    next_received_++;
    received_.fetch_add(consume_, std::memory_order_relaxed);
    last_received_.store(now_ns(), std::memory_order_relaxed);
    return Frame{header.type, header.sequence, payload};
  } catch (const Error& error) {
    if (error.code() == "PROTOCOL") broken_ = true;
    if (error.code() == "PEER_LOST" && closed_) lost("");
    throw;
  }
}

void Channel::close() noexcept {
  if (closed_.exchange(true)) return;
  stream_->shutdown();
  std::lock_guard lock(limit_mutex_);
  limit_changed_.notify_all();
}

}  // namespace hypertwin::wire
