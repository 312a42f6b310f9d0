// Who may run a machine when two could: one question with one winner for each session.
#pragma once

#include <functional>
#include <string>

namespace hypertwin::migrate {

enum class Claim : uint8_t {
  kWon,          // you, and for ever: asking again gives the same answer
  kLost,         // the other side has it
  kUnreachable,  // nobody knows: take no risk, ask again
};

// Test-and-set of `key` (a session's text) by `who` ("source", "destination", "primary", "backup"). Waits;
// any thread; throws nothing.
using Arbiter = std::function<Claim(const std::string& key, const std::string& who)>;

}  // namespace hypertwin::migrate
