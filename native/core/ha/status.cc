// Events are told without the lock, in the order of the states: one thread enters them.
#include "ha/status.h"

#include "base/error.h"
#include "ha/clock.h"

namespace hypertwin::ha {

std::string_view state_name(State state) {
  switch (state) {
    case State::kSyncing:
      return "syncing";
    case State::kProtected:
      return "protected";
    case State::kSuspecting:
      return "suspecting";
    case State::kUnprotected:
      return "unprotected";
    case State::kLive:
      return "live";
    case State::kHalted:
      return "halted";
    case State::kWaiting:
      return "waiting";
    case State::kEnded:
      return "ended";
  }
  return "unknown";
}

void check_options(const CommonOptions& options) {
  if (!options.arbiter) throw Error("BAD_CONFIG", "an arbiter is needed: somebody must decide who goes on");
  const auto& beats = options.heartbeats;
  if (beats.interval.count() < 100)
    throw Error("BAD_CONFIG", "heartbeats: an interval of " + std::to_string(beats.interval.count()) +
                                  " us; at least 100 are needed");
  if (beats.min_timeout < 3 * beats.interval || beats.max_timeout < beats.min_timeout)
    throw Error("BAD_CONFIG",
                "heartbeats: the time-outs must be at least 3 intervals, the longest not below the "
                "shortest");
}

void Status::enter(State state, const std::string& code, const std::string& message) {
  {
    std::lock_guard lock(mutex_);
    state_ = state;
    changed_.notify_all();
  }
  if (options_.on_event) options_.on_event({state, code, message, now_ns()});
}

State Status::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

namespace {
bool is_settled(State state) {
  return state == State::kUnprotected || state == State::kLive || state == State::kHalted ||
         state == State::kEnded;
}
}  // namespace

bool Status::settled() const { return is_settled(state()); }

void Status::set_timeline(const Timeline& timeline) {
  std::lock_guard lock(mutex_);
  timeline_ = timeline;
}

std::optional<Timeline> Status::timeline() const {
  std::lock_guard lock(mutex_);
  return timeline_;
}

bool Status::wait_settled(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [this] { return is_settled(state_); });
}

}  // namespace hypertwin::ha
