// The state of one side, its events and its steps, as its owner hears of them.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "ha/ha.h"

namespace hypertwin::ha {

// Throws Error("BAD_CONFIG").
void check_options(const CommonOptions& options);

class Status {
 public:
  Status(const CommonOptions& options, State first) : options_(options), state_(first) {}

  void enter(State state, const std::string& code, const std::string& message);
  void step(const char* name) const {
    if (options_.on_step) options_.on_step(name);
  }
  State state() const;
  // Nothing changes any more.
  bool settled() const;
  void set_timeline(const Timeline& timeline);
  std::optional<Timeline> timeline() const;
  // False: not settled within `limit`.
  bool wait_settled(std::chrono::milliseconds limit);

 private:
  const CommonOptions& options_;
  mutable std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  State state_;
  std::optional<Timeline> timeline_;
};

}  // namespace hypertwin::ha
