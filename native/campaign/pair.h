// What the scenarios of a protection share: hosts as they begin, a protected pair, and what is expected of a
// side that goes on.
#pragma once

#include "scenario.h"

namespace hypertwin::campaign {

// Silence that counts as death, where the scenario is not about it.
inline constexpr ha::Heartbeats kPatient{std::chrono::microseconds(2000), std::chrono::microseconds(400000),
                                         std::chrono::microseconds(400000)};
inline constexpr ha::Heartbeats kPrompt{std::chrono::microseconds(2000), std::chrono::microseconds(60000),
                                        std::chrono::microseconds(60000)};

struct Pair {
  unsigned p, b;
};

NodeOptions restored(const Setup& setup, const ha::Heartbeats& heartbeats = kPatient);
NodeOptions follower(const ha::Heartbeats& heartbeats = kPatient);
// The address of a backup that waits.
std::string listening(Observer& o, unsigned number);
// With users.
unsigned first_primary(Observer& o, const Setup& setup, NodeOptions options);
void await_protection(Observer& o, const Pair& pair);
// A primary with users, protected by a backup; over a relay where one is wanted.
Pair protected_pair(Observer& o, NodeOptions primary, NodeOptions backup, const Setup& setup,
                    Relay** relay = nullptr);
Pair protected_pair(Observer& o, const Setup& setup, const ha::Heartbeats& heartbeats = kPatient,
                    Relay** relay = nullptr);

// It has said how it ends.
bool over(const Observer::Host& host);
bool goes_on(const Observer::Host& host);
// The backup takes over; the users are served by it.
void expect_failover(Observer& o, const Pair& pair, Tally& tally);
void expect_unprotected(Observer& o, const Pair& pair, Tally& tally);
// A machine from the image of a dead host, as after a power failure.
unsigned restart(Observer& o, unsigned dead, Tally& tally, bool record_blocks = false);
void finish(Observer& o, Tally& tally, bool exactly = true);

}  // namespace hypertwin::campaign
