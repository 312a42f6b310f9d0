// The backup's side of a protection.
//
//   ht-ha-main   receives the machine, then its log, and acknowledges it; goes live when the primary is lost
//   ht-ha-beat   a report each interval; notices a replica that can follow no more
//   ht-ha-watch  closes the channel when the primary is silent for too long
//   ht-vcpu0     replays
//
// It may claim only after a heartbeat said `armed`, and never after its own goodbye.
#include <algorithm>
#include <thread>

#include "base/bytes.h"
#include "base/error.h"
#include "ha/clock.h"
#include "ha/ha.h"
#include "ha/lag.h"
#include "ha/link.h"
#include "ha/log_source.h"
#include "ha/messages.h"
#include "ha/retained_outputs.h"
#include "ha/status.h"
#include "replay/recorder.h"
#include "replay/replayer.h"

namespace hypertwin::ha {

namespace {

using machine::At;
using machine::Machine;
using machine::Reason;
using wire::FrameType;

constexpr std::chrono::milliseconds kFirstRetry{50}, kLongestRetry{1000}, kLook{100};
// So long a backup that is closed while it claims waits for the arbiter and for its replica.
constexpr uint64_t kClosePatience = 5'000'000'000;
constexpr size_t kUnreadLog = 256u << 20;
constexpr char kNoArbiter[] = "ARBITER_UNREACHABLE";
constexpr char kClosedUnanswered[] =
    "closed while the arbiter did not answer: if it gives the machine to this side, nobody runs it";

// Between the machine and its owner's listener, who hears nothing of a replica.
class LiveListener final : public machine::Listener {
 public:
  explicit LiveListener(std::shared_ptr<machine::Listener> next) : next_(std::move(next)) {}

  void on_state(machine::State state, Reason reason, const std::string& message) override {
    {
      std::lock_guard lock(mutex_);
      state_ = state;
      changed_.notify_all();
    }
    if (live_.load() && next_) next_->on_state(state, reason, message);
  }
  void on_packet(uint32_t device, std::span<const uint8_t> packet) override {
    if (live_.load() && next_) next_->on_packet(device, packet);
  }
  void on_console(uint32_t device, std::span<const uint8_t> bytes) override {
    if (live_.load() && next_) next_->on_console(device, bytes);
  }
  void on_marker(uint32_t value) override {
    if (live_.load() && next_) next_->on_marker(value);
  }
  void on_disk(uint32_t device, const backends::DiskNotice& notice) override {
    if (live_.load() && next_) next_->on_disk(device, notice);
  }

  void go_live() { live_.store(true); }
  void expect_running() {
    std::lock_guard lock(mutex_);
    state_ = machine::State::kRunning;
  }
  // Until the machine does not run, or `enough`, which is asked now and then.
  void wait_stopped(const std::function<bool()>& enough) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kLook, [&] { return state_ != machine::State::kRunning || enough(); })) {
    }
  }
  void look_again() {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

 private:
  const std::shared_ptr<machine::Listener> next_;
  std::atomic<bool> live_{false};
  std::mutex mutex_;  // guards state_
  std::condition_variable changed_;
  machine::State state_ = machine::State::kPaused;
};

// How far the primary's guest is known to have run on.
class Horizon final : public replay::Guide {
 public:
  explicit Horizon(const LogSource& log) : log_(log) {}
  bool settled(uint64_t boundary, uint64_t records) const override {
    // Of a complete log the end is to be found. In this order: see advance().
    return !log_.complete() && boundary <= boundary_.load(std::memory_order_acquire) &&
           records >= records_.load(std::memory_order_relaxed);
  }
  bool complete() const override { return log_.complete() || log_.cancelled(); }
  void advance(uint64_t boundary, uint64_t records) {
    // The primary's heartbeats may overtake each other.
    if (boundary < boundary_.load(std::memory_order_relaxed)) return;
    records_.store(records, std::memory_order_relaxed);
    boundary_.store(boundary, std::memory_order_release);
  }

 private:
  const LogSource& log_;
  std::atomic<uint64_t> boundary_{0}, records_{0};
};

// A replica's inputs; tells of the packets that come to the guest.
class Follower final : public replay::Replayer {
 public:
  Follower(Machine& machine, log::Reader& reader, const replay::Guide& guide, RetainedOutputs& outputs)
      : Replayer(machine, reader, true, &guide), outputs_(outputs) {}
  bool next(uint64_t ordinal, std::optional<uint64_t> deadline, machine::Input& input) override {
    if (!Replayer::next(ordinal, deadline, input)) return false;
    if (input.kind == machine::InputKind::kPacket) outputs_.heard(input.device, input.bytes);
    return true;
  }

 private:
  RetainedOutputs& outputs_;
};

class BackupSession final : public Backup {
 public:
  BackupSession(std::shared_ptr<kvm::System> system, std::unique_ptr<wire::Channel> channel,
                BackupOptions options)
      : system_(std::move(system)),
        channel_(std::move(channel)),
        options_(std::move(options)),
        status_(options_, State::kSyncing),
        listener_(std::make_shared<LiveListener>(options_.listener)),
        unread_(std::make_unique<LogSource>(kUnreadLog)),
        log_(*unread_),
        horizon_(log_),
        link_(*channel_, options_.heartbeats,
              {[this] { beat(); },
               [this] { return !handing_over_.load() && lease_clock_ns() > promised_until_.load(); },
               [this] { look_at_replica(); }}) {
    main_ = std::thread([this] { run(); });
  }
  ~BackupSession() override { close(); }

  State state() const override { return status_.state(); }
  migrate::Progress sync_progress() const override {
    std::lock_guard lock(mutex_);
    return receiver_ ? receiver_->progress() : progress_;
  }
  Stats stats() const override;
  std::optional<Timeline> timeline() const override { return status_.timeline(); }
  std::string session() const override {
    std::lock_guard lock(mutex_);
    return session_;
  }
  std::shared_ptr<Machine> machine() const override {
    std::lock_guard lock(mutex_);
    return machine_;
  }
  std::optional<State> wait_settled(std::chrono::milliseconds limit) override {
    if (!status_.wait_settled(limit)) return std::nullopt;
    return status_.state();
  }
  void close() override;

 private:
  void run();
  void receive_machine();
  void follow();
  void begin_replay();
  void finish_replay(const std::function<bool()>& enough);
  void pause_behind_log();
  void report(FrameType type);
  void beat();
  struct Replayed {
    uint64_t boundary = 0;
    uint64_t dry_ns = 0;  // how long ago the last record that came was replayed; 0: some are left
  };
  // How far the replay is; any thread.
  Replayed replayed() const;
  void on_beat(const PrimaryBeat& beat);
  void look_at_replica();
  // Why the replica cannot become the machine.
  std::optional<Goodbye> replica_flaw() const;
  // Tells the primary that this side will never claim. False: it is claiming already.
  bool renounce(const std::string& code, const std::string& message);
  void end(const std::string& code, const std::string& message);
  void drop_replica(Reason reason, const std::string& message);

  void lose(const std::string& code, const std::string& message);
  void hand_over();
  // Asks until there is an answer; nullopt: closed, and none came.
  std::optional<migrate::Claim> claim(const std::string& why);
  void go_live(Timeline& timeline, const std::string& code, const std::string& message);
  bool closing() const {
    std::lock_guard lock(mutex_);
    return closing_;
  }
  // Closed, and nothing is waited for any more.
  bool given_up() const {
    std::lock_guard lock(mutex_);
    return closing_ && now_ns() - closed_ns_ > kClosePatience;
  }

  const std::shared_ptr<kvm::System> system_;
  const std::unique_ptr<wire::Channel> channel_;
  BackupOptions options_;
  Status status_;
  const std::shared_ptr<LiveListener> listener_;

  mutable std::mutex mutex_;  // guards the members up to closed_ns_
  std::condition_variable changed_;
  std::unique_ptr<migrate::Receiver> receiver_;
  migrate::Progress progress_;
  std::string session_;
  std::shared_ptr<Machine> machine_;
  bool claiming_ = false;
  std::optional<Goodbye> renounced_;
  bool closing_ = false;
  uint64_t closed_ns_ = 0;

  std::unique_ptr<LogSource> unread_;  // until the reader has it
  LogSource& log_;
  Horizon horizon_;
  mutable Lag lag_;  // what was looked at last
  std::unique_ptr<RetainedOutputs> outputs_;
  std::unique_ptr<log::Reader> reader_;
  std::unique_ptr<Follower> replayer_;
  std::atomic<bool> replaying_{false};  // the three are there

  std::atomic<bool> armed_{false}, handing_over_{false}, peer_gone_{false};
  bool paused_ = false;     // ht-ha-main: the primary's machine, by its owner
  uint64_t paused_ns_ = 0;  // ht-ha-main: when that was told last
  std::atomic<uint64_t> echo_{0}, echo_at_{0}, promised_until_{0};

  Link link_;
  std::mutex join_mutex_;
  std::thread main_;
};

// ---- Beginning

void BackupSession::run() {
  enter_thread("ht-ha-main");
  const auto steps = [&] {
    receive_machine();
    follow();
  };
  run_session(link_, "the primary", steps,
              [&](const std::string& code, const std::string& message) { lose(code, message); });
}

void BackupSession::receive_machine() {
  status_.step("connected");
  migrate::ReceiverOptions receiving;
  receiving.listener = listener_;
  receiving.adjust = options_.adjust;
  receiving.purposes = {migrate::Purpose::kProtect};
  {
    auto receiver = std::make_unique<migrate::Receiver>(system_, *channel_, std::move(receiving));
    std::lock_guard lock(mutex_);
    receiver_ = std::move(receiver);
    if (closing_) throw Error("CLOSED", "the backup was closed");
  }
  const auto& hello = receiver_->handshake();
  {
    std::lock_guard lock(mutex_);
    session_ = migrate::session_text(hello.session);
  }
  status_.step("hello");
  auto machine = receiver_->receive();
  status_.step("state-received");
  std::vector<Mac> macs;
  for (const auto& net : machine->config().nets) macs.push_back(net.mac);
  outputs_ = std::make_unique<RetainedOutputs>(std::move(macs), options_.retained_bytes);
  receiver_->ready();
  std::unique_ptr<migrate::Receiver> done;
  {
    std::lock_guard lock(mutex_);
    machine_ = std::move(machine);
    progress_ = receiver_->progress();
    done = std::move(receiver_);
  }
  link_.start();
  status_.step("ready");
}

// ---- Following

void BackupSession::follow() {
  while (auto frame = channel_->receive()) {
    link_.heard();
    switch (frame->type) {
      case FrameType::kSegment: {
        if (frame->payload.size() < 4) throw Error("PROTOCOL", "a log segment without its number");
        log_.begin_segment(get_le<uint32_t>(frame->payload.data()), frame->payload.subspan(4));
        if (replaying_.load()) break;
        try {
          begin_replay();
        } catch (const Error& error) {
          renounce(error.code(), error.what());
          throw;
        }
        break;
      }
      case FrameType::kLog:
        try {
          log_.append(frame->payload);
          lag_.came(log_.boundary(), now_ns());
        } catch (const Error& error) {
          renounce(error.code(), error.what());
          throw;
        }
        // The users' answers wait for this; the replica has time.
        report(FrameType::kAck);
        log_.announce();
        // Its guest does something.
        paused_ = false;
        status_.step("acked");
        break;
      case FrameType::kHeartbeat:
        on_beat(decode_beat(frame->payload));
        break;
      case FrameType::kHandOver:
        hand_over();
        return;
      case FrameType::kGoodbye: {
        const auto goodbye = decode_goodbye(frame->payload);
        // The answer: only then the primary may go on without asking anybody.
        if (goodbye.code == kGuestEnded) finish_replay([this] { return closing() || peer_gone_.load(); });
        if (!renounce(goodbye.code, goodbye.message)) throw Error("PROTOCOL", "a goodbye too late");
        end(goodbye.code, "the primary ended the protection: " + goodbye.message);
        return;
      }
      default:
        throw Error("PROTOCOL", std::string("the primary sent ") + wire::frame_name(frame->type));
    }
  }
}

void BackupSession::begin_replay() {
  reader_ = std::make_unique<log::Reader>(std::move(unread_), log::ReaderOptions{.follow = true});
  const auto header = reader_->header();
  log::LogHeader here = replay::log_header(*machine_);
  here.initial_state = header.initial_state;
  if (const auto mismatches = log::replay_mismatches(header, here); !mismatches.empty())
    throw Error("LOG_MISMATCH", "the primary's log cannot be replayed here: " + mismatches.front());
  replayer_ = std::make_unique<Follower>(*machine_, *reader_, horizon_, *outputs_);
  machine_->call(At::kAnywhere, [&] {
    machine_->rolling() = RollingDigest(header.initial_state);
    machine_->use_outputs(outputs_.get());
    machine_->use_source(*replayer_);
  });
  listener_->expect_running();
  machine_->resume();
  replaying_.store(true);
}

// The log is whole: to its end, while the primary waits and hears of us.
void BackupSession::finish_replay(const std::function<bool()>& enough) {
  handing_over_.store(true);
  log_.finish();
  if (!replaying_.load()) return;
  pause_behind_log();
  listener_->wait_stopped(enough);
}

// A replica that ran on beyond the complete log need not come to a boundary.
void BackupSession::pause_behind_log() {
  machine_->call(At::kAnywhere, [this] {
    if (machine_->state() != machine::State::kRunning) return;
    const auto end = replayer_->end_here();
    if (end == machine::SourceEnd::kLogEnd) machine_->pause_here(Reason::kLogEnd);
    if (end == machine::SourceEnd::kDiverged) machine_->pause_here(Reason::kDiverged);
  });
}

void BackupSession::beat() {
  try {
    report(FrameType::kHeartbeat);
  } catch (const Error&) {
    peer_gone_.store(true);
    listener_->look_again();
    throw;
  }
}

void BackupSession::report(FrameType type) {
  BackupReport report;
  report.armed = armed_.load();
  report.echo_ns = echo_.load();
  report.promise_ns = link_.timeout_ns();
  report.received = log_.received();
  const Replayed replay = replayed();
  report.boundary = replay.boundary;
  report.dry_ns = replay.dry_ns;
  if (report.echo_ns != 0) {
    const uint64_t until = echo_at_.load() + report.promise_ns;
    uint64_t before = promised_until_.load();
    while (before < until && !promised_until_.compare_exchange_weak(before, until)) {
    }
  }
  channel_->send(type, encode(report));
}

BackupSession::Replayed BackupSession::replayed() const {
  Replayed replay;
  if (!replaying_.load()) return replay;
  // In this order: the machine does not go on while the log is dry.
  const uint64_t dry_since = log_.dry_since();
  replay.boundary = machine_->boundary();
  const uint64_t now = now_ns();
  if (dry_since != 0 && dry_since == log_.dry_since()) replay.dry_ns = now > dry_since ? now - dry_since : 1;
  lag_.replayed(replay.boundary, now - std::min(replay.dry_ns, now));
  return replay;
}

void BackupSession::on_beat(const PrimaryBeat& beat) {
  outputs_->released(beat.released);
  horizon_.advance(beat.settled_boundary, beat.settled_records);
  paused_ = beat.paused;
  if (paused_) paused_ns_ = now_ns();
  // A replica that waits for a record may go on without one.
  if (log_.dry_since() != 0 && replaying_.load() && machine_->boundary() <= beat.settled_boundary)
    log_.wake();
  // When it came first, then what it was: a promise is never counted from later than it was heard.
  echo_at_.store(lease_clock_ns());
  echo_.store(beat.sent_ns);
  if (!beat.armed || armed_.load()) return;
  armed_.store(true);
  // Before the primary hears it and says so: whoever sees it protected sees this side protected too.
  status_.enter(State::kProtected, "PROTECTED", "the replica follows and may take over");
  report(FrameType::kHeartbeat);
  status_.step("armed");
}

// A replica that diverged, failed, or whose disk is full.
void BackupSession::look_at_replica() {
  if (!replaying_.load()) return;
  if (const auto flaw = replica_flaw()) renounce(flaw->code, flaw->message);
}

std::optional<Goodbye> BackupSession::replica_flaw() const {
  if (auto failure = machine_->replica_failure()) return Goodbye{failure->code(), failure->what()};
  const auto state = machine_->state();
  if (state == machine::State::kFailed) return Goodbye{"REPLICA_FAILED", machine_->message()};
  if (state != machine::State::kPaused) return std::nullopt;
  // It stands still: what its thread wrote may be read.
  if (const auto& divergence = replayer_->divergence())
    return Goodbye{"DIVERGED", "the replica strayed from the log: " + divergence->message};
  if (reader_->stop() == log::Stop::kGap) return Goodbye{"LOG_DAMAGED", "a part of the log did not come"};
  return std::nullopt;
}

bool BackupSession::renounce(const std::string& code, const std::string& message) {
  {
    std::lock_guard lock(mutex_);
    if (claiming_) return false;
    if (renounced_) return true;
    renounced_ = Goodbye{code, message};
  }
  try {
    channel_->send(FrameType::kGoodbye, encode(Goodbye{code, message}));
  } catch (const Error&) {
    // Lost: the primary asks the arbiter, and wins.
  }
  return true;
}

// ---- The end

void BackupSession::drop_replica(Reason reason, const std::string& message) {
  log_.cancel();
  if (!machine_) return;
  try {
    machine_->call(At::kAnywhere, [&] {
      machine_->stop_here(reason, message);
      machine_->use_outputs(nullptr);
      machine_->use_source(machine_->live_inputs());
    });
  } catch (const Error&) {
    // Closed by who holds it.
  }
}

void BackupSession::end(const std::string& code, const std::string& message) {
  link_.stop();
  drop_replica(Reason::kFenced, message);
  channel_->close();
  status_.enter(State::kEnded, code, message);
  status_.step("ended");
}

void BackupSession::lose(const std::string& code, const std::string& message) {
  if (status_.settled()) return;
  channel_->close();
  link_.stop();
  Timeline timeline;
  timeline.last_heard_ns = link_.last_heard_ns();
  timeline.detected_ns = now_ns();
  timeline.cause = code;
  std::optional<Goodbye> ends;
  {
    std::lock_guard lock(mutex_);
    if (renounced_)
      ends = renounced_;
    else if (closing_)
      ends = Goodbye{"CLOSED", "the backup was closed"};
    else if (!armed_.load() || !replaying_.load())
      ends = Goodbye{code, message};
    else
      claiming_ = true;
  }
  if (ends) return end(ends->code, ends->message);
  // All that came is to be replayed, and no more will come.
  log_.finish();
  status_.enter(State::kSuspecting, code, message);
  status_.step("suspecting");
  const auto answer = claim(message);
  if (!answer) return end(kNoArbiter, kClosedUnanswered);
  timeline.claimed_ns = now_ns();
  if (*answer == migrate::Claim::kLost) {
    status_.set_timeline(timeline);
    drop_replica(Reason::kFenced, "the primary goes on");
    status_.enter(State::kHalted, "LOST_CLAIM", "the primary goes on: " + message);
    status_.step("halted");
    return;
  }
  status_.step("claimed");
  go_live(timeline, code, message);
}

std::optional<migrate::Claim> BackupSession::claim(const std::string& why) {
  bool waiting = false;
  for (auto pause = kFirstRetry;; pause = std::min(pause * 2, kLongestRetry)) {
    const auto answer = options_.arbiter(session(), "backup");
    if (answer != migrate::Claim::kUnreachable) return answer;
    if (!std::exchange(waiting, true)) {
      status_.enter(State::kWaiting, kNoArbiter, "the arbiter does not answer; " + why);
      status_.step("waiting");
    }
    // It may have given the claim to this side all the same: then closing must not lose the machine.
    if (given_up()) return std::nullopt;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, pause, [this, before = closing_] { return closing_ != before; });
  }
}

// The log has ended in order: its state is compared with the primary's before anything is claimed.
void BackupSession::hand_over() {
  status_.step("handing-over");
  Timeline timeline;
  timeline.last_heard_ns = timeline.detected_ns = now_ns();
  timeline.cause = "HAND_OVER";
  finish_replay([this] { return closing(); });
  if (!replayer_->ended() || replayer_->divergence()) {
    renounce("DIVERGED", replayer_->divergence() ? replayer_->divergence()->message : "the log has no end");
    return end("DIVERGED", "the replica's state is not the primary's");
  }
  // Nothing may be found out of its disks once it has the claim.
  machine_->call(At::kAnywhere, [this] { machine_->drain_disks(); });
  if (const auto flaw = replica_flaw()) {
    renounce(flaw->code, flaw->message);
    return end(flaw->code, flaw->message);
  }
  std::optional<Goodbye> renounced;
  {
    std::lock_guard lock(mutex_);
    renounced = renounced_;
    if (!renounced) claiming_ = true;
  }
  if (renounced) return end(renounced->code, renounced->message);
  const auto answer = claim("the machine was handed over");
  timeline.claimed_ns = now_ns();
  if (!answer || *answer == migrate::Claim::kLost) {
    link_.stop();
    drop_replica(Reason::kFenced, answer ? "the primary goes on" : kClosedUnanswered);
    channel_->close();
    if (answer)
      status_.enter(State::kHalted, "LOST_CLAIM", "the primary goes on");
    else
      status_.enter(State::kEnded, kNoArbiter, kClosedUnanswered);
    return;
  }
  status_.step("claimed");
  go_live(timeline, "HAND_OVER", "the primary handed the machine over");
  try {
    channel_->send(FrameType::kRunning, {});
    // Until it has heard it: it closes.
    while (channel_->receive()) link_.heard();
  } catch (const Error&) {
    // It will lose the claim.
  }
  link_.stop();
  channel_->close();
}

void BackupSession::go_live(Timeline& timeline, const std::string& code, const std::string& message) {
  pause_behind_log();
  listener_->wait_stopped([this] { return given_up(); });
  timeline.replayed_ns = now_ns();
  status_.step("replayed");
  if (machine_->state() == machine::State::kRunning)
    return end("CLOSED", "closed before the replica came to the log's end: nobody runs the machine");
  // What its disks have still to write may fail.
  machine_->call(At::kAnywhere, [this] {
    machine_->use_source(machine_->live_inputs());
    machine_->use_outputs(nullptr);
  });
  if (const auto flaw = replica_flaw()) {
    status_.set_timeline(timeline);
    return end(flaw->code, "the primary is lost, and the replica cannot take its place: " + flaw->message);
  }
  const bool over = machine_->state() >= machine::State::kStopped;
  listener_->go_live();
  machine_->call(At::kAnywhere, [&] {
    timeline.boundary = machine_->boundary();
    if (over) return;
    // The guest's time stood still with its primary's.
    if (paused_ns_ > machine_->live_inputs().clock_set_ns()) machine_->rewind_clock();
    timeline.reissued_requests = machine_->resubmit();
    if (!options_.announce) return;
    for (uint32_t i = 0; i < outputs_->announcer().devices(); ++i)
      for (const auto& frame : outputs_->announcer().frames(i)) machine_->emit_packet(i, frame);
    timeline.announced_ns = now_ns();
  });
  for (const auto& output : outputs_->take()) {
    if (output.packet)
      machine_->emit_packet(output.device, output.bytes);
    else
      machine_->emit_console(output.device, output.bytes);
    ++timeline.reissued_packets;
  }
  if (!over && paused_)
    machine_->call(At::kAnywhere,
                   [this] { machine_->pause_for(Reason::kRequested, "it was paused at the primary"); });
  else if (!over)
    machine_->resume();
  timeline.live_ns = now_ns();
  status_.set_timeline(timeline);
  if (over) {
    status_.enter(State::kEnded, kGuestEnded, "the guest ended before the primary was lost");
  } else {
    status_.enter(State::kLive, code, message);
    status_.step("live");
  }
}

void BackupSession::close() {
  bool first;
  {
    std::lock_guard lock(mutex_);
    first = !std::exchange(closing_, true);
    if (first) closed_ns_ = now_ns();
    changed_.notify_all();
  }
  if (first) {
    if (!status_.settled()) renounce("CLOSED", "the backup was closed");
    channel_->close();
    listener_->look_again();
  }
  std::lock_guard lock(join_mutex_);
  if (main_.joinable()) main_.join();
}

Stats BackupSession::stats() const {
  Stats stats;
  stats.log_bytes = log_.received();
  stats.heartbeat_timeout_ns = link_.timeout_ns();
  if (auto machine = this->machine()) {
    stats.boundary = stats.peer_boundary = machine->boundary();
    stats.held_outputs = outputs_->held();
    stats.held_bytes = outputs_->held_bytes();
  }
  replayed();
  if (!status_.settled()) stats.lag_ns = lag_.behind(now_ns());
  stats.lag_p50_ns = lag_.samples().quantile(0.5);
  stats.lag_p99_ns = lag_.samples().quantile(0.99);
  stats.lag_max_ns = lag_.samples().max();
  return stats;
}

}  // namespace

std::unique_ptr<Backup> Backup::follow(std::shared_ptr<kvm::System> system,
                                       std::unique_ptr<wire::Channel> channel, BackupOptions options) {
  if (!system || !channel) throw Error("BAD_CONFIG", "a backup needs a system and a channel");
  check_options(options);
  return std::make_unique<BackupSession>(std::move(system), std::move(channel), std::move(options));
}

}  // namespace hypertwin::ha
