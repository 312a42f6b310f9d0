// One host of a campaign, a process of its own: a machine that runs, is protected, follows or moves, told
// what to do by the observer, killed or stopped by itself at a step.
#pragma once

#include <signal.h>

#include <cstdint>
#include <string>

#include "ha/ha.h"

namespace hypertwin::campaign {

// Where a node ends itself: at the nth time (from 0) that it comes to a step of the protocol.
struct KillAt {
  std::string step;  // empty: never
  uint64_t nth = 0;
  int signal = SIGKILL;
};

struct NodeOptions {
  enum class Begin {
    kRestore,      // the booted mailroom of the template
    kBoot,         // a mailroom from the disk alone
    kBackup,       // waits for a primary
    kDestination,  // waits for a migration
  } begin = Begin::kRestore;
  unsigned number = 0;
  int socket = -1;  // to the observer
  std::string snapshot;
  std::string disk;     // this side's image
  std::string listen;   // backup, destination: an address
  int lan_port = -1;    // of the observer's Ethernet, with a network of its own
  std::string arbiter;  // its folder; empty: none
  bool arbiter_says_yes = false;
  KillAt kill;
  ha::Heartbeats heartbeats;
  ha::ProtectOptions::Planted planted;
  bool record_blocks = false;            // of a log that it sends
  uint64_t skipped_page = ~uint64_t{0};  // of which round of a migration
};

// Commands: "protect <address>", "migrate <address>", "hand-over", "limit <bytes>" (the largest file it may
// write), "state". Events: "listening <address>", "ready", "ha <state> <code>", "session <text>",
// "migrated <code> <digest>", "received <code> <digest>", "live", "state <machine's state> <reason>",
// "failed <text>".
[[noreturn]] void run_node(NodeOptions options);

// Boots a mailroom with this disk (made empty) and writes its snapshot.
void make_template(const std::string& snapshot, const std::string& disk);

}  // namespace hypertwin::campaign
