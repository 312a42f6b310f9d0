// A machine's inputs from its log alone, and the comparison that finds the first boundary at which the guest
// strays from it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "log/reader.h"
#include "machine/machine.h"
#include "replay/owned_record.h"
#include "replay/suspects.h"

namespace hypertwin::replay {

struct Divergence {
  // The first boundary that differs.
  uint64_t boundary = 0;
  // "digest", "input", "clock", "interrupt", "halt", "state", "stall"
  std::string kind;
  // What was expected and what happened.
  std::string message;
  uint64_t rip = 0;
  // Instructions near rip that no log can hold: a likely cause.
  std::vector<Suspect> suspects;
};

// What a follower knows beside the log. Called on the vCPU's thread.
class Guide {
 public:
  virtual ~Guide() = default;
  // The first `records` records hold all that belongs to the boundaries up to `boundary`: the guest may run
  // on from there though no later record has come.
  virtual bool settled(uint64_t boundary, uint64_t records) const = 0;
  // No more will come than is there.
  virtual bool complete() const = 0;
};

// See machine::InputSource. Looks ahead in the log far enough to know, at each boundary, all that belongs to
// it, and (unless it follows a growing log) the digest that it must have.
class Replayer : public machine::InputSource {
 public:
  // `guide`, for a follower, must outlive this.
  Replayer(machine::Machine& machine, log::Reader& reader, bool follow, const Guide* guide = nullptr);

  void boundary(uint64_t ordinal, const RollingDigest& digest) override;
  uint64_t clock(uint64_t ordinal) override;
  bool next(uint64_t ordinal, std::optional<uint64_t> deadline, machine::Input& input) override;
  bool inject(uint64_t ordinal, bool possible) override;
  void injected(uint64_t ordinal, uint8_t vector) override;
  machine::Wait wait(uint64_t ordinal, std::optional<uint64_t> deadline) override;
  machine::SourceEnd end(uint64_t ordinal) override;
  bool live() const override { return false; }

  // While the machine is not running.
  const std::optional<Divergence>& divergence() const { return divergence_; }
  // The End record was reached.
  bool ended() const { return ended_; }
  bool log_done() const { return exhausted_ && ahead_.empty(); }
  // The vCPU's thread, between two boundaries too, of a log that is complete: as end() at the last boundary.
  machine::SourceEnd end_here();
  uint64_t checks() const { return checks_; }
  uint64_t state_checks() const { return state_checks_; }
  // The next record's boundary, if any is known.
  std::optional<uint64_t> next_boundary() const;
  // The first divergence wins.
  void diverge(uint64_t boundary, std::string kind, std::string message);

  // Whether the guest was interrupted at that boundary, the last that it came to.
  bool interrupted(uint64_t ordinal) const { return interrupted_ == ordinal; }

 private:
  void look_ahead(uint64_t ordinal);
  bool compare_check(uint64_t ordinal, const log::Check& check);
  // Takes the records at `ordinal` that say nothing to the guest; false: a check differs.
  bool pass_notes(uint64_t ordinal);
  void drop_front();

  machine::Machine& machine_;
  log::Reader& reader_;
  const bool follow_;
  const Guide* const guide_;
  uint64_t read_ = 0;  // records
  std::deque<OwnedRecord> ahead_;
  size_t ahead_bytes_ = 0;  // of them
  size_t checks_ahead_ = 0;
  bool exhausted_ = false;
  bool ended_ = false;
  uint64_t time_ = 0;
  uint64_t latest_ordinal_ = 0;
  RollingDigest latest_;
  std::vector<uint16_t> prefixes_;  // of the boundaries since the last check
  uint64_t checks_ = 0, state_checks_ = 0;
  uint8_t expected_vector_ = 0;
  std::optional<uint64_t> interrupted_;  // the last boundary at which the guest was
  std::optional<Divergence> divergence_;
};

enum class ReplayStop : uint8_t { kBoundary, kLogEnd, kDiverged, kFailed, kCancelled };
std::string_view replay_stop_name(ReplayStop stop);

struct ReplayResult {
  ReplayStop stop = ReplayStop::kLogEnd;
  uint64_t boundary = 0;
  machine::StateDigest state;
  // The log's End record was reached, and with it the recorded digest of the end state compared (if any).
  bool complete = false;
  uint64_t checks = 0;
  uint64_t state_checks = 0;
  std::optional<Divergence> divergence;
  std::vector<log::Damage> damages;  // of the log, as far as it was read
  std::string message;
};

struct ReplayOptions {
  // Wait for more at the log's end instead of stopping there.
  bool follow = false;
  // No boundary for so long, and the guest counts as strayed.
  std::chrono::milliseconds stall{10000};
};

// A log and the machine that replays it. run() and seek() from one thread; boundary(), cancel() from any.
class Replay {
 public:
  // Throws Error: LOG_NOT_FOUND, LOG_MISMATCH (the log needs another host: says what differs),
  // LOG_INITIAL_STATE (the snapshot beside it is another one), and what Machine::restore throws.
  static std::unique_ptr<Replay> open(std::shared_ptr<kvm::System> system, const std::string& directory,
                                      std::shared_ptr<machine::Listener> listener,
                                      ReplayOptions options = {});
  ~Replay();

  // Replays until boundary `to` (its inputs applied), the log's end, a divergence, or cancel(); after that
  // only seek() goes on.
  ReplayResult run(std::optional<uint64_t> to = std::nullopt);
  // As run(to), from the initial state again when `to` lies behind, or after cancel().
  ReplayResult seek(uint64_t to);
  void cancel();

  uint64_t boundary() const;
  uint64_t first_boundary() const { return first_boundary_; }
  const log::LogHeader& header() const { return header_; }
  // Changes with a seek() backwards; the former one, and the last one with the replay's end, is stopped.
  std::shared_ptr<machine::Machine> machine() const;

 private:
  class Watch;
  Replay() = default;
  void rewind();
  void retire();

  std::shared_ptr<kvm::System> system_;
  std::string directory_;
  std::shared_ptr<machine::Listener> listener_;
  ReplayOptions options_;
  log::LogHeader header_;
  std::shared_ptr<Watch> watch_;
  mutable std::mutex mutex_;  // guards machine_ and reader_ as pointers
  std::unique_ptr<log::Reader> reader_;
  std::unique_ptr<Replayer> replayer_;
  std::shared_ptr<machine::Machine> machine_;
  uint64_t first_boundary_ = 0;
  bool has_run_ = false;  // since it was restored: at its boundary it has taken the inputs
  std::atomic<bool> cancelled_{false};
};

}  // namespace hypertwin::replay
