// The campaign's scenarios: each drives hosts and observer through one kind of misfortune, and throws
// Violation when a promise is broken.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coverage.h"
#include "observer.h"

namespace hypertwin::campaign {

// What a run did; added up for the summary.
struct Tally {
  uint64_t kills = 0;
  uint64_t failovers = 0;      // a backup went live
  uint64_t carried_on = 0;     // a primary or a source did
  uint64_t restarts = 0;       // nobody was to go on: booted from its disk
  uint64_t false_alarms = 0;   // a side was taken for dead that was not
  uint64_t acknowledged = 0;   // requests
  uint64_t moves = 0;          // whole migrations
  uint64_t zombie_frames = 0;  // repeats from a fenced side
  uint64_t zombie_writes = 0;  // disks that a fenced side still changed
  // Frames between hosts with a network of their own.
  uint64_t frames_carried = 0, frames_lost = 0, frames_doubled = 0, frames_overtaken = 0;
  uint64_t by_netem = 0, by_bridge = 0;  // runs whose weather was the kernel's; the observer's
  uint64_t stalled = 0;                  // runs given up because the host's kernel kept a call of a node
  Coverage hit;                          // by kills
  void operator+=(const Tally& other);
  std::string json() const;
};

struct Setup {
  std::string folder;  // of everything; short
  std::string snapshot, disk;
  uint64_t seed = 1;
};

struct Scenario {
  const char* name;
  const char* group;
  uint64_t kills;  // of one run, about
  uint64_t quick;  // runs of the quick part
  void (*run)(Observer&, const Setup&, uint64_t index, Tally&);
  // Of a campaign's kills, in hundredths; 0: as many runs as a hundredth has kills.
  unsigned share = 0;
  // Why it cannot run on this host; empty when it can.
  std::string (*unable)() = nullptr;
};

const std::vector<Scenario>& ha_scenarios();
const std::vector<Scenario>& migrate_scenarios();

// A failover seen by the users, `silent`: without a reset. Nanoseconds from the primary's end to the first
// answer of the backup.
struct Failover {
  uint64_t pause_ns = 0;
  uint64_t longest_gap_ns = 0;
};
Failover one_failover(Observer& observer, const Setup& setup, bool silent);

}  // namespace hypertwin::campaign
