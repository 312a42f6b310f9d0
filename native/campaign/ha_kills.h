// Chains of kills: whoever survives is protected again by a new backup, and the next one is killed.
#pragma once

#include "scenario.h"

namespace hypertwin::campaign {

inline constexpr unsigned kLinks = 8;  // of a chain
// Kills of a chain, about.
inline constexpr uint64_t kChainKills = 8, kRecordChainKills = 10;

// At each step, at each block of the log, at random moments, and both sides, one after the other.
void kills(Observer& o, const Setup& setup, uint64_t index, Tally& tally);
// At each record of the log, sent or acknowledged: the primary, the backup, and both.
void record_kills(Observer& o, const Setup& setup, uint64_t index, Tally& tally);

}  // namespace hypertwin::campaign
