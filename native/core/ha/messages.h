// What the logging channel's frames say (docs/migration-protocol.md). Bytes only; no socket, no machine.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hypertwin::ha {

// kHeartbeat, primary to backup.
struct PrimaryBeat {
  bool armed = false;             // from here on the backup may claim, and the primary needs the claim
  bool paused = false;            // by the machine's owner, or not started yet
  uint64_t sent_ns = 0;           // the primary's lease clock; the backup sends it back
  uint64_t released = 0;          // outputs let out since the state was sent
  uint64_t settled_records = 0;   // the first so many records hold …
  uint64_t settled_boundary = 0;  // … all that there is up to this boundary, left by the primary
};

// kAck and kHeartbeat, backup to primary.
struct BackupReport {
  bool armed = false;
  uint64_t echo_ns = 0;     // the latest PrimaryBeat's sent_ns
  uint64_t promise_ns = 0;  // silence shorter than this, from that beat on, is not taken for death
  uint64_t received = 0;    // bytes of kSegment and kLog
  uint64_t boundary = 0;    // replayed
  uint64_t dry_ns = 0;      // how long ago the last received record was replayed; 0: some are left
};

struct Goodbye {
  std::string code;
  std::string message;
};

// The code of a goodbye, and of the event, when there is nothing left to protect.
inline constexpr char kGuestEnded[] = "GUEST_ENDED";

std::vector<uint8_t> encode(const PrimaryBeat& beat);
std::vector<uint8_t> encode(const BackupReport& report);
std::vector<uint8_t> encode(const Goodbye& goodbye);
// Throw Error("PROTOCOL"). Bytes behind what is known are a later version's.
PrimaryBeat decode_beat(std::span<const uint8_t> payload);
BackupReport decode_report(std::span<const uint8_t> payload);
Goodbye decode_goodbye(std::span<const uint8_t> payload);

}  // namespace hypertwin::ha
