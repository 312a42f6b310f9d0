#include "replay/replayer.h"

#include <algorithm>
#include <filesystem>

#include "replay/recorder.h"

namespace hypertwin::replay {

using machine::Input;
using machine::InputKind;
using machine::SourceEnd;
using machine::State;

namespace {
// A log without a check for so many records is read no further ahead.
constexpr size_t kMaxAhead = 65536, kMaxAheadBytes = 256u << 20;
constexpr uint64_t kSuspectReach = 4096;

std::string at(uint64_t boundary) { return "boundary " + std::to_string(boundary); }
}  // namespace

Replayer::Replayer(machine::Machine& machine, log::Reader& reader, bool follow, const Guide* guide)
    : machine_(machine), reader_(reader), follow_(follow), guide_(guide) {}

void Replayer::diverge(uint64_t boundary, std::string kind, std::string message) {
  if (divergence_) return;
  Divergence divergence;
  divergence.boundary = boundary;
  divergence.kind = std::move(kind);
  divergence.message = std::move(message);
  divergence.rip = machine_.exit_rip();
  divergence.suspects = suspects_near(*machine_.ram(), divergence.rip, kSuspectReach, 8);
  divergence_ = std::move(divergence);
}

std::optional<uint64_t> Replayer::next_boundary() const {
  if (ahead_.empty()) return std::nullopt;
  return ahead_.front().boundary;
}

void Replayer::look_ahead(uint64_t ordinal) {
  while (!exhausted_ && ahead_.size() < kMaxAhead && ahead_bytes_ < kMaxAheadBytes) {
    bool beyond = !ahead_.empty() && ahead_.back().boundary > ordinal;
    if (beyond && (follow_ || checks_ahead_ > 0)) return;
    if (guide_ && guide_->settled(ordinal, read_)) return;
    const bool complete = !guide_ || guide_->complete();
    auto record = reader_.next();
    if (!record) {
      // Woken to ask the guide again.
      if (!complete && reader_.stop() == log::Stop::kDataEnds) continue;
      exhausted_ = true;
      return;
    }
    read_ = record->index + 1;
    if (record->as<log::Marker>() || record->as<log::Extension>()) continue;
    if (record->as<log::Check>()) ++checks_ahead_;
    ahead_bytes_ += ahead_.emplace_back(record->boundary, record->body).size();
  }
}

void Replayer::drop_front() {
  if (std::holds_alternative<log::Check>(ahead_.front().body)) --checks_ahead_;
  ahead_bytes_ -= ahead_.front().size();
  ahead_.pop_front();
}

void Replayer::boundary(uint64_t ordinal, const RollingDigest& digest) {
  latest_ordinal_ = ordinal;
  latest_ = digest;
  prefixes_.push_back(digest.prefix());
  if (divergence_) return;
  look_ahead(ordinal);
  if (!ahead_.empty() && ahead_.front().boundary < ordinal) {
    diverge(ahead_.front().boundary, "input",
            "the guest went on to " + at(ordinal) + " without taking the " +
                std::string(log::kind_name(log::kind_of(ahead_.front().body))) + " logged for " +
                at(ahead_.front().boundary));
    return;
  }
  if (checks_ahead_ == 0) return;
  // The digest that this boundary must have is known before its check comes.
  for (const OwnedRecord& ahead : ahead_) {
    const auto* check = std::get_if<log::Check>(&ahead.body);
    if (!check) continue;
    const uint64_t first = ahead.boundary - check->prefixes.size();
    if (ordinal > first && ordinal <= ahead.boundary &&
        check->prefixes[static_cast<size_t>(ordinal - first - 1)] != digest.prefix())
      diverge(ordinal, "digest", "what the guest did up to " + at(ordinal) + " is not what was recorded");
    return;
  }
}

bool Replayer::compare_check(uint64_t ordinal, const log::Check& check) {
  ++checks_;
  // Of a log's damaged or hostile bytes nothing is assumed: compare what both sides have.
  const size_t n = std::min(prefixes_.size(), check.prefixes.size());
  for (size_t i = 0; i < n; ++i) {
    size_t ours = prefixes_.size() - n + i;
    size_t theirs = check.prefixes.size() - n + i;
    if (prefixes_[ours] == check.prefixes[theirs]) continue;
    uint64_t where = ordinal - (n - 1 - i);
    diverge(where, "digest", "what the guest did up to " + at(where) + " is not what was recorded");
    return false;
  }
  if (ordinal != latest_ordinal_ || check.rolling != latest_.value()) {
    diverge(ordinal, "digest", "the digest of all that the guest did up to " + at(ordinal) + " differs");
    return false;
  }
  prefixes_.clear();
  return true;
}

bool Replayer::pass_notes(uint64_t ordinal) {
  while (!ahead_.empty() && ahead_.front().boundary == ordinal) {
    const log::Body& body = ahead_.front().body;
    if (const auto* check = std::get_if<log::Check>(&body)) {
      if (!compare_check(ordinal, *check)) return false;
    } else if (!std::holds_alternative<log::Output>(body)) {
      return true;
    }
    drop_front();
    look_ahead(ordinal);
  }
  return true;
}

uint64_t Replayer::clock(uint64_t ordinal) {
  if (divergence_) return time_;
  look_ahead(ordinal);
  if (!pass_notes(ordinal)) return time_;
  if (!ahead_.empty() && ahead_.front().boundary == ordinal)
    if (const auto* time = std::get_if<log::Time>(&ahead_.front().body)) {
      time_ = time->ns;
      drop_front();
      return time_;
    }
  if (!ahead_.empty() || !exhausted_)
    diverge(ordinal, "clock",
            "the guest read the clock at " + at(ordinal) + ", but the log has no time there");
  return time_;
}

bool Replayer::next(uint64_t ordinal, std::optional<uint64_t>, Input& input) {
  look_ahead(ordinal);
  while (!divergence_ && !ahead_.empty() && ahead_.front().boundary == ordinal) {
    const log::Body& body = ahead_.front().body;
    if (std::holds_alternative<log::Interrupt>(body)) return false;
    input = Input{};
    bool given = true;
    const auto& config = machine_.config();
    auto device = [&](uint64_t number, size_t count) {
      if (number >= count) {
        diverge(ordinal, "input", "the log names a device that the machine does not have");
        given = false;
      }
      input.device = static_cast<uint32_t>(number);
    };
    if (const auto* time = std::get_if<log::Time>(&body)) {
      input.time = time_ = time->ns;
    } else if (const auto* packet = std::get_if<log::PacketRx>(&body)) {
      input.kind = InputKind::kPacket;
      input.bytes.assign(packet->bytes.begin(), packet->bytes.end());
      device(packet->device, config.nets.size());
    } else if (const auto* console = std::get_if<log::ConsoleRx>(&body)) {
      input.kind = InputKind::kConsole;
      input.bytes.assign(console->bytes.begin(), console->bytes.end());
      device(console->device, 1);
    } else if (const auto* completion = std::get_if<log::BlockCompletion>(&body)) {
      input.kind = InputKind::kBlockCompletion;
      input.request = completion->request;
      input.status = completion->status;
      input.bytes.assign(completion->data.begin(), completion->data.end());
      device(completion->device, config.disks.size());
    } else if (const auto* lifecycle = std::get_if<log::Lifecycle>(&body)) {
      input.kind = InputKind::kPower;
      input.status = lifecycle->request;
    } else {
      given = false;
      if (const auto* check = std::get_if<log::Check>(&body)) {
        compare_check(ordinal, *check);
      } else if (const auto* state = std::get_if<log::StateDigest>(&body)) {
        auto here = machine_.settled_digest();
        ++state_checks_;
        const char* part = here.memory != state->memory     ? "memory"
                           : here.devices != state->devices ? "devices"
                           : here.vcpu != state->vcpu       ? "vCPU"
                                                            : nullptr;
        if (part)
          diverge(ordinal, "state",
                  std::string("the state of the ") + part + " at " + at(ordinal) + " differs");
      } else if (std::holds_alternative<log::End>(body)) {
        ended_ = true;
      } else if (!std::holds_alternative<log::Output>(body)) {
        diverge(
            ordinal, "input",
            "this version cannot replay a record of kind " + std::string(log::kind_name(log::kind_of(body))));
      }
    }
    if (divergence_) return false;
    drop_front();
    if (given) return true;
    look_ahead(ordinal);
  }
  return false;
}

bool Replayer::inject(uint64_t ordinal, bool possible) {
  if (divergence_ || ahead_.empty() || ahead_.front().boundary != ordinal) return false;
  const auto* interrupt = std::get_if<log::Interrupt>(&ahead_.front().body);
  if (!interrupt) return false;
  if (!possible) {
    diverge(
        ordinal, "interrupt",
        "the log interrupts the guest at " + at(ordinal) + ", but no interrupt is pending or taken there");
    return false;
  }
  expected_vector_ = interrupt->vector;
  drop_front();
  return true;
}

void Replayer::injected(uint64_t ordinal, uint8_t vector) {
  interrupted_ = ordinal;
  if (vector != expected_vector_)
    diverge(ordinal, "interrupt",
            "interrupt vector " + std::to_string(vector) + " at " + at(ordinal) + ", recorded was " +
                std::to_string(expected_vector_));
}

machine::Wait Replayer::wait(uint64_t ordinal, std::optional<uint64_t>) {
  // end() stops the machine before this when the log has nothing more.
  diverge(ordinal, "halt",
          "the guest halted at " + at(ordinal) + " with nothing to wake it, but the log goes on" +
              (ahead_.empty() ? "" : " at " + at(ahead_.front().boundary)));
  return machine::Wait::kEnd;
}

SourceEnd Replayer::end(uint64_t ordinal) {
  if (divergence_) return SourceEnd::kDiverged;
  look_ahead(ordinal);
  // Behind this boundary's interrupt, if the guest reached no other one.
  while (!ahead_.empty() && ahead_.front().boundary == ordinal) {
    const log::Body& body = ahead_.front().body;
    if (const auto* check = std::get_if<log::Check>(&body)) {
      if (!compare_check(ordinal, *check)) return SourceEnd::kDiverged;
    } else if (std::holds_alternative<log::End>(body)) {
      ended_ = true;
    } else if (!std::holds_alternative<log::Output>(body)) {
      break;
    }
    drop_front();
    look_ahead(ordinal);
  }
  return exhausted_ && ahead_.empty() ? SourceEnd::kLogEnd : SourceEnd::kNone;
}

SourceEnd Replayer::end_here() {
  if (!divergence_) look_ahead(UINT64_MAX);
  return end(machine_.boundary());
}

// ---- Replay

std::string_view replay_stop_name(ReplayStop stop) {
  switch (stop) {
    case ReplayStop::kBoundary:
      return "boundary";
    case ReplayStop::kLogEnd:
      return "log-end";
    case ReplayStop::kDiverged:
      return "diverged";
    case ReplayStop::kFailed:
      return "failed";
    case ReplayStop::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

// Passes the machine's events on and lets run() wait for its states.
class Replay::Watch final : public machine::Listener {
 public:
  explicit Watch(std::shared_ptr<machine::Listener> next) : next_(std::move(next)) {}
  void on_state(State state, machine::Reason reason, const std::string& message) override {
    {
      std::lock_guard lock(mutex_);
      state_ = state;
    }
    wake_.notify_all();
    if (next_) next_->on_state(state, reason, message);
  }
  void on_console(uint32_t device, std::span<const uint8_t> bytes) override {
    if (next_) next_->on_console(device, bytes);
  }
  void on_marker(uint32_t value) override {
    if (next_) next_->on_marker(value);
  }
  // True once the machine is not running; false after `limit`.
  bool wait_stopped(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return wake_.wait_for(lock, limit, [this] { return state_ != State::kRunning; });
  }
  void expect_running() {
    std::lock_guard lock(mutex_);
    state_ = State::kRunning;
  }

 private:
  std::shared_ptr<machine::Listener> next_;
  std::mutex mutex_;  // guards state_
  std::condition_variable wake_;
  State state_ = State::kPaused;
};

std::unique_ptr<Replay> Replay::open(std::shared_ptr<kvm::System> system, const std::string& directory,
                                     std::shared_ptr<machine::Listener> listener, ReplayOptions options) {
  std::unique_ptr<Replay> replay(new Replay);
  replay->system_ = std::move(system);
  replay->directory_ = directory;
  replay->listener_ = std::move(listener);
  replay->options_ = options;
  replay->rewind();
  return replay;
}

Replay::~Replay() {
  cancel();
  retire();
}

// Whoever still holds the machine cannot make it use what goes now.
void Replay::retire() {
  if (!machine_) return;
  try {
    machine_->call(machine::At::kAnywhere, [this] { machine_->use_source(machine_->live_inputs()); });
    machine_->stop();
  } catch (const Error&) {
    // Closed: its thread no longer runs.
  }
}

void Replay::rewind() {
  cancelled_.store(false);
  auto reader = log::Reader::open(directory_, {.follow = options_.follow});
  // Read by other threads from then on.
  if (!machine_) header_ = reader->header();
  auto watch = std::make_shared<Watch>(listener_);
  std::shared_ptr<machine::Machine> machine =
      machine::Machine::restore(system_, (std::filesystem::path(directory_) / kInitialSnapshot).string(),
                                watch, {}, machine::Backends::kDetached);
  auto mismatches = log::replay_mismatches(header_, [&] {
    log::LogHeader here = log_header(*machine);
    here.initial_state = header_.initial_state;
    return here;
  }());
  if (!mismatches.empty()) {
    std::string list;
    for (const auto& mismatch : mismatches) list += (list.empty() ? "" : "; ") + mismatch;
    throw Error("LOG_MISMATCH", "the log in " + directory_ + " cannot be replayed on this host: " + list);
  }
  if (machine->state_digest().combined() != header_.initial_state)
    throw Error("LOG_INITIAL_STATE", "the snapshot beside the log in " + directory_ +
                                         " is not the state that the log begins with");
  auto replayer = std::make_unique<Replayer>(*machine, *reader, options_.follow);
  machine->call(machine::At::kAnywhere, [&] {
    machine->rolling() = RollingDigest(header_.initial_state);
    machine->use_source(*replayer);
  });
  if (!machine_) first_boundary_ = machine->boundary();
  retire();
  {
    std::lock_guard lock(mutex_);
    // The old machine goes before the source and the reader that it uses.
    machine_.reset();
    replayer_ = std::move(replayer);
    reader_ = std::move(reader);
    machine_ = std::move(machine);
    watch_ = std::move(watch);
    has_run_ = false;
  }
}

std::shared_ptr<machine::Machine> Replay::machine() const {
  std::lock_guard lock(mutex_);
  return machine_;
}

uint64_t Replay::boundary() const { return machine()->boundary(); }

void Replay::cancel() {
  cancelled_.store(true);
  std::shared_ptr<machine::Machine> machine;
  {
    std::lock_guard lock(mutex_);
    if (!reader_) return;
    reader_->cancel();
    machine = machine_;
  }
  // Without the lock: who asks where the replay is does not wait for the vCPU.
  if (machine->state() == State::kRunning) {
    try {
      machine->call(machine::At::kAnywhere, [&] { machine->pause_here(); });
    } catch (const Error&) {
      // Closed or stopped meanwhile: nothing is left to cancel.
    }
  }
}

ReplayResult Replay::run(std::optional<uint64_t> to) {
  if (to && *to < boundary())
    throw Error("ERANGE",
                "the replay is at boundary " + std::to_string(boundary()) + " already; seek() goes back");
  if (!replayer_->divergence() && !cancelled_.load() && machine_->state() == State::kPaused &&
      (!to || *to != boundary() || !has_run_)) {
    machine_->call(machine::At::kAnywhere, [&] { machine_->pause_at(to.value_or(~uint64_t{0})); });
    watch_->expect_running();
    has_run_ = true;
    machine_->resume();
    // A cancel() that came before had nothing to pause.
    if (cancelled_.load()) machine_->call(machine::At::kAnywhere, [this] { machine_->pause_here(); });
    uint64_t seen = boundary();
    auto patience = options_.stall;
    while (!watch_->wait_stopped(patience)) {
      uint64_t now = boundary();
      // Waiting for a growing log is no stall: the machine then sits in a read, not in the guest.
      if (now != seen || options_.follow) {
        seen = now;
        continue;
      }
      machine_->call(machine::At::kAnywhere, [&] {
        if (machine_->boundary() != now) return;  // it moved while this waited
        machine_->pause_here();
        auto next = replayer_->next_boundary();
        replayer_->diverge(now + 1, "stall",
                           "the guest ran " + std::to_string(patience.count()) + " ms past " + at(now) +
                               " without an exit" + (next ? ", but the log goes on at " + at(*next) : ""));
      });
    }
  }
  ReplayResult result;
  result.boundary = boundary();
  result.divergence = replayer_->divergence();
  result.complete = replayer_->ended();
  result.checks = replayer_->checks();
  result.state_checks = replayer_->state_checks();
  result.damages = reader_->damages();
  result.message = machine_->message();
  const State state = machine_->state();
  if (result.divergence) {
    result.stop = ReplayStop::kDiverged;
  } else if (state == State::kFailed) {
    result.stop = ReplayStop::kFailed;
  } else if (cancelled_.load() && !replayer_->ended() && !(to && result.boundary == *to)) {
    // A reader that was cancelled is at its end too.
    result.stop = ReplayStop::kCancelled;
  } else if (replayer_->log_done()) {
    result.stop = ReplayStop::kLogEnd;
  } else if (to && result.boundary == *to) {
    result.stop = ReplayStop::kBoundary;
  } else {
    result.stop = ReplayStop::kFailed;
    if (result.message.empty()) result.message = "the machine stopped before the log ended";
  }
  result.state = machine_->state_digest();
  return result;
}

ReplayResult Replay::seek(uint64_t to) {
  if (to < first_boundary_)
    throw Error("ERANGE", "the log begins at boundary " + std::to_string(first_boundary_));
  // What is asked for is the point before it.
  const bool behind = to == boundary() && replayer_->interrupted(to);
  if (to < boundary() || behind || replayer_->divergence() || cancelled_.load()) rewind();
  return run(to);
}

}  // namespace hypertwin::replay
