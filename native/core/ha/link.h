// The connection's signs of life, for either side: a thread that sends one each interval, a thread that says
// when the other side was silent for too long. Knows no protocol beyond that.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "ha/detector.h"
#include "wire/channel.h"

namespace hypertwin::ha {

// Gives the calling thread its name and, where that is allowed, precedence over what a busy host runs.
void enter_thread(const char* name);
// Only the precedence.
void prefer_this_thread();

class Link;
// Runs a session's steps up to their end, which is always the connection's. `lose` is told why it ended:
// PEER_LOST when `peer` closed it without a word, HEARTBEAT when it was silent.
void run_session(const Link& link, const std::string& peer, const std::function<void()>& steps,
                 const std::function<void(const std::string& code, const std::string& message)>& lose);

class Link {
 public:
  struct Hooks {
    std::function<void()> beat;         // sends one; may wait and throw PEER_LOST
    std::function<bool()> may_suspect;  // asked when the time-out is over; may be empty
    std::function<void()> tick;         // at each interval, after the beat; may be empty
  };
  Link(wire::Channel& channel, const Heartbeats& options, Hooks hooks);
  // As stop().
  ~Link();

  void start();
  // Any thread but its own. The channel must be closed first when the other side may not be reading.
  void stop();
  // Who receives: a frame came.
  void heard();
  uint64_t timeout_ns() const { return detector_.timeout_ns(); }
  uint64_t last_heard_ns() const { return last_heard_.load(std::memory_order_relaxed); }
  // The channel was closed here, for silence.
  bool silent() const { return silent_.load(std::memory_order_acquire); }

 private:
  void beats();
  void watches();
  // False: stop.
  bool sleep(std::chrono::nanoseconds time);

  wire::Channel& channel_;
  const Heartbeats options_;
  const Hooks hooks_;
  Detector detector_;
  std::atomic<uint64_t> last_heard_{0};
  std::atomic<bool> silent_{false};
  std::mutex mutex_;  // guards stop_
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread beat_, watch_;
};

}  // namespace hypertwin::ha
