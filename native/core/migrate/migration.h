// A live migration whole: pre-copy, hand-over, and the one decision who runs the machine from then on.
//
// The rule: after the source has sent the machine's state, whoever wants to run the machine must win the
// session's claim (arbiter.h). Without an arbiter the commit point is the source's: until it sends kCommit it
// may go on; once it has, only the destination may, and a source that does not hear kRunning stays paused and
// says so (MIGRATION_IN_DOUBT).
#pragma once

#include "migrate/arbiter.h"
#include "migrate/migrate.h"

namespace hypertwin::migrate {

// Throws Error("BAD_STATE") unless the machine runs or is paused, and is neither recorded nor replayed nor
// protected. run() looks too; this is for before anything is connected.
void check_movable(const machine::Machine& machine);

struct MigrateOptions : SenderOptions {
  Arbiter arbiter;  // may be empty
  // An arbiter that gives no answer for so long leaves the machine in doubt.
  std::chrono::milliseconds claim_patience{60000};
};

struct MigrateResult {
  SessionId session{};
  Progress progress;
  machine::StateDigest digest;
  uint64_t blackout_ns = 0;  // from the machine's stop to kRunning
  uint64_t total_ns = 0;
};

// Blocks. When it returns, the machine runs there, and is stopped here with Reason::kMigrated. When it
// throws, the machine is as it was (running or paused) but in these cases: MIGRATION_IN_DOUBT, paused with
// Reason::kInDoubt; MIGRATED_ANYWAY (the other side won the claim though this one heard nothing of it),
// stopped with Reason::kMigrated. `cancel` flags by Cancel.
class Migration {
 public:
  Migration(std::shared_ptr<machine::Machine> machine, std::unique_ptr<wire::Channel> channel,
            MigrateOptions options);
  ~Migration();
  MigrateResult run();
  // Any thread. No effect once the state is sent.
  void cancel();
  void limit(uint64_t bytes_per_second);
  Progress progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct ReceiveOptions : ReceiverOptions {
  // Asked until it answers, or the reception is cancelled.
  Arbiter arbiter;
  // Silence of the source, after kReady, that counts as its loss.
  std::chrono::milliseconds patience{10000};
  bool start_paused = false;  // the machine stays paused though it was running there
};

struct ReceiveResult {
  SessionId session{};
  std::shared_ptr<machine::Machine> machine;
  machine::StateDigest digest;
  Progress progress;
};

// One connection, one machine.
class Reception {
 public:
  Reception(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiveOptions options);
  ~Reception();
  // Blocks. Throws as Receiver does, NOT_OURS when the source goes on, CANCELLED.
  ReceiveResult run();
  // Any thread. This side does not want the machine, and the source hears so where that is still possible:
  // then it goes on at once. No effect once the machine is this side's. Does not end a question that the
  // arbiter is asked: as long as that may make the machine this side's, and the source has not said that it
  // goes on, the machine is kept here, paused, and the arbiter asked on. Won, it is this side's all the same;
  // and paused with Reason::kInDoubt when the source may have heard of the cancel().
  void cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// As Reception::run().
ReceiveResult receive(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiveOptions options);

}  // namespace hypertwin::migrate
