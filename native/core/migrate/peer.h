// The other side of a migration: what it may send next, and how long it may keep silent. One per side.
#pragma once

#include <chrono>
#include <condition_variable>
#include <initializer_list>
#include <mutex>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "wire/channel.h"

namespace hypertwin::migrate {

class Peer {
 public:
  Peer(wire::Channel& channel, std::string_view name) : channel_(channel), name_(name) {}
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // The next frame, which is one of `expected`. After `patience` (0: for ever) of waiting the channel is
  // closed. Throws Error: PEER_LOST, PROTOCOL, and `refused` with the other side's words when it sent kRefuse
  // or kAbort.
  wire::Frame receive(std::initializer_list<wire::FrameType> expected, std::chrono::milliseconds patience,
                      const char* refused);
  // As Channel::send; but what the other side said before it went away is what is thrown.
  void send(wire::FrameType type, std::span<const uint8_t> payload, const char* refused);
  // Best effort: the last thing this side says. False: the other side does not hear it.
  bool tell(wire::FrameType type, const Error& error) noexcept;
  // From now on a write that the other side does not take in for `patience` (0: for ever) closes the channel.
  void limit_sends(std::chrono::milliseconds patience);
  // Any thread: the channel is closed after `grace`, unless forgive() comes first.
  void condemn(std::chrono::milliseconds grace);
  void forgive();

  wire::Channel& channel() { return channel_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  void arm(Clock::time_point& deadline, std::chrono::milliseconds after);
  void disarm(Clock::time_point& deadline);
  void watch();
  [[noreturn]] void refused_by(const wire::Frame& frame, const char* code);

  wire::Channel& channel_;
  const std::string_view name_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  Clock::time_point silence_ = kNever;
  Clock::time_point condemned_ = kNever;
  std::chrono::milliseconds patience_{0};  // of sends
  bool silent_ = false;                    // closed for silence
  bool deaf_ = false;                      // closed since it takes nothing in
  bool ended_ = false;
  std::thread watcher_;  // ht-mig-watch: closes the channel when a deadline has passed; ends with this
};

}  // namespace hypertwin::migrate
