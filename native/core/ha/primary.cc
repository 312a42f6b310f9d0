// The primary's side of a protection.
//
//   ht-ha-main   sends the machine, then receives: acknowledgements release outputs
//   ht-ha-beat   a heartbeat each interval; notices that the guest has ended
//   ht-ha-watch  closes the channel when the backup is silent for too long
//   ht-log       sends the log's blocks
//
// Who may run the machine. Before `armed` was sent in a heartbeat the backup must not claim, and the primary
// goes on by itself. From the moment it may have been sent the primary goes on only when it wins the claim,
// or when the backup said goodbye, which means that it will never claim.
#include <cstdio>

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "ha/clock.h"
#include "ha/ha.h"
#include "ha/ledger.h"
#include "ha/link.h"
#include "ha/log_sink.h"
#include "ha/messages.h"
#include "ha/output_gate.h"
#include "ha/primary_source.h"
#include "ha/status.h"
#include "machine/guest_debug.h"
#include "replay/recorder.h"

namespace hypertwin::ha {

namespace {

using machine::At;
using machine::Machine;
using machine::Reason;
using wire::FrameType;

constexpr std::chrono::milliseconds kFirstRetry{50}, kLongestRetry{1000};
constexpr size_t kLogBuffer = 32u << 20;
constexpr std::chrono::milliseconds kBoundaryPatience{50};
// So long a protection that is closed waits for the backup's answer to the guest's end.
constexpr std::chrono::milliseconds kEndPatience{2000};

class PrimarySession final : public Primary {
 public:
  PrimarySession(std::shared_ptr<Machine> machine, std::unique_ptr<wire::Channel> channel,
                 ProtectOptions options)
      : machine_(std::move(machine)),
        channel_(std::move(channel)),
        options_(std::move(options)),
        id_(migrate::random_session()),
        status_(options_, State::kSyncing),
        gate_(
            {[this](uint32_t device, auto bytes) { machine_->emit_packet(device, bytes); },
             [this](uint32_t device, auto bytes) { machine_->emit_console(device, bytes); }},
            [this](uint64_t ordinal) { return recorder_->output(ordinal); }, options_.held_bytes),
        link_(*channel_, options_.heartbeats,
              {[this] { beat(); }, [this] { return ready_.load(); }, [this] { look_for_end(); }}) {
    options_.sync.purpose = migrate::Purpose::kProtect;
    options_.sync.disks = true;
    main_ = std::thread([this] { run(); });
  }

  ~PrimarySession() override { close(); }

  State state() const override { return status_.state(); }
  migrate::Progress sync_progress() const override {
    std::lock_guard lock(mutex_);
    return sender_ ? sender_->progress() : progress_;
  }
  Stats stats() const override;
  std::optional<Timeline> timeline() const override { return status_.timeline(); }
  std::string session() const override { return migrate::session_text(id_); }
  void hand_over() override;
  void close() override;

 private:
  enum class HandOver : uint8_t { kNone, kAsked, kSent, kDone, kFailed };

  void run();
  void sync();
  void begin_log(const machine::StateDigest& state);
  void receive();
  void on_report(const BackupReport& report);
  void beat();
  void look_for_end();
  // Without a pause that this side made.
  bool paused_by_owner() const;

  // The connection's end, by whichever cause; nothing is received any more.
  void lose(const std::string& code, const std::string& message);
  void go_on(State state, const std::string& code, const std::string& message, Timeline* timeline = nullptr);
  void fence(State state, Reason reason, const std::string& code, const std::string& message);
  // The machine is an ordinary one again; `first` goes before, both on its thread.
  void let_go(const std::function<void()>& first);
  void end_log();
  void stand_still();
  // False: closed meanwhile.
  bool wait_to_retry(std::chrono::milliseconds time);

  const std::shared_ptr<Machine> machine_;
  const std::unique_ptr<wire::Channel> channel_;
  ProtectOptions options_;
  const migrate::SessionId id_;
  Status status_;

  mutable std::mutex mutex_;  // guards sender_, progress_, hand_over_, closing_, said_last_, over_
  std::condition_variable changed_;
  std::unique_ptr<migrate::Sender> sender_;
  migrate::Progress progress_;
  HandOver hand_over_ = HandOver::kNone;
  bool closing_ = false;
  bool said_last_ = false;  // goodbye or hand-over; written by ht-ha-main
  bool over_ = false;       // nothing happens any more

  Ledger ledger_;
  Lease lease_;
  OutputGate gate_;
  // From the state's being sent on; they live as long as this, since other threads ask them.
  std::unique_ptr<log::Writer> writer_;
  const LogSink* sink_ = nullptr;  // the writer's
  std::unique_ptr<replay::Recorder> recorder_;
  std::unique_ptr<PrimarySource> source_;
  std::atomic<bool> logging_{false};  // the three are there

  std::atomic<bool> ready_{false};
  // A heartbeat said that the backup may claim, or is about to.
  std::atomic<bool> told_{false};
  bool protected_ = false;                             // ht-ha-main
  uint64_t acked_blocks_ = 0;                          // ht-ha-main: that were told as steps
  std::atomic<uint64_t> ends_at_{~uint64_t{0}};        // the guest ended: so many records
  std::atomic<uint64_t> hands_over_at_{~uint64_t{0}};  // so many records are all there will be
  std::atomic<Reason> paused_for_{Reason::kNone};      // this side paused the machine, with that reason
  bool let_go_ = false;  // the vCPU's thread: the machine is not recorded any more
  std::atomic<uint64_t> peer_boundary_{0};

  Link link_;
  std::mutex join_mutex_;
  std::thread main_;
};

// ---- Beginning

void PrimarySession::run() {
  enter_thread("ht-ha-main");
  const auto steps = [&] {
    sync();
    receive();
  };
  run_session(link_, "the backup", steps,
              [&](const std::string& code, const std::string& message) { lose(code, message); });
  std::lock_guard lock(mutex_);
  if (hand_over_ != HandOver::kNone && hand_over_ != HandOver::kDone) hand_over_ = HandOver::kFailed;
  over_ = true;
  changed_.notify_all();
}

void PrimarySession::sync() {
  status_.step("connected");
  {
    auto sender = std::make_unique<migrate::Sender>(machine_, *channel_, options_.sync);
    std::lock_guard lock(mutex_);
    sender_ = std::move(sender);
    if (closing_) throw Error("CLOSED", "the protection was closed");
  }
  sender_->handshake(id_);
  status_.step("hello");
  sender_->precopy();
  status_.step("copied");
  auto finish = [this] {
    machine::refuse_debugged(machine_->debugged(), "protect");
    const auto frozen = machine_->freeze_memory();
    begin_log(sender_->finish());
  };
  try {
    machine_->call(At::kBoundary, finish, kBoundaryPatience);
  } catch (const Error& error) {
    if (error.code() != "NO_BOUNDARY") throw;
    machine_->call(At::kAnywhere, finish);
  }
  status_.step("state-sent");
  link_.start();
  sender_->await_ready();
  link_.heard();
  ready_.store(true);
  status_.step("ready");
  std::unique_ptr<migrate::Sender> done;
  {
    std::lock_guard lock(mutex_);
    progress_ = sender_->progress();
    done = std::move(sender_);
  }
}

// On the vCPU's thread, behind the state: from the next boundary on everything is in the log.
void PrimarySession::begin_log(const machine::StateDigest& state) {
  if (machine_->recorded()) throw Error("BAD_STATE", "the machine is being recorded");
  log::LogHeader header = replay::log_header(*machine_);
  header.initial_state = state.combined();
  header.created_unix_ns = clock_ns(CLOCK_REALTIME);
  header.log_id = log::random_log_id();
  log::WriterOptions writing;
  writing.buffer_bytes = kLogBuffer;
  if (options_.record_blocks) writing.block_records = 1;
  auto sink = std::make_unique<LogSink>(*channel_, ledger_, [this] { status_.step("log-sent"); });
  sink_ = sink.get();
  writer_ = std::make_unique<log::Writer>(std::move(sink), header, writing);
  replay::PlantedFaults faults;
  faults.drop_record = options_.planted.drop_record;
  recorder_ = std::make_unique<replay::Recorder>(machine_->live_inputs(), *writer_, faults);
  source_ = std::make_unique<PrimarySource>(*recorder_, *writer_, gate_, ledger_, lease_, options_.max_lag);
  logging_.store(true);
  machine_->rolling() = RollingDigest(header.initial_state);
  machine_->use_outputs(&gate_);
  machine_->use_source(*source_);
}

// ---- Protected

void PrimarySession::beat() {
  PrimaryBeat beat;
  // Before the clock is read: what the backup may do is counted from there.
  beat.armed = told_.load();
  beat.paused = paused_by_owner();
  beat.released = gate_.released();
  const auto settled = source_->settled();
  beat.settled_records = settled.records;
  beat.settled_boundary = settled.boundary;
  beat.sent_ns = lease_clock_ns();
  channel_->send(FrameType::kHeartbeat, encode(beat));
}

bool PrimarySession::paused_by_owner() const {
  const auto state = machine_->state();
  return state == machine::State::kCreated ||
         (state == machine::State::kPaused && machine_->reason() == Reason::kRequested &&
          paused_for_.load() != Reason::kRequested);
}

void PrimarySession::receive() {
  // What was let out until here is in the log before this record. On the vCPU's thread: what it lets out
  // itself is out before anything that waits.
  if (!options_.planted.no_output_rule) machine_->call(At::kAnywhere, [this] { gate_.hold(); });
  writer_->commit();
  const uint64_t held_from = writer_->stats().records;
  while (auto frame = channel_->receive()) {
    link_.heard();
    switch (frame->type) {
      case FrameType::kAck:
      case FrameType::kHeartbeat: {
        const auto report = decode_report(frame->payload);
        on_report(report);
        if (!told_.load() && ledger_.acknowledged_records() >= held_from) {
          told_.store(true);
          beat();
        }
        break;
      }
      case FrameType::kGoodbye: {
        const auto goodbye = decode_goodbye(frame->payload);
        channel_->close();
        link_.stop();
        // It will never claim.
        const bool ended = ends_at_.load() != ~uint64_t{0};
        std::unique_lock lock(mutex_);
        const bool closing = closing_;
        lock.unlock();
        go_on(ended ? State::kEnded : State::kUnprotected,
              ended     ? kGuestEnded
              : closing ? "CLOSED"
                        : goodbye.code,
              ended     ? "the guest has ended"
              : closing ? "the protection was ended"
                        : "the backup gave up: " + goodbye.message);
        return;
      }
      case FrameType::kRunning:
        if (hands_over_at_.load() == ~uint64_t{0} || !said_last_)
          throw Error("PROTOCOL", "the backup runs the machine though nobody asked it to");
        link_.stop();
        fence(State::kEnded, Reason::kHandedOver, "HAND_OVER", "the machine runs at the backup now");
        channel_->close();
        {
          std::lock_guard lock(mutex_);
          hand_over_ = HandOver::kDone;
        }
        return;
      default:
        throw Error("PROTOCOL", std::string("the backup sent ") + wire::frame_name(frame->type));
    }
  }
}

void PrimarySession::on_report(const BackupReport& report) {
  const uint64_t now = now_ns();
  if (report.echo_ns > lease_clock_ns()) throw Error("PROTOCOL", "an echo of what was never sent");
  if (report.echo_ns != 0)
    lease_.renew(report.echo_ns, std::min<uint64_t>(report.promise_ns, 10'000'000'000));
  const uint64_t records = ledger_.acknowledged(report.received, now);
  ledger_.replayed(report.boundary, now - std::min(report.dry_ns, now));
  peer_boundary_.store(report.boundary, std::memory_order_relaxed);
  for (const uint64_t blocks = ledger_.acknowledged_blocks(); acked_blocks_ < blocks; ++acked_blocks_)
    status_.step("acked");
  gate_.release(records, [this] { return lease_.valid(); });
  source_->changed();
  if (report.armed && told_.load() && !protected_) {
    protected_ = true;
    source_->guard();
    status_.enter(State::kProtected, "PROTECTED", "the backup follows and may take over");
    status_.step("protected");
  }
  if (said_last_ || !gate_.empty()) return;
  const bool ended = records >= ends_at_.load();
  if (!ended && records < hands_over_at_.load()) return;
  {
    std::lock_guard lock(mutex_);
    // Its goodbye is under way.
    if (closing_) return;
    said_last_ = true;
    if (!ended) hand_over_ = HandOver::kSent;
  }
  status_.step(ended ? "ending" : "handing-over");
  if (ended) {
    channel_->send(FrameType::kGoodbye, encode(Goodbye{kGuestEnded, "the guest has ended"}));
  } else {
    // All that was let out: the backup sends the rest again.
    beat();
    channel_->send(FrameType::kHandOver, {});
  }
}

// The guest powered off, crashed, or was stopped by its owner: the log gets its end.
void PrimarySession::look_for_end() {
  if (!ready_.load() || ends_at_.load() != ~uint64_t{0} || hands_over_at_.load() != ~uint64_t{0}) return;
  if (machine_->state() < machine::State::kStopped) return;
  machine_->call(At::kAnywhere, [this] {
    std::optional<machine::StateDigest> digest;
    if (machine_->at_boundary()) digest = machine_->digest_here();
    recorder_->finish(machine_->boundary(), digest,
                      digest ? replay::EndReason::kStopped : replay::EndReason::kNoBoundary);
    ends_at_.store(recorder_->records());
  });
  writer_->commit();
}

// ---- Handing over

void PrimarySession::hand_over() {
  {
    std::lock_guard lock(mutex_);
    if (status_.state() != State::kProtected || hand_over_ != HandOver::kNone || closing_)
      throw Error("BAD_STATE", "only a protected machine can be handed over; it is " +
                                   std::string(state_name(status_.state())));
    hand_over_ = HandOver::kAsked;
  }
  try {
    machine_->call(At::kBoundary, [this] {
      if (let_go_)
        throw Error("NO_BOUNDARY", "the backup was lost before the machine could be stopped for it");
      if (machine_->state() != machine::State::kRunning && machine_->state() != machine::State::kPaused)
        throw Error("NO_BOUNDARY", "the machine has ended");
      if (machine_->state() == machine::State::kRunning) {
        paused_for_.store(Reason::kRequested);
        machine_->pause_here(Reason::kRequested, "it is being handed over");
      }
      const auto digest = machine_->digest_here();
      recorder_->finish(digest.boundary, digest, replay::EndReason::kStopped);
      hands_over_at_.store(recorder_->records());
    });
  } catch (const Error& error) {
    std::lock_guard lock(mutex_);
    if (hand_over_ == HandOver::kAsked) hand_over_ = HandOver::kNone;
    throw Error("HAND_OVER_FAILED", std::string("the machine goes on here: ") + error.what());
  }
  writer_->commit();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return hand_over_ >= HandOver::kDone; });
  if (hand_over_ == HandOver::kFailed)
    throw Error("HAND_OVER_FAILED", "the backup did not take the machine; this side is " +
                                        std::string(state_name(status_.state())));
}

// ---- The end

void PrimarySession::lose(const std::string& code, const std::string& message) {
  if (status_.settled()) return;
  channel_->close();
  link_.stop();
  Timeline timeline;
  timeline.last_heard_ns = link_.last_heard_ns();
  timeline.detected_ns = now_ns();
  timeline.cause = code;
  if (!told_.load()) {
    std::unique_lock lock(mutex_);
    const bool closing = closing_;
    lock.unlock();
    go_on(State::kEnded, closing ? "CLOSED" : code, message);
    return;
  }
  status_.enter(State::kSuspecting, code, message);
  status_.step("suspecting");
  bool unreachable = false;
  for (auto pause = kFirstRetry;; pause = std::min(pause * 2, kLongestRetry)) {
    const auto claim = options_.arbiter(session(), "primary");
    if (claim == migrate::Claim::kWon) break;
    if (claim == migrate::Claim::kLost) {
      timeline.claimed_ns = now_ns();
      status_.set_timeline(timeline);
      status_.step("lost-claim");
      // At a hand-over that is what was wanted.
      if (hands_over_at_.load() != ~uint64_t{0} && said_last_) {
        fence(State::kEnded, Reason::kHandedOver, "HAND_OVER", "the machine runs at the backup now");
        std::lock_guard lock(mutex_);
        hand_over_ = HandOver::kDone;
      } else {
        fence(State::kHalted, Reason::kFenced, "LOST_CLAIM", "the backup took over: " + message);
      }
      return;
    }
    if (!unreachable) {
      unreachable = true;
      stand_still();
      status_.enter(State::kWaiting, "ARBITER_UNREACHABLE",
                    "the arbiter does not answer: the machine stands still until it does");
      status_.step("waiting");
    }
    if (!wait_to_retry(pause)) {
      let_go([&] { gate_.drop(); });
      end_log();
      status_.set_timeline(timeline);
      status_.enter(State::kEnded, "CLOSED",
                    "closed while the arbiter did not answer: the machine stays paused");
      return;
    }
  }
  timeline.claimed_ns = now_ns();
  status_.step("claimed");
  timeline.boundary = machine_->boundary();
  timeline.reissued_packets = gate_.held();
  const bool ended = ends_at_.load() != ~uint64_t{0};
  go_on(ended ? State::kEnded : State::kUnprotected, ended ? kGuestEnded : code, message, &timeline);
}

// The machine goes on without a backup: what is held goes out first.
void PrimarySession::go_on(State state, const std::string& code, const std::string& message,
                           Timeline* timeline) {
  bool closing;
  {
    std::lock_guard lock(mutex_);
    closing = closing_;
  }
  // The owner's own wish is no loss.
  const bool stop =
      state == State::kUnprotected && options_.on_loss == ProtectOptions::Loss::kStop && !closing;
  if (logging_.load()) {
    bool stands = false;
    let_go([&] {
      gate_.open();
      const auto now = machine_->state();
      stands = now == machine::State::kPaused && paused_for_.load() == machine_->reason();
      if (stop && (stands || now == machine::State::kRunning))
        machine_->pause_for(Reason::kUnprotected, "the backup is lost: " + message);
    });
    try {
      if (stands && !stop) machine_->resume();
    } catch (const Error&) {
      // Closed, or its owner was quicker.
    }
    end_log();
  }
  if (timeline) {
    timeline->live_ns = now_ns();
    status_.set_timeline(*timeline);
  }
  status_.enter(state, code, message);
  status_.step("unprotected");
}

void PrimarySession::fence(State state, Reason reason, const std::string& code, const std::string& message) {
  let_go([&] {
    gate_.drop();
    machine_->stop_here(reason, message);
  });
  end_log();
  status_.enter(state, code, message);
  status_.step("fenced");
}

void PrimarySession::let_go(const std::function<void()>& first) {
  try {
    machine_->call(At::kAnywhere, [&] {
      let_go_ = true;
      first();
      machine_->use_outputs(nullptr);
      machine_->use_source(machine_->live_inputs());
    });
  } catch (const Error&) {
    // The machine is closed: its thread no longer runs.
  }
}

void PrimarySession::end_log() {
  try {
    writer_->close();
  } catch (const Error&) {
    // Nobody reads it.
  }
}

void PrimarySession::stand_still() {
  try {
    machine_->call(At::kAnywhere, [this] {
      const bool handed =
          machine_->state() == machine::State::kPaused && paused_for_.load() == machine_->reason();
      if (machine_->state() != machine::State::kRunning && !handed) return;
      paused_for_.store(Reason::kInDoubt);
      machine_->pause_for(Reason::kInDoubt,
                          "the backup may have taken over, and the arbiter does not answer");
    });
  } catch (const Error&) {
  }
}

bool PrimarySession::wait_to_retry(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return closing_; });
}

void PrimarySession::close() {
  bool first, said_last;
  {
    std::unique_lock lock(mutex_);
    first = !std::exchange(closing_, true);
    // The backup does not read on: before it has its answer from the arbiter, or has come to the log's end.
    said_last = said_last_;
    if (first && sender_) sender_->cancel();
    changed_.notify_all();
    if (first && said_last && hand_over_ == HandOver::kNone)
      changed_.wait_for(lock, kEndPatience, [this] { return over_; });
  }
  if (first) {
    if (told_.load() && !said_last) {
      try {
        channel_->send(FrameType::kGoodbye, encode(Goodbye{"CLOSED", "the primary ends the protection"}));
      } catch (const Error&) {
        // Lost already.
      }
    } else {
      channel_->close();
    }
  }
  std::lock_guard lock(join_mutex_);
  if (main_.joinable()) main_.join();
}

Stats PrimarySession::stats() const {
  Stats stats;
  stats.boundary = machine_->boundary();
  stats.heartbeat_timeout_ns = link_.timeout_ns();
  stats.held_outputs = gate_.held();
  stats.held_bytes = gate_.held_bytes();
  stats.released_outputs = gate_.released();
  stats.dropped_outputs = gate_.dropped();
  stats.hold_p50_ns = gate_.holds().quantile(0.5);
  stats.hold_p99_ns = gate_.holds().quantile(0.99);
  stats.log_blocks = ledger_.blocks();
  stats.acked_records = ledger_.acknowledged_records();
  stats.peer_boundary = peer_boundary_.load(std::memory_order_relaxed);
  stats.round_trip_ns = ledger_.round_trip_ns();
  if (!status_.settled()) stats.lag_ns = ledger_.lag(now_ns());
  stats.lag_p50_ns = ledger_.lags().quantile(0.5);
  stats.lag_p99_ns = ledger_.lags().quantile(0.99);
  stats.lag_max_ns = ledger_.lags().max();
  if (logging_.load()) {
    const auto log = writer_->stats();
    stats.log_records = log.records;
    stats.log_bytes = sink_->wire_bytes();
    stats.input_bytes = log.input_bytes;
    stats.paced_ns = source_->paced_ns();
  }
  return stats;
}

}  // namespace

std::unique_ptr<Primary> Primary::protect(std::shared_ptr<Machine> machine,
                                          std::unique_ptr<wire::Channel> channel, ProtectOptions options) {
  if (!machine || !channel) throw Error("BAD_CONFIG", "a protection needs a machine and a channel");
  check_options(options);
  if (machine->recorded()) throw Error("BAD_STATE", "the machine is being recorded or protected already");
  if (machine->state() >= machine::State::kStopped)
    throw Error("BAD_STATE", "the machine has ended: there is nothing to protect");
  machine::refuse_debugged(machine->debugged(), "protect");
  return std::make_unique<PrimarySession>(std::move(machine), std::move(channel), std::move(options));
}

}  // namespace hypertwin::ha
