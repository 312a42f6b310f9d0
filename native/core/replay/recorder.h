// A machine's inputs from the world, each written to a log at the boundary where it is applied, with the
// rolling digest that a replay is compared with.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "log/writer.h"
#include "machine/machine.h"
#include "replay/owned_record.h"
#include "replay/suspects.h"

namespace hypertwin::replay {

inline constexpr char kInitialSnapshot[] = "initial.htsnap";

// Why a log ends.
enum class EndReason : uint64_t {
  kStopped = 0,     // at a boundary, with the state's digest
  kNoBoundary = 1,  // the guest ran without exits: no digest of the end
};

// Errors planted on purpose, to show that a replay catches them. For tests only.
struct PlantedFaults {
  static constexpr uint64_t kNever = ~uint64_t{0};
  uint64_t skip_input = kNever;       // the so-maniest packet or console input is applied but not logged
  uint64_t shift_interrupt = kNever;  // the so-maniest interrupt is logged one boundary later
  uint64_t flip_packet = kNever;      // the so-maniest packet is logged with another byte
  uint64_t drop_record = kNever;      // the first input or interrupt from this record on is not logged
};

// See machine::InputSource. When the log cannot take a record, it is kept here and the machine pauses at
// this boundary: nothing is applied that is in neither.
class Recorder final : public machine::InputSource {
 public:
  // `on_refusal` is told when the log's buffer had no room for a record; other failures are the writer's to
  // tell.
  Recorder(machine::LiveInputs& live, log::Writer& writer, PlantedFaults faults,
           std::function<void(const Error&)> on_refusal = {});

  void boundary(uint64_t ordinal, const RollingDigest& digest) override;
  uint64_t clock(uint64_t ordinal) override;
  bool next(uint64_t ordinal, std::optional<uint64_t> deadline, machine::Input& input) override;
  bool inject(uint64_t ordinal, bool possible) override { return live_.inject(ordinal, possible); }
  void injected(uint64_t ordinal, uint8_t vector) override;
  machine::Wait wait(uint64_t ordinal, std::optional<uint64_t> deadline) override;
  machine::SourceEnd end(uint64_t ordinal) override;
  bool live() const override { return true; }

  // Something is about to leave the machine: the record that a follower must have before it may. Its index;
  // the one before when nothing was logged since.
  uint64_t output(uint64_t ordinal);

  // How many records there are.
  uint64_t records() const { return next_index_ + kept_.size(); }

  // The last records: a check of what has none yet, the state if there is one, End.
  void finish(uint64_t ordinal, const std::optional<machine::StateDigest>& state, EndReason reason);
  // A check and the state's digest here and now.
  void checkpoint(uint64_t ordinal, const machine::StateDigest& state);
  // After a failure: gives the log what is kept here. Throws as Writer::append does.
  void retry();
  // The same where the log can be written.
  void hand_over();
  // Why the log did not take a record that is kept here. Any thread.
  std::optional<Error> refusal() const;

 private:
  void put(uint64_t ordinal, const log::Body& body);
  void check(uint64_t ordinal, const RollingDigest& digest);

  machine::LiveInputs& live_;
  log::Writer& writer_;
  PlantedFaults faults_;
  const std::function<void(const Error&)> on_refusal_;
  uint64_t inputs_ = 0, interrupts_ = 0, packets_ = 0;
  uint64_t next_index_ = 0;              // one past the last record's
  std::optional<uint64_t> open_output_;  // the last record, if it says that something left at …
  uint64_t output_boundary_ = 0;
  uint64_t boundary_ = 0;
  RollingDigest latest_;
  std::vector<uint16_t> prefixes_;
  std::deque<OwnedRecord> kept_;
  mutable std::mutex refusal_mutex_;  // guards refusal_
  std::optional<Error> refusal_;
};

struct RecordingResult {
  uint64_t first_boundary = 0;
  uint64_t last_boundary = 0;
  // None when the guest reached no boundary in time.
  std::optional<machine::StateDigest> state;
  log::WriterStats log;
};

// A recording of a machine: installs a Recorder, takes it away again. Calls from any thread but the vCPU's.
class Recording {
 public:
  // Snapshots the machine into `directory` (created; it must hold no log) and records from there on.
  static std::unique_ptr<Recording> start(std::shared_ptr<machine::Machine> machine,
                                          const std::string& directory, log::WriterOptions options = {},
                                          PlantedFaults faults = {});
  // Without stop(): the log is left without its End, as after a crash.
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Ends the log at the next boundary, on disk when this returns. The machine goes on. Throws
  // Error("LOG_WRITE_FAILED") when the log cannot be written; retry() and stop() again are possible.
  RecordingResult stop();
  // After the log failed and the machine paused: writes what is owed. The machine may then be resumed.
  void retry();
  // A state digest in the log, at the next boundary: a replay compares it there.
  machine::StateDigest checkpoint();

  log::WriterStats stats() const { return writer_->stats(); }
  // Why the machine is paused with kCaptureFailed: LOG_WRITE_FAILED, LOG_BUFFER_FULL.
  std::optional<Error> failure() const;
  uint64_t first_boundary() const { return first_boundary_; }
  // Instructions in the guest's memory near its start that no log can hold.
  const std::vector<Suspect>& suspects() const { return suspects_; }
  const std::string& directory() const { return directory_; }

 private:
  Recording() = default;
  std::shared_ptr<machine::Machine> machine_;
  std::string directory_;
  std::unique_ptr<log::Writer> writer_;
  std::unique_ptr<Recorder> recorder_;
  std::vector<Suspect> suspects_;
  uint64_t first_boundary_ = 0;
  std::mutex mutex_;  // guards the results and the order of stop(), retry(), checkpoint()
  std::optional<RecordingResult> pending_;  // ended, perhaps not yet all on disk
  std::optional<RecordingResult> result_;
  bool ended_ = false;  // finish() was called; the machine no longer uses the recorder
};

// What this host, with this table for the guest, is to a replay or to a machine that comes from elsewhere.
log::LogHeader host_header(const std::shared_ptr<kvm::System>& system,
                           std::span<const kvm_cpuid_entry2> cpuid);
// What a machine's log says it takes to replay it.
log::LogHeader log_header(machine::Machine& machine);

}  // namespace hypertwin::replay
