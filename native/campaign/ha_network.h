// Hosts on a network of their own, with real TCP between them, that loses, delays, doubles and reorders what
// they send, or cuts one direction.
#pragma once

#include "scenario.h"

namespace hypertwin::campaign {

void net_partition(Observer& o, const Setup& setup, uint64_t index, Tally& tally);
void net_loss(Observer& o, const Setup& setup, uint64_t index, Tally& tally);
void net_reorder(Observer& o, const Setup& setup, uint64_t index, Tally& tally);
void net_delay(Observer& o, const Setup& setup, uint64_t index, Tally& tally);
// For Scenario::unable.
std::string net_unable();

}  // namespace hypertwin::campaign
