// Primary and backup of one machine: the log streamed and acknowledged, outputs held until then, failure
// noticed, and one side that goes on (docs/high-availability.md). Native threads do all of it; the owner
// hears of it through on_event.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/machine.h"
#include "migrate/arbiter.h"
#include "migrate/migrate.h"
#include "wire/channel.h"

namespace hypertwin::ha {

enum class Role : uint8_t { kPrimary, kBackup };

enum class State : uint8_t {
  kSyncing,      // memory and disks are being sent
  kProtected,    // the log is streamed; outputs wait for the backup
  kSuspecting,   // the other side is silent or gone; the arbiter is being asked
  kUnprotected,  // primary: the backup is lost (or let go), the machine goes on without
  kLive,         // backup: it won, the machine runs here now
  kHalted,       // this side may not run the machine: it lost the claim
  kWaiting,      // nobody takes a risk: the arbiter does not answer; machine paused, asking goes on
  kEnded,        // closed on purpose, or by a failure before there was protection
};
std::string_view state_name(State state);

struct Event {
  State state{};
  std::string
      code;  // why: "PEER_LOST", "HEARTBEAT", "HAND_OVER", "ARBITER_UNREACHABLE", "LOST_CLAIM", "DIVERGED", …
  std::string message;  // one sentence
  uint64_t at_ns = 0;   // CLOCK_MONOTONIC
};

// One failover's moments, CLOCK_MONOTONIC; 0 for what did not happen.
struct Timeline {
  uint64_t last_heard_ns = 0;  // the last frame from the other side
  uint64_t detected_ns = 0;    // taken for dead
  uint64_t claimed_ns = 0;     // the arbiter said yes
  uint64_t replayed_ns = 0;    // the received log's end was reached
  uint64_t live_ns = 0;        // outputs and inputs are open
  uint64_t announced_ns = 0;
  uint64_t boundary = 0;  // where it went live
  uint64_t reissued_packets = 0, reissued_requests = 0;
  std::string cause;
};

struct Stats {
  uint64_t log_bytes = 0, log_records = 0, input_bytes = 0, log_blocks = 0;
  uint64_t acked_records = 0;
  uint64_t boundary = 0;       // of this side's machine
  uint64_t peer_boundary = 0;  // replayed by the backup, as last heard
  // Age of the oldest block of the log that is not replayed: at the primary since it was sent, at the backup
  // since it came. 0 when there is none, and when the protection has ended. Then of all blocks.
  uint64_t lag_ns = 0;
  uint64_t lag_p50_ns = 0, lag_p99_ns = 0, lag_max_ns = 0;
  uint64_t round_trip_ns = 0;  // sent log to its acknowledgement, smoothed
  uint64_t held_outputs = 0, held_bytes = 0;
  uint64_t released_outputs = 0, dropped_outputs = 0;
  uint64_t hold_p50_ns = 0, hold_p99_ns = 0;  // output made to output released
  uint64_t paced_ns = 0;                      // time that the primary was made to wait
  uint64_t heartbeat_timeout_ns = 0;          // as adapted
};

struct Heartbeats {
  std::chrono::microseconds interval{2000};
  // Silence that counts as death: adapted between these two to what the connection shows. Equal: fixed.
  std::chrono::microseconds min_timeout{12000};
  std::chrono::microseconds max_timeout{1000000};
};

struct CommonOptions {
  migrate::Arbiter arbiter;  // required
  Heartbeats heartbeats;
  std::function<void(const Event&)> on_event;  // a thread of this side; brief, never calls back
  // "connected", "hello", "state-sent", "protected", "claimed", "live", …, and "log-sent" and "acked" once
  // for each block of the log: for campaigns.
  std::function<void(const char* step)> on_step;
};

struct ProtectOptions : CommonOptions {
  migrate::SenderOptions sync;               // purpose and disks are set here
  std::chrono::microseconds max_lag{20000};  // beyond it the primary waits
  size_t held_bytes = 16u << 20;             // beyond it too
  enum class Loss : uint8_t { kContinue, kStop } on_loss = Loss::kContinue;
  bool record_blocks = false;  // for campaigns: each record of the log is a block of its own
  // Errors planted for tests, to show that they are caught.
  struct Planted {
    bool no_output_rule = false;
    uint64_t drop_record = ~uint64_t{0};  // this record is not sent
  } planted;
};

// A machine's protection, from the primary's side. close() or the destructor ends it in peace: the backup is
// let go (kGoodbye), the machine goes on unprotected. A machine has at most one.
class Primary {
 public:
  // Returns at once; syncing goes on in a thread of its own. Throws Error("BAD_STATE", "BAD_CONFIG").
  static std::unique_ptr<Primary> protect(std::shared_ptr<machine::Machine> machine,
                                          std::unique_ptr<wire::Channel> channel, ProtectOptions options);
  virtual ~Primary() = default;
  virtual State state() const = 0;
  virtual migrate::Progress sync_progress() const = 0;
  virtual Stats stats() const = 0;
  virtual std::optional<Timeline> timeline() const = 0;  // of the loss of the backup
  virtual std::string session() const = 0;
  // Planned: the backup goes live, this side's machine is stopped (Reason::kHandedOver). Waits. Throws
  // BAD_STATE (not protected), HAND_OVER_FAILED (the machine goes on here, or as the events say).
  virtual void hand_over() = 0;
  virtual void close() = 0;
};

struct BackupOptions : CommonOptions {
  std::shared_ptr<machine::Listener> listener;  // of the machine; hears packets and console bytes once live
  std::function<void(machine::MachineConfig&)> adjust;
  size_t retained_bytes = 16u << 20;  // outputs kept to be sent again at go-live
  bool announce = true;               // gratuitous ARP for the guest's addresses, and RARP, at go-live
};

class Backup {
 public:
  // Returns at once; everything happens in threads of its own.
  static std::unique_ptr<Backup> follow(std::shared_ptr<kvm::System> system,
                                        std::unique_ptr<wire::Channel> channel, BackupOptions options);
  virtual ~Backup() = default;
  virtual State state() const = 0;
  virtual migrate::Progress sync_progress() const = 0;
  virtual Stats stats() const = 0;
  virtual std::optional<Timeline> timeline() const = 0;
  virtual std::string session() const = 0;
  // The machine: a replica before kLive (look, do not touch), the machine from then on; nullptr while
  // syncing.
  virtual std::shared_ptr<machine::Machine> machine() const = 0;
  // Waits until kLive, kHalted or kEnded; nullopt after `limit`.
  virtual std::optional<State> wait_settled(std::chrono::milliseconds limit) = 0;
  // Before kLive: the replica goes away, the primary is told. After: nothing, the machine is its holder's.
  virtual void close() = 0;
};

}  // namespace hypertwin::ha
