// Pre-copy over a channel: all that a machine is, sent while it runs (Sender) and put together on the other
// side (Receiver). A protection begins with it too. Who may run the machine then is decided by the callers
// (migration.h, ha/): nothing here starts or stops a machine for good.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "dirty/tracker.h"
#include "log/format.h"
#include "machine/machine.h"
#include "wire/channel.h"

namespace hypertwin::migrate {

enum class Purpose : uint8_t { kMigrate = 1, kProtect = 2 };

// 16 random bytes that name this move or protection: the arbiter's key, and what both sides write down.
using SessionId = std::array<uint8_t, 16>;
SessionId random_session();
std::string session_text(const SessionId& id);  // 32 hex digits

// Steps of the protocol, for who wants to be killed at one (tests) or to watch.
enum class Step : uint8_t {
  kConnected,
  kHelloSent,
  kAccepted,
  kRoundSent,
  kStopped,
  kStateSent,
  kReadyReceived,
  kClaimed,  // the source had to ask the arbiter, and was answered
  kCommitSent,
  kRunningReceived,  // source
  kHelloReceived,
  kAcceptSent,
  kRoundReceived,
  kStateReceived,
  kVerified,
  kReadySent,
  kCommitReceived,
  kDestinationClaimed,
  kRunning,  // destination
};
std::string_view step_name(Step step);
// Called on the thread that does the step; brief, never calls back.
using OnStep = std::function<void(Step)>;

struct Progress {
  enum class Phase : uint8_t { kConnect, kMemory, kStop, kCommit, kDone } phase = Phase::kConnect;
  uint32_t round = 0;       // from 1
  uint64_t pages_sent = 0;  // all rounds
  uint64_t pages_zero = 0, pages_raw = 0, pages_compressed = 0, pages_delta = 0;
  uint64_t disk_blocks_sent = 0;
  uint64_t bytes_sent = 0;       // on the wire, headers and all
  uint64_t remaining_pages = 0;  // of this round
  uint64_t remaining_bytes = 0;  // memory and disks, uncompressed
  double dirty_pages_per_second = 0;
  double bytes_per_second = 0;  // on the wire, of late
  double expected_blackout_ms = 0;
  uint64_t elapsed_ns = 0;
};

struct SenderOptions {
  Purpose purpose = Purpose::kMigrate;
  bool disks = false;  // send the disks' contents too; else both sides see the same images
  bool compress = true;
  bool delta = true;
  size_t delta_cache_bytes = 64u << 20;
  uint64_t bandwidth = 0;       // bytes a second, 0: no limit
  double max_blackout_ms = 30;  // stop and copy when the expected one is below
  uint32_t max_rounds = 30;     // then stop anyway, or …
  bool must_converge = false;   // … throw Error("NO_CONVERGENCE") instead
  bool verify_memory = true;    // a digest of all memory (and of disks sent) is compared before hand-over
  dirty::Mode mode = dirty::Mode::kManual;
  // Silence of the other side that counts as its loss: while an answer is awaited, and in the stop of what it
  // does not take in.
  std::chrono::milliseconds patience{10000};
  std::function<void(const Progress&)>
      on_progress;  // sender's thread; at each round and about 20 times a second
  OnStep on_step;
  uint64_t plant_skipped_page = ~uint64_t{0};  // tests: this round's first dirty page is not sent
};

// For one thread, except cancel(), limit() and progress().
class Sender {
 public:
  Sender(std::shared_ptr<machine::Machine> machine, wire::Channel& channel, SenderOptions options);
  ~Sender();  // tracking is off again

  // kHello, then kAccept. Throws Error: REFUSED (with the other side's code and sentence), PEER_LOST,
  // PROTOCOL.
  void handshake(const SessionId& session);
  // Rounds while the machine runs, until the rest is small enough. Throws CANCELLED, NO_CONVERGENCE,
  // PEER_LOST.
  void precopy();
  // The rest, and the state: in a task of machine->call() (the vCPU stands still meanwhile). Afterwards the
  // other side may become able to run. Gives the digests that it will compare.
  machine::StateDigest finish();
  // kReady. Throws PEER_LOST, REFUSED (a digest differs, a disk is full, …).
  void await_ready();

  // Any thread: handshake(), precopy() or finish() throws CANCELLED soon. No effect once the state is sent.
  void cancel();
  // The state, or a part of it, has left: from now on the other side may become able to run.
  bool state_sent() const;
  void limit(uint64_t bytes_per_second);
  Progress progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct ReceiverOptions {
  std::shared_ptr<machine::Listener> listener;
  // Other disks' paths and taps than the source's. A disk that is to be sent and is not there is created.
  std::function<void(machine::MachineConfig&)> adjust;
  std::function<void(const Progress&)> on_progress;
  OnStep on_step;
  std::vector<Purpose> purposes{Purpose::kMigrate, Purpose::kProtect};
  // Who connects says what it wants before that is over.
  std::chrono::milliseconds hello_patience{10000};
};

// What the source says of itself.
struct Hello {
  Purpose purpose{};
  SessionId session{};
  machine::MachineConfig config;
  log::LogHeader host;  // as log_header(): CPU, quirks, board, version
  bool disks = false;
  uint32_t features = 0;  // what the pages may be made into: codec.h
};

// For one thread. Any throw leaves nothing behind but disks' images; the channel is told first (kRefuse,
// kAbort).
class Receiver {
 public:
  Receiver(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiverOptions options);
  ~Receiver();

  // kHello; a machine that can take all of it is made (Machine::incoming). Answers kAccept, or kRefuse and
  // throws: MIGRATION_MISMATCH (another CPU, board, version: names each), BAD_CONFIG, failed calls.
  const Hello& handshake();
  // Everything up to kState; the machine is paused, whole and checked. Throws: PEER_LOST, ABORTED (by the
  // source, with its words), PROTOCOL, MIGRATION_DIGEST (which part differs), failed calls.
  std::shared_ptr<machine::Machine> receive();
  // Whether the machine was running there; after receive().
  bool was_running() const;
  machine::StateDigest digest() const;
  // kReady: from now on the source may count on this side.
  void ready();

  Progress progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hypertwin::migrate
