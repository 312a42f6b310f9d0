#include "coverage.h"

#include <algorithm>

#include "base/error.h"

namespace hypertwin::campaign {

namespace {

// What comes later: the other side is lost, the machine is handed over, nobody or somebody else may run it.
const std::vector<std::string>& later_steps(Side side) {
  static const std::vector<std::string> primary{"suspecting", "claimed",    "unprotected", "handing-over",
                                                "waiting",    "lost-claim", "fenced"};
  static const std::vector<std::string> backup{"suspecting",   "claimed", "replayed", "live",
                                               "handing-over", "waiting", "halted",   "ended"};
  return side == Side::kPrimary ? primary : backup;
}

size_t count_of(Side side) { return first_steps(side).size() + later_steps(side).size(); }

}  // namespace

const std::vector<std::string>& first_steps(Side side) {
  static const std::vector<std::string> primary{
      "connected",       "sync-hello-sent", "sync-accepted",       "hello", "sync-round-sent", "copied",
      "sync-state-sent", "state-sent",      "sync-ready-received", "ready", "protected"};
  static const std::vector<std::string> backup{"connected", "hello", "state-received", "ready", "armed"};
  return side == Side::kPrimary ? primary : backup;
}

void Coverage::step(Side side, const std::string& name) {
  size_t at = side == Side::kPrimary ? 0 : count_of(Side::kPrimary);
  for (const auto* steps : {&first_steps(side), &later_steps(side)}) {
    const auto found = std::find(steps->begin(), steps->end(), name);
    at += static_cast<size_t>(found - steps->begin());
    if (found == steps->end()) continue;
    steps_.set(at);
    return;
  }
  throw Error("CAMPAIGN", "no step is called " + name);
}

void Coverage::operator+=(const Coverage& other) {
  steps_ |= other.steps_;
  blocks_ |= other.blocks_;
  records_ |= other.records_;
}

std::string Coverage::json() const {
  std::string text;
  auto add = [&](const std::string& name, size_t hit, size_t all) {
    if (hit)
      text += ",\"" + name + "\":" + std::to_string(hit) + ",\"" + name + "Of\":" + std::to_string(all);
  };
  add("records", records_.count(), records_.size());
  add("blocks", blocks_.count(), blocks_.size());
  add("steps", steps_.count(), count_of(Side::kPrimary) + count_of(Side::kBackup));
  return text;
}

}  // namespace hypertwin::campaign
