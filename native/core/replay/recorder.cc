#include "replay/recorder.h"

#include <algorithm>
#include <filesystem>

#include "base/clock.h"
#include "machine/guest_debug.h"
#include "machine/quirks.h"

namespace hypertwin::replay {

using machine::Input;
using machine::InputKind;

namespace {
// Boundaries that share a check record.
constexpr size_t kCheckInterval = 256;
// A halted guest is a good moment to check what it did, if that is enough to be worth a record.
constexpr size_t kIdleCheck = 32;
}  // namespace

Recorder::Recorder(machine::LiveInputs& live, log::Writer& writer, PlantedFaults faults,
                   std::function<void(const Error&)> on_refusal)
    : live_(live), writer_(writer), faults_(faults), on_refusal_(std::move(on_refusal)) {
  prefixes_.reserve(kCheckInterval);
}

void Recorder::put(uint64_t ordinal, const log::Body& body) {
  open_output_.reset();
  if (next_index_ >= faults_.drop_record && !std::holds_alternative<log::Output>(body) &&
      !std::holds_alternative<log::Check>(body)) {
    faults_.drop_record = PlantedFaults::kNever;
    return;
  }
  if (kept_.empty()) {
    try {
      next_index_ = writer_.append(ordinal, body) + 1;
      return;
    } catch (const Error& error) {
      {
        std::lock_guard lock(refusal_mutex_);
        refusal_ = error;
      }
      if (on_refusal_ && error.code() == "LOG_BUFFER_FULL") on_refusal_(error);
    }
  }
  kept_.emplace_back(ordinal, body);
}

uint64_t Recorder::output(uint64_t ordinal) {
  if (open_output_ && output_boundary_ == ordinal) return *open_output_;
  put(ordinal, log::Output{});
  // One that is kept here has a later index: never too early a release.
  const uint64_t index = kept_.empty() ? next_index_ - 1 : next_index_ + kept_.size() - 1;
  open_output_ = index;
  output_boundary_ = ordinal;
  return index;
}

void Recorder::check(uint64_t ordinal, const RollingDigest& digest) {
  if (prefixes_.empty()) return;
  log::Check record;
  record.rolling = digest.value();
  record.prefixes = prefixes_;
  put(ordinal, record);
  prefixes_.clear();
}

void Recorder::boundary(uint64_t ordinal, const RollingDigest& digest) {
  boundary_ = ordinal;
  latest_ = digest;
  prefixes_.push_back(digest.prefix());
  if (prefixes_.size() >= kCheckInterval) check(ordinal, digest);
}

uint64_t Recorder::clock(uint64_t ordinal) {
  uint64_t now = live_.clock(ordinal);
  put(ordinal, log::Time{now});
  return now;
}

bool Recorder::next(uint64_t ordinal, std::optional<uint64_t> deadline, Input& input) {
  if (!kept_.empty() || !live_.next(ordinal, deadline, input)) return false;
  switch (input.kind) {
    case InputKind::kTime:
      put(ordinal, log::Time{input.time});
      break;
    case InputKind::kPacket: {
      if (inputs_++ == faults_.skip_input) break;
      if (packets_++ == faults_.flip_packet && !input.bytes.empty()) {
        std::vector<uint8_t> wrong = input.bytes;
        wrong.back() ^= 1;
        put(ordinal, log::PacketRx{input.device, wrong});
        break;
      }
      put(ordinal, log::PacketRx{input.device, input.bytes});
      break;
    }
    case InputKind::kConsole:
      if (inputs_++ == faults_.skip_input) break;
      put(ordinal, log::ConsoleRx{input.device, input.bytes});
      break;
    case InputKind::kBlockCompletion:
      put(ordinal, log::BlockCompletion{input.device, input.request, input.status, input.bytes});
      break;
    case InputKind::kPower:
      put(ordinal, log::Lifecycle{input.status});
      break;
  }
  return true;
}

void Recorder::injected(uint64_t ordinal, uint8_t vector) {
  put(interrupts_++ == faults_.shift_interrupt ? ordinal + 1 : ordinal, log::Interrupt{vector});
}

machine::Wait Recorder::wait(uint64_t ordinal, std::optional<uint64_t> deadline) {
  // The digest must be the one of the boundary itself: outputs since then are the next one's.
  if (prefixes_.size() >= kIdleCheck && boundary_ == ordinal) check(ordinal, latest_);
  return live_.wait(ordinal, deadline);
}

machine::SourceEnd Recorder::end(uint64_t) {
  return kept_.empty() && !writer_.failed() ? machine::SourceEnd::kNone : machine::SourceEnd::kCaptureFailed;
}

void Recorder::checkpoint(uint64_t ordinal, const machine::StateDigest& state) {
  check(ordinal, latest_);
  put(ordinal, log::StateDigest{state.memory, state.devices, state.vcpu});
}

void Recorder::finish(uint64_t ordinal, const std::optional<machine::StateDigest>& state, EndReason reason) {
  if (state)
    checkpoint(ordinal, *state);
  else
    check(ordinal, latest_);
  put(ordinal, log::End{static_cast<uint64_t>(reason)});
}

void Recorder::retry() {
  writer_.retry();
  hand_over();
}

void Recorder::hand_over() {
  while (!kept_.empty()) {
    try {
      writer_.append(kept_.front().boundary, kept_.front().body);
    } catch (const Error& error) {
      if (error.code() != "LOG_BUFFER_FULL") throw;
      writer_.flush();
      continue;
    }
    kept_.pop_front();
  }
  std::lock_guard lock(refusal_mutex_);
  refusal_.reset();
}

std::optional<Error> Recorder::refusal() const {
  std::lock_guard lock(refusal_mutex_);
  return refusal_;
}

// ---- Recording

log::LogHeader host_header(const std::shared_ptr<kvm::System>& system,
                           std::span<const kvm_cpuid_entry2> cpuid) {
  log::LogHeader header;
  header.hypertwin_version = HYPERTWIN_VERSION;
  auto cpu = machine::cpu_identity(cpuid);
  header.cpu_vendor = cpu.vendor;
  header.cpu_family = cpu.family;
  header.cpu_model = cpu.model;
  header.cpu_stepping = cpu.stepping;
  ByteWriter features;
  for (const auto& entry : cpuid)
    for (uint32_t word :
         {entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx})
      features.u32(word);
  header.cpu_features = digest128(features.data());
  header.kvm_quirks = machine::kvm_quirks(system).text();
  header.board = machine::kBoardName;
  header.board_version = machine::kBoardVersion;
  return header;
}

log::LogHeader log_header(machine::Machine& machine) {
  log::LogHeader header = host_header(machine.vm()->system(), machine.cpuid());
  header.memory_size = machine.config().memory_size;
  return header;
}

std::unique_ptr<Recording> Recording::start(std::shared_ptr<machine::Machine> machine,
                                            const std::string& directory, log::WriterOptions options,
                                            PlantedFaults faults) {
  namespace fs = std::filesystem;
  const std::string initial = (fs::path(directory) / kInitialSnapshot).string();
  const Error there_is_one("LOG_EXISTS",
                           "there is a log in " + directory + " already: choose another folder");
  if (fs::exists(initial) || fs::exists(fs::path(directory) / log::segment_name(1))) throw there_is_one;
  std::error_code failed;
  fs::create_directories(directory, failed);
  if (failed) throw Error::system(failed.value(), "mkdir", "creating the log's folder " + directory);

  std::unique_ptr<Recording> recording(new Recording);
  auto on_failure = options.on_failure;
  recording->machine_ = machine;
  recording->directory_ = directory;
  log::LogHeader header = log_header(*machine);
  header.created_unix_ns = clock_ns(CLOCK_REALTIME);
  header.log_id = log::random_log_id();
  machine->call(machine::At::kAnywhere, [&] {
    if (machine->recorded()) throw Error("BAD_STATE", "the machine is being recorded already");
    machine::refuse_debugged(machine->debugged(), "record");
    // What the log begins with stays as it is until the first record.
    const auto frozen = machine->freeze_memory();
    machine::StateDigest state;
    try {
      state = machine->write_snapshot(initial);
    } catch (const Error& error) {
      // Another recording's: who has written this file has the folder.
      if (error.code() == "EEXIST" || error.code() == "BUSY") throw there_is_one;
      throw;
    }
    header.initial_state = state.combined();
    try {
      recording->writer_ = log::Writer::create(directory, header, std::move(options));
    } catch (...) {
      fs::remove(initial, failed);
      throw;
    }
    recording->recorder_ = std::make_unique<Recorder>(machine->live_inputs(), *recording->writer_, faults,
                                                      std::move(on_failure));
    recording->first_boundary_ = state.boundary;
    recording->suspects_ = suspects_near(*machine->ram(), machine->vcpu()->get_regs().rip, 1u << 20, 16);
    machine->rolling() = RollingDigest(state.combined());
    machine->use_source(*recording->recorder_);
  });
  return recording;
}

std::optional<Error> Recording::failure() const {
  auto error = writer_->error();
  return error ? error : recorder_->refusal();
}

Recording::~Recording() {
  if (ended_ || !recorder_) return;
  try {
    machine_->call(machine::At::kAnywhere, [this] { machine_->use_source(machine_->live_inputs()); });
  } catch (const Error&) {
    // The machine is closed: its thread no longer runs.
  }
}

machine::StateDigest Recording::checkpoint() {
  std::lock_guard lock(mutex_);
  if (ended_) throw Error("BAD_STATE", "the recording has ended");
  machine::StateDigest state;
  machine_->call(machine::At::kBoundary, [&] {
    state = machine_->digest_here();
    recorder_->checkpoint(state.boundary, state);
  });
  return state;
}

void Recording::retry() {
  std::lock_guard lock(mutex_);
  // The machine no longer uses the recorder then.
  if (ended_) return recorder_->retry();
  machine_->call(machine::At::kAnywhere, [this] { recorder_->retry(); });
}

RecordingResult Recording::stop() {
  std::lock_guard lock(mutex_);
  if (result_) return *result_;
  if (writer_->failed()) throw *writer_->error();
  RecordingResult result;
  if (!ended_) {
    auto finish = [&](bool whole) {
      if (whole) result.state = machine_->digest_here();
      result.last_boundary = machine_->boundary();
      recorder_->finish(result.last_boundary, result.state,
                        whole ? EndReason::kStopped : EndReason::kNoBoundary);
      machine_->use_source(machine_->live_inputs());
      ended_ = true;
    };
    try {
      machine_->call(machine::At::kBoundary, [&] { finish(true); });
    } catch (const Error& error) {
      if (error.code() != "NO_BOUNDARY") throw;
      machine_->call(machine::At::kAnywhere, [&] { finish(false); });
    }
    result.first_boundary = first_boundary_;
    pending_ = result;
  }
  // The log may have failed since.
  if (writer_->failed()) throw *writer_->error();
  recorder_->hand_over();
  writer_->close();
  result = *pending_;
  result.log = writer_->stats();
  result_ = result;
  return result;
}

}  // namespace hypertwin::replay
