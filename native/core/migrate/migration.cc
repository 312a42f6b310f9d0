// The hand-over and its one decision. The whole of it happens in a task on the vCPU's thread: the machine
// stands still between two instructions and nobody can resume, pause or stop it meanwhile; when nothing was
// moved it simply goes on.
#include "migrate/migration.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "machine/guest_debug.h"
#include "migrate/payloads.h"
#include "migrate/peer.h"

namespace hypertwin::migrate {

namespace {

using machine::Machine;
using machine::Reason;
using machine::State;

constexpr std::chrono::milliseconds kFirstPause{10}, kLongestPause{500};
// For a peer that does nothing to take in this side's last words.
constexpr std::chrono::milliseconds kCancelGrace{1000};
constexpr const char* kRefused = "REFUSED";

// Waits for so long; false: no more questions.
using Pause = std::function<bool(std::chrono::milliseconds)>;

// Asks until there is an answer, for `patience` (0: for ever), or until `pause` says no.
Claim claim(const Arbiter& arbiter, const SessionId& session, const char* who,
            std::chrono::milliseconds patience, const Pause& pause) {
  const auto until = std::chrono::steady_clock::now() + patience;
  for (auto time = kFirstPause;; time = std::min(time * 2, kLongestPause)) {
    Claim answer = arbiter(session_text(session), who);
    if (answer != Claim::kUnreachable) return answer;
    if (patience.count() > 0 && std::chrono::steady_clock::now() + time > until) return answer;
    if (!pause(time)) return answer;
  }
}

bool sleep(std::chrono::milliseconds time) {
  std::this_thread::sleep_for(time);
  return true;
}

}  // namespace

void check_movable(const Machine& machine) {
  const State state = machine.state();
  if (state != State::kRunning && state != State::kPaused)
    throw Error("BAD_STATE", "cannot migrate a machine that is " + std::string(machine::state_name(state)) +
                                 ": only one that runs or is paused");
  if (machine.recorded())
    throw Error("BAD_STATE",
                "cannot migrate a machine that is recorded, replayed or protected: end that first");
  machine::refuse_debugged(machine.debugged(), "migrate");
}

struct Migration::Impl {
  Impl(std::shared_ptr<Machine> its_machine, std::unique_ptr<wire::Channel> its_channel,
       MigrateOptions its_options)
      : machine(std::move(its_machine)),
        channel(std::move(its_channel)),
        options(std::move(its_options)),
        sender(machine, *channel, options),
        peer(*channel, "destination") {}

  void step(Step which) const {
    if (options.on_step) options.on_step(which);
  }

  // The state was sent and `problem` came up: who runs the machine now? Returns when this side does.
  void decide(const std::string& problem, bool commit_sent, const SessionId& session) {
    if (!options.arbiter) {
      // Before kCommit, the other side never runs it.
      if (!commit_sent) return;
      machine->pause_for(Reason::kInDoubt, problem);
      throw Error("MIGRATION_IN_DOUBT",
                  "the destination was told to run the machine and never said that it does (" + problem +
                      "): the machine is paused here; look there, then resume it or stop it");
    }
    const Claim answer = claim(options.arbiter, session, "source", options.claim_patience, sleep);
    if (answer != Claim::kUnreachable) step(Step::kClaimed);
    if (answer == Claim::kWon) return;
    if (answer == Claim::kLost) {
      machine->stop_here(Reason::kMigrated, "the destination runs it");
      throw Error("MIGRATED_ANYWAY",
                  "the connection was lost (" + problem +
                      "), but the arbiter gave the machine to the destination: it is stopped here");
    }
    machine->pause_for(Reason::kInDoubt, problem);
    throw Error("MIGRATION_IN_DOUBT",
                "the connection was lost (" + problem +
                    ") and the arbiter does not answer: the machine is paused here; resume "
                    "or stop it once it is known whether the destination runs it");
  }

  // On the vCPU's thread.
  void hand_over(MigrateResult& result) {
    check_movable(*machine);
    const auto frozen = machine->freeze_memory();
    const uint64_t stopped = now_ns();
    step(Step::kStopped);
    bool commit_sent = false;
    try {
      result.digest = sender.finish();
      sender.await_ready();
      commit_sent = true;
      peer.send(wire::FrameType::kCommit, {}, kRefused);
      step(Step::kCommitSent);
      peer.receive({wire::FrameType::kRunning}, options.patience, kRefused);
    } catch (const std::exception& problem) {
      auto* error = dynamic_cast<const Error*>(&problem);
      if (!sender.state_sent()) throw;
      // Its own words that it does not run the machine, and never will, are as good as a claim. It may wait
      // to hear that they were heard.
      if (error && error->code() == kRefused) {
        peer.tell(wire::FrameType::kAbort, Error("GOES_ON", "the machine goes on here"));
        throw;
      }
      // From here on it hears no more of this side: it cannot be told to run after the decision.
      channel->close();
      decide(problem.what(), commit_sent, result.session);
      throw;
    }
    result.blackout_ns = now_ns() - stopped;
    machine->stop_here(Reason::kMigrated, "it runs on " + channel->peer());
    step(Step::kRunningReceived);
  }

  MigrateResult run() {
    const uint64_t started = now_ns();
    check_movable(*machine);
    step(Step::kConnected);
    MigrateResult result;
    result.session = random_session();
    sender.handshake(result.session);
    sender.precopy();
    machine->call(machine::At::kAnywhere, [&] { hand_over(result); });
    result.progress = sender.progress();
    result.progress.phase = Progress::Phase::kDone;
    result.total_ns = now_ns() - started;
    return result;
  }

  std::shared_ptr<Machine> machine;
  std::unique_ptr<wire::Channel> channel;
  MigrateOptions options;
  Sender sender;
  Peer peer;
};

Migration::Migration(std::shared_ptr<Machine> machine, std::unique_ptr<wire::Channel> channel,
                     MigrateOptions options)
    : impl_(std::make_unique<Impl>(std::move(machine), std::move(channel), std::move(options))) {}

Migration::~Migration() = default;

MigrateResult Migration::run() {
  try {
    auto result = impl_->run();
    impl_->channel->close();
    return result;
  } catch (...) {
    impl_->channel->close();
    throw;
  }
}

void Migration::cancel() { impl_->sender.cancel(); }

void Migration::limit(uint64_t bytes_per_second) { impl_->sender.limit(bytes_per_second); }

Progress Migration::progress() const { return impl_->sender.progress(); }

namespace {

// Until when a machine that comes may be turned away, and how.
enum class Phase : uint8_t {
  kReceiving,  // the source owns it
  kReady,      // the source may have said that it is this side's
  kClaiming,   // the arbiter is asked
  kOurs,
};

// Tells switches where the guest is now: a RARP request for each of its addresses, as other hypervisors do.
void announce(Machine& machine) {
  const auto& nets = machine.config().nets;
  for (size_t i = 0; i < nets.size(); ++i) {
    if (nets[i].backend != machine::NetBackend::kTap) continue;
    const auto& mac = nets[i].mac;
    std::vector<uint8_t> frame(6, 0xff);
    auto add = [&](auto bytes) { frame.insert(frame.end(), bytes.begin(), bytes.end()); };
    add(mac);
    add(std::array<uint8_t, 10>{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3});  // RARP, Ethernet, IPv4, request
    add(mac);
    add(std::array<uint8_t, 4>{});
    add(mac);
    frame.resize(60);
    machine.emit_packet(static_cast<uint32_t>(i), frame);
  }
}

}  // namespace

struct Reception::Impl {
  Impl(std::shared_ptr<kvm::System> its_system, wire::Channel& its_channel, ReceiveOptions its_options)
      : channel(its_channel),
        options(one_purpose(std::move(its_options))),
        receiver(std::move(its_system), channel, options),
        peer(channel, "source") {}

  static ReceiveOptions one_purpose(ReceiveOptions options) {
    if (options.purposes.size() != 1) options.purposes = {Purpose::kMigrate};
    return options;
  }

  void step(Step which) const {
    if (options.on_step) options.on_step(which);
  }

  // Throws once it is cancelled.
  void enter(Phase next) {
    std::lock_guard lock(mutex);
    if (cancelled) throw turned_away();
    phase = next;
  }
  static Error turned_away() { return Error("CANCELLED", "the machine was turned away on this side"); }
  bool was_turned_away() {
    std::lock_guard lock(mutex);
    return cancelled && phase != Phase::kOurs;
  }

  // The source's answer to this side's kAbort.
  bool source_goes_on() {
    try {
      peer.receive({}, options.patience, "NOT_OURS");
    } catch (const Error& error) {
      return error.code() == "NOT_OURS";
    }
    return false;
  }

  // Returns with the claim. False: but the source may have heard that this side turned the machine away.
  bool claim_it(const SessionId& session, bool committed) {
    enter(Phase::kClaiming);
    auto ask = [&](const Pause& pause) {
      return claim(options.arbiter, session, "destination", std::chrono::milliseconds(0), pause);
    };
    Claim answer = ask([this](auto time) {
      std::unique_lock lock(mutex);
      return !changed.wait_for(lock, time, [this] { return cancelled; });
    });
    bool told = false;
    if (answer == Claim::kUnreachable) {
      // Turned away. But what was asked for may still be granted, and the source then be stopped: only a
      // source that says that it goes on takes the machine back.
      told = !channel.ended() && peer.tell(wire::FrameType::kAbort, turned_away());
      if (told && source_goes_on()) throw turned_away();
      answer = ask(sleep);
    }
    if (answer == Claim::kWon) return !told;
    const Error error("NOT_OURS", "the arbiter gave the machine to the source: it goes on there");
    if (committed) peer.tell(wire::FrameType::kAbort, error);
    throw error;
  }

  ReceiveResult run() {
    ReceiveResult result;
    result.session = receiver.handshake().session;
    auto machine = receiver.receive();
    result.digest = receiver.digest();
    result.progress = receiver.progress();
    result.progress.phase = Progress::Phase::kDone;

    bool committed = false;
    enter(Phase::kReady);
    try {
      receiver.ready();
      peer.receive({wire::FrameType::kCommit}, options.patience, "NOT_OURS");
      committed = true;
      step(Step::kCommitReceived);
    } catch (const Error& error) {
      // The source's word that it goes on; or nothing is to be believed, and without an arbiter it goes on.
      if (!options.arbiter || error.code() == "NOT_OURS") throw;
    }
    if (options.arbiter) {
      const bool alone = claim_it(result.session, committed);
      {
        std::lock_guard lock(mutex);
        phase = Phase::kOurs;
      }
      step(Step::kDestinationClaimed);
      if (!alone) {
        machine->call(machine::At::kAnywhere, [&] {
          machine->pause_for(
              Reason::kInDoubt,
              "the source was told that this side turned the machine away, and did not answer; the arbiter "
              "gave the machine to this side: look there, then resume it or stop it");
        });
        result.machine = std::move(machine);
        return result;
      }
    } else {
      enter(Phase::kOurs);
    }
    const bool runs = receiver.was_running() && !options.start_paused;
    try {
      if (runs) machine->resume();
    } catch (const Error& error) {
      peer.tell(wire::FrameType::kAbort, error);
      throw;
    }
    step(Step::kRunning);
    try {
      channel.send(wire::FrameType::kRunning, {});
    } catch (const Error&) {
      // It runs all the same: the source learns it from the arbiter, or is in doubt.
    }
    if (runs) announce(*machine);
    result.machine = std::move(machine);
    return result;
  }

  void cancel() {
    {
      std::lock_guard lock(mutex);
      if (cancelled || phase == Phase::kOurs) return;
      cancelled = true;
      changed.notify_all();
      if (phase == Phase::kClaiming) return;
    }
    // It may stand still, and then asks nobody who runs it.
    peer.condemn(kCancelGrace);
    peer.tell(wire::FrameType::kAbort, turned_away());
    channel.close();
  }

  wire::Channel& channel;
  const ReceiveOptions options;
  Receiver receiver;
  Peer peer;
  std::mutex mutex;  // guards the rest
  std::condition_variable changed;
  Phase phase = Phase::kReceiving;
  bool cancelled = false;
};

Reception::Reception(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiveOptions options)
    : impl_(std::make_unique<Impl>(std::move(system), channel, std::move(options))) {}

Reception::~Reception() = default;

ReceiveResult Reception::run() {
  try {
    return impl_->run();
  } catch (const Error&) {
    if (impl_->was_turned_away()) throw Impl::turned_away();
    throw;
  }
}

void Reception::cancel() { impl_->cancel(); }

ReceiveResult receive(std::shared_ptr<kvm::System> system, wire::Channel& channel, ReceiveOptions options) {
  return Reception(std::move(system), channel, std::move(options)).run();
}

}  // namespace hypertwin::migrate
