// Live migration of real guests over a socket pair: what arrives is what was sent, clients work on, and
// whatever goes wrong leaves one machine running.
#include <set>

#include "dirty/bitmap.h"
#include "migrate_util.h"
#include "replay/recorder.h"

#if defined(__x86_64__)

namespace hypertwin::migrate {
namespace {

using machine::Machine;
using machine::open_kvm;
using machine::Reason;
using machine::State;
using machine::TempDir;
using machine::TestListener;

TEST(Migrate, MovesADirtierWhileItWrites) {
  NEED_KVM();
  auto here = std::make_shared<TestListener>();
  auto there = std::make_shared<TestListener>();
  auto machine = boot_dirtier(system_, here, "rounds=0 pattern=random pages=512 count=64 pause=1 hz=100");
  auto moved = move(system_, machine, {}, take(there));
  ASSERT_MOVED(moved);
  EXPECT_EQ(machine->state(), State::kStopped);
  EXPECT_EQ(machine->reason(), Reason::kMigrated);
  EXPECT_EQ(moved.received.machine->state(), State::kRunning);
  EXPECT_EQ(moved.sent.digest, moved.received.digest);
  EXPECT_EQ(moved.sent.session, moved.received.session);
  EXPECT_TRUE(goes_on(*there));
}

TEST(Migrate, MailUsersWorkOnThere) {
  NEED_KVM();
  TempDir dir;
  MailUsers users(16);
  auto here = users.side(), there = users.side();
  auto machine = MailUsers::boot(system_, here, dir.file("mail.img"));
  users.use(machine);
  ASSERT_TRUE(users.wait_answers(200));
  MigrateOptions send;
  send.disks = true;
  auto moved = move(system_, machine, send, take(there, dir.file("there.img")));
  ASSERT_MOVED(moved);
  users.use(moved.received.machine);
  EXPECT_TRUE(users.wait_answers(200));
  EXPECT_EQ(users.missing(moved.received.machine), 0u);
}

// The rest of a move's promises with the simplest guest.
class Moves : public testing::Test {
 protected:
  void SetUp() override {
    system_ = open_kvm();
    if (!system_) GTEST_SKIP() << "no usable /dev/kvm";
    machine_ = boot_dirtier(system_, here_, "rounds=0 pattern=random pages=128 count=256 pause=1 hz=100");
  }
  Moved move(MigrateOptions send = {}, ReceiveOptions take = {}) {
    take.listener = there_;
    return migrate::move(system_, machine_, std::move(send), std::move(take));
  }

  std::shared_ptr<kvm::System> system_;
  std::shared_ptr<TestListener> here_ = std::make_shared<TestListener>();
  std::shared_ptr<TestListener> there_ = std::make_shared<TestListener>();
  std::shared_ptr<Machine> machine_;
};

TEST_F(Moves, WhatArrivesIsWhatWasSent) {
  ReceiveOptions paused;
  paused.start_paused = true;
  auto moved = move({}, paused);
  ASSERT_MOVED(moved);
  EXPECT_EQ(moved.received.machine->state(), State::kPaused);
  auto there = moved.received.machine->state_digest();
  EXPECT_EQ(there, machine_->state_digest());  // stopped, but still to be looked at
  EXPECT_EQ(there, moved.sent.digest);
  moved.received.machine->resume();
  EXPECT_TRUE(goes_on(*there_));
}

TEST_F(Moves, APausedMachineStaysPaused) {
  machine_->pause();
  auto moved = move();
  ASSERT_MOVED(moved);
  EXPECT_EQ(moved.received.machine->state(), State::kPaused);
  EXPECT_EQ(machine_->state(), State::kStopped);
  moved.received.machine->resume();
  EXPECT_TRUE(goes_on(*there_));
}

TEST_F(Moves, ThereAndBackAgain) {
  auto moved = move();
  ASSERT_MOVED(moved);
  auto back = migrate::move(system_, moved.received.machine, {}, take(here_));
  ASSERT_MOVED(back);
  EXPECT_TRUE(goes_on(*here_));
  EXPECT_EQ(moved.received.machine->reason(), Reason::kMigrated);
}

TEST_F(Moves, EveryCodingAndModeArrives) {
  for (bool compress : {false, true})
    for (bool delta : {false, true})
      for (dirty::Mode mode : {dirty::Mode::kBitmap, dirty::Mode::kManual}) {
        MigrateOptions send;
        send.compress = compress;
        send.delta = delta;
        send.mode = mode;
        send.max_blackout_ms = 0;
        send.max_rounds = 4;
        send.on_step = [&](Step step) {
          if (step == Step::kRoundSent) goes_on(*here_);
        };
        auto moved = move(send);
        ASSERT_MOVED(moved);
        EXPECT_EQ(moved.sent.progress.round, 5u);
        EXPECT_EQ(moved.sent.progress.pages_compressed > 0, compress);
        EXPECT_EQ(moved.sent.progress.pages_delta > 0, delta);
        machine_ = moved.received.machine;
        std::swap(here_, there_);
        EXPECT_TRUE(goes_on(*here_));
      }
}

TEST_F(Moves, HolesStayHoles) {
  // In huge pages, since the host gives either kind.
  auto used = [](const Machine& machine) {
    std::set<uint64_t> huge;
    const auto there = machine.memory().changed();
    for (auto [first, count] : dirty::Ranges(there))
      for (uint64_t page = first; page < first + count; ++page) huge.insert(page / 512);
    return huge.size();
  };
  ReceiveOptions paused;  // a guest that went on would use more
  paused.start_paused = true;
  auto moved = move({}, paused);
  ASSERT_MOVED(moved);
  EXPECT_GT(used(*machine_), 0u);
  EXPECT_LT(used(*machine_), machine_->memory().size() >> 21);
  EXPECT_LE(used(*moved.received.machine), used(*machine_));
}

TEST_F(Moves, SaysWhatItIsDoing) {
  std::vector<Progress> heard, heard_there;
  std::vector<Step> steps, steps_there;
  MigrateOptions send;
  send.on_progress = [&](const Progress& p) { heard.push_back(p); };
  send.on_step = [&](Step step) {
    steps.push_back(step);
    if (step == Step::kRoundSent) goes_on(*here_);
  };
  send.max_blackout_ms = 0;
  send.max_rounds = 2;
  ReceiveOptions take;
  take.on_progress = [&](const Progress& p) { heard_there.push_back(p); };
  take.on_step = [&](Step step) { steps_there.push_back(step); };
  auto moved = move(send, take);
  ASSERT_MOVED(moved);
  using enum Step;
  EXPECT_EQ(steps, (std::vector{kConnected, kHelloSent, kAccepted, kRoundSent, kRoundSent, kStopped,
                                kStateSent, kReadyReceived, kCommitSent, kRunningReceived}));
  EXPECT_EQ(steps_there,
            (std::vector{kHelloReceived, kAcceptSent, kRoundReceived, kRoundReceived, kRoundReceived,
                         kStateReceived, kVerified, kReadySent, kCommitReceived, kRunning}));
  ASSERT_FALSE(heard.empty());
  for (size_t i = 1; i < heard.size(); ++i) {
    EXPECT_GE(heard[i].round, heard[i - 1].round);
    EXPECT_GE(heard[i].bytes_sent, heard[i - 1].bytes_sent);
    EXPECT_GE(heard[i].phase, heard[i - 1].phase);
  }
  const Progress& end = moved.sent.progress;
  EXPECT_EQ(end.phase, Progress::Phase::kDone);
  EXPECT_EQ(end.round, 3u);
  EXPECT_EQ(end.pages_sent, end.pages_zero + end.pages_raw + end.pages_compressed + end.pages_delta);
  EXPECT_GT(end.bytes_sent, 0u);
  EXPECT_GT(end.dirty_pages_per_second, 0);
  EXPECT_GT(end.expected_blackout_ms, 0);
  ASSERT_FALSE(heard_there.empty());
  EXPECT_GT(heard_there.back().bytes_sent, 0u);
  EXPECT_GT(moved.sent.blackout_ns, 0u);
  EXPECT_GE(moved.sent.total_ns, moved.sent.blackout_ns);
}

TEST_F(Moves, ALowLimitHolds) {
  // A region full of what does not shrink, so that there is something to limit.
  std::vector<uint8_t> noise(1u << 20);
  uint64_t state = 88172645463325252;
  for (auto& byte : noise)
    byte = static_cast<uint8_t>((state ^= state << 13, state ^= state >> 7, state ^= state << 17));
  machine_->write_memory(24u << 20, noise);
  MigrateOptions send;
  send.bandwidth = 4u << 20;
  auto moved = move(send);
  ASSERT_MOVED(moved);
  EXPECT_GT(moved.sent.progress.bytes_sent, 1u << 20);
  // More than a megabyte at 4 MiB/s: a quarter of a second, less what may go at once.
  EXPECT_GT(moved.sent.total_ns, 150'000'000u);
}

TEST_F(Moves, GivesUpWhenItMustConvergeAndCannot) {
  auto listener = std::make_shared<TestListener>();
  auto fast = boot_dirtier(system_, listener, "rounds=0 pattern=sequential pages=2048 count=2048");
  MigrateOptions send;
  send.must_converge = true;
  send.max_rounds = 3;
  send.max_blackout_ms = 5;
  send.compress = send.delta = false;
  send.bandwidth = 32u << 20;
  // On a busy host it might not get to write between two rounds.
  send.on_step = [&](Step step) {
    if (step == Step::kRoundSent) goes_on(*listener);
  };
  auto moved = migrate::move(system_, fast, send, take(there_));
  EXPECT_EQ(moved.source_code, "NO_CONVERGENCE") << moved.source_text;
  EXPECT_EQ(moved.destination_code, "ABORTED") << moved.destination_text;
  EXPECT_EQ(fast->state(), State::kRunning);
  EXPECT_FALSE(tracked(*fast));
  EXPECT_TRUE(goes_on(*listener));
  // Without that wish, it is stopped however long it takes.
  send.must_converge = false;
  moved = migrate::move(system_, fast, send, take(there_));
  ASSERT_MOVED(moved);
  EXPECT_EQ(moved.sent.progress.round, 4u);
  EXPECT_TRUE(goes_on(*there_));
}

TEST_F(Moves, OneWhoseMemoryStillComesWaitsForItAndCanBeCancelled) {
  TempDir dir;
  machine_->pause();
  machine_->snapshot(dir.file("s"));
  auto pages = std::make_shared<machine::GatedPages>(dir.file("s"));
  machine::RestoreOptions options;
  options.pages = pages;
  options.paging = {.all = false};
  machine_ = Machine::restore(system_, dir.file("s"), here_, options);
  std::thread canceller;
  auto moved = migrate::move(
      system_, machine_, {}, take(there_), connect_ends(),
      [&](Migration& it) {
        canceller = std::thread([&] {
          EXPECT_TRUE(pages->wait_asked());
          it.cancel();
        });
      },
      [&] { canceller.join(); });
  EXPECT_EQ(moved.source_code, "CANCELLED") << moved.source_text;
  EXPECT_EQ(machine_->state(), State::kPaused);
  pages->open();
  moved = move();
  ASSERT_MOVED(moved);
  EXPECT_EQ(moved.sent.digest, moved.received.digest);
  moved.received.machine->resume();
  EXPECT_TRUE(goes_on(*there_));
}

TEST_F(Moves, CancelledAtAnyTimeTheSourceRunsOnUntracked) {
  // While connecting, while the first round is held up by the limit, and while waiting for an answer.
  for (int when = 0; when < 3; ++when) {
    MigrateOptions send;
    send.bandwidth = when == 1 ? 1000 : 0;
    std::thread canceller;
    Migration* migration = nullptr;
    std::promise<void> now, cancelled;
    send.on_step = [&](Step step) {
      if ((when == 0 && step == Step::kConnected) || (when == 1 && step == Step::kAccepted)) now.set_value();
    };
    auto ends = connect_ends();
    ReceiveOptions options = take(there_);
    if (when == 2)
      options.on_step = [&](Step step) {
        if (step != Step::kAcceptSent) return;
        migration->cancel();
        cancelled.set_value();
        std::this_thread::sleep_for(20ms);  // the source has a round's answer to wait for
      };
    auto moved = migrate::move(
        system_, machine_, send, options, std::move(ends),
        [&](Migration& it) {
          migration = &it;
          if (when != 2)
            canceller = std::thread([&] {
              now.get_future().get();
              migration->cancel();
            });
        },
        [&] {
          if (when == 2)
            cancelled.get_future().get();
          else
            canceller.join();
        });
    EXPECT_EQ(moved.source_code, "CANCELLED") << when << moved.source_text;
    EXPECT_TRUE(moved.destination_code == "ABORTED" || moved.destination_code == "PEER_LOST")
        << moved.destination_code;
    EXPECT_EQ(machine_->state(), State::kRunning);
    EXPECT_FALSE(tracked(*machine_));
    EXPECT_TRUE(goes_on(*here_));
  }
  // And it can still be moved.
  auto moved = move();
  ASSERT_MOVED(moved);
}

TEST_F(Moves, AnInactivePeerIsGivenUp) {
  auto ends = connect_ends();  // nobody reads there
  MigrateOptions send;
  send.patience = 100ms;
  EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), send).run(); }), "PEER_LOST");
  EXPECT_EQ(machine_->state(), State::kRunning);
  EXPECT_FALSE(tracked(*machine_));
  EXPECT_TRUE(goes_on(*here_));
}

TEST_F(Moves, OnlyMachinesThatAreAlive) {
  auto refused = [&](std::shared_ptr<Machine> machine) {
    return code_of([&] { Migration(machine, connect_ends().source, {}).run(); });
  };
  machine::MachineConfig config;
  config.memory_size = 16u << 20;
  EXPECT_EQ(refused(Machine::create(system_, config, machine::guest_image("hello"), nullptr)), "BAD_STATE");
  TempDir dir;
  auto recording = replay::Recording::start(machine_, dir.file("log"));
  EXPECT_EQ(refused(machine_), "BAD_STATE");
  recording->stop();
  machine_->set_debugging(true);
  EXPECT_EQ(refused(machine_), "BAD_STATE");
  machine_->set_debugging(false);
  machine_->stop();
  EXPECT_EQ(refused(machine_), "BAD_STATE");
}

TEST_F(Moves, GoNowhereWithADebuggersBreakpoints) {
  MigrateOptions send;
  send.on_step = [&](Step step) {
    if (step == Step::kAccepted) machine_->set_debugging(true);
  };
  auto moved = move(send);
  EXPECT_EQ(moved.source_code, "BAD_STATE") << moved.source_text;
  EXPECT_EQ(machine_->state(), State::kRunning);
  machine_->set_debugging(false);
  EXPECT_TRUE(goes_on(*here_));
}

TEST_F(Moves, ASkippedPageIsNoticed) {
  MigrateOptions send;
  send.plant_skipped_page = 1;
  auto moved = move(send);
  EXPECT_EQ(moved.destination_code, "MIGRATION_DIGEST") << moved.destination_text;
  EXPECT_NE(moved.destination_text.find("memory"), std::string::npos) << moved.destination_text;
  EXPECT_EQ(moved.source_code, "REFUSED");
  EXPECT_NE(moved.source_text.find("MIGRATION_DIGEST"), std::string::npos) << moved.source_text;
  EXPECT_EQ(moved.received.machine, nullptr);
  EXPECT_TRUE(goes_on(*here_));
  // It is the digest that notices it.
  send.verify_memory = false;
  ReceiveOptions paused;
  paused.start_paused = true;
  moved = move(send, paused);
  ASSERT_MOVED(moved);
  EXPECT_NE(moved.received.machine->state_digest().memory, machine_->state_digest().memory);
}

// ---- Who runs it, when the connection fails.

// An arbiter for one session, that counts who asked.
struct TestArbiter {
  Claim operator()(const std::string&, const std::string& who) {
    std::lock_guard lock(mutex);
    asked.push_back(who);
    if (unreachable) return Claim::kUnreachable;
    if (winner.empty()) winner = who;
    return winner == who ? Claim::kWon : Claim::kLost;
  }
  Arbiter arbiter() {
    return [this](const std::string& key, const std::string& who) { return (*this)(key, who); };
  }
  size_t times() {
    std::lock_guard lock(mutex);
    return asked.size();
  }
  std::mutex mutex;
  std::string winner;
  bool unreachable = false;
  std::vector<std::string> asked;
};

// A destination that does all of it up to `last`, and then is gone.
std::future<void> vanishing(const std::shared_ptr<kvm::System>& system, wire::Channel& channel, Step last) {
  return std::async(std::launch::async, [&, system, last] {
    try {
      Receiver receiver(system, channel, {});
      receiver.handshake();
      auto machine = receiver.receive();
      if (last != Step::kVerified) receiver.ready();
      if (last == Step::kCommitReceived) channel.receive();
    } catch (const Error&) {
    }
    channel.close();
  });
}

TEST_F(Moves, LostBeforeCommitTheSourceGoesOn) {
  for (Step last : {Step::kVerified}) {
    auto ends = connect_ends();
    auto there = vanishing(system_, *ends.destination, last);
    EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), {}).run(); }), "PEER_LOST");
    EXPECT_EQ(machine_->state(), State::kRunning);
    EXPECT_FALSE(tracked(*machine_));
    EXPECT_TRUE(goes_on(*here_));
  }
}

TEST_F(Moves, LostAfterCommitNobodyTakesARisk) {
  auto ends = connect_ends();
  auto there = vanishing(system_, *ends.destination, Step::kCommitReceived);
  EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), {}).run(); }), "MIGRATION_IN_DOUBT");
  EXPECT_EQ(machine_->state(), State::kPaused);
  EXPECT_EQ(machine_->reason(), Reason::kInDoubt);
  there.get();
  machine_->resume();  // its owner looked, and knows
  EXPECT_TRUE(goes_on(*here_));
}

TEST_F(Moves, LostAfterCommitTheArbiterDecides) {
  TestArbiter arbiter;
  MigrateOptions send;
  send.arbiter = arbiter.arbiter();
  auto ends = connect_ends();
  auto there = vanishing(system_, *ends.destination, Step::kCommitReceived);
  EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), send).run(); }), "PEER_LOST");
  EXPECT_EQ(arbiter.asked, std::vector<std::string>{"source"});
  EXPECT_TRUE(goes_on(*here_));
  there.get();

  arbiter.winner = "destination";
  ends = connect_ends();
  there = vanishing(system_, *ends.destination, Step::kCommitReceived);
  EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), send).run(); }), "MIGRATED_ANYWAY");
  EXPECT_EQ(machine_->state(), State::kStopped);
  EXPECT_EQ(machine_->reason(), Reason::kMigrated);
}

TEST_F(Moves, WithoutTheArbitersAnswerTheSourceStaysPaused) {
  TestArbiter arbiter;
  arbiter.unreachable = true;
  MigrateOptions send;
  send.arbiter = arbiter.arbiter();
  send.claim_patience = 100ms;
  auto ends = connect_ends();
  auto there = vanishing(system_, *ends.destination, Step::kVerified);
  EXPECT_EQ(code_of([&] { Migration(machine_, std::move(ends.source), send).run(); }), "MIGRATION_IN_DOUBT");
  EXPECT_EQ(machine_->state(), State::kPaused);
  EXPECT_EQ(machine_->reason(), Reason::kInDoubt);
  EXPECT_GT(arbiter.asked.size(), 1u);
}

// At each moment, and while nobody knows who may run it: the source goes on at once.
TEST_F(Moves, TurnedAwayTheSourceGoesOn) {
  for (const Step when : {Step::kAcceptSent, Step::kRoundReceived, Step::kStateReceived, Step::kVerified,
                          Step::kReadySent, Step::kCommitReceived}) {
    TestArbiter arbiter;
    arbiter.unreachable = true;
    MigrateOptions send;
    ReceiveOptions take;
    send.arbiter = take.arbiter = arbiter.arbiter();
    send.patience = send.claim_patience = take.patience = 600s;
    std::promise<void> there, cancelled;
    take.on_step = [&, told = false](Step step) mutable {
      if (step != when || std::exchange(told, true)) return;
      there.set_value();
      // Not a step further.
      if (when != Step::kCommitReceived) cancelled.get_future().wait();
    };
    auto ends = connect_ends();
    Reception reception(system_, *ends.destination, std::move(take));
    auto receiving = std::async(std::launch::async, [&] { return code_of([&] { reception.run(); }); });
    auto sending = std::async(std::launch::async, [&] {
      return code_of([&] { Migration(machine_, std::move(ends.source), send).run(); });
    });
    there.get_future().wait();
    // It waits between two questions.
    while (when == Step::kCommitReceived && arbiter.times() < 2) std::this_thread::yield();
    reception.cancel();
    reception.cancel();
    cancelled.set_value();
    EXPECT_EQ(receiving.get(), "CANCELLED") << step_name(when);
    EXPECT_EQ(sending.get(), "REFUSED") << step_name(when);
    EXPECT_EQ(machine_->state(), State::kRunning) << step_name(when);
    EXPECT_TRUE(goes_on(*here_)) << step_name(when);
  }
}

// A claim that was asked for may be granted later: the machine is let go only to a source that says that it
// goes on. This one is gone, before the cancel() or when it has heard of it.
TEST_F(Moves, TurnedAwayWithAClaimUnderWayTheArbiterDecides) {
  for (const bool hears : {false, true})
    for (const std::string winner : {"source", "destination"}) {
      const std::string what = "for the " + winner + (hears ? ", which heard" : "");
      TestArbiter arbiter;
      arbiter.unreachable = true;
      ReceiveOptions take;
      take.arbiter = arbiter.arbiter();
      take.listener = there_;
      auto ends = connect_ends();
      Reception reception(system_, *ends.destination, std::move(take));
      ReceiveResult received;
      auto receiving =
          std::async(std::launch::async, [&] { return code_of([&] { received = reception.run(); }); });
      std::promise<void> committed, decided;
      auto sending = std::async(std::launch::async, [&] {
        Sender sender(machine_, *ends.source, {});
        sender.handshake(random_session());
        sender.precopy();
        machine_->call(machine::At::kAnywhere, [&] {
          const auto frozen = machine_->freeze_memory();
          sender.finish();
          sender.await_ready();
          ends.source->send(wire::FrameType::kCommit, {});
          committed.set_value();
          decided.get_future().wait();
          if (winner == "destination") machine_->stop_here(Reason::kMigrated, "");
        });
      });
      committed.get_future().wait();
      while (arbiter.times() < 2) std::this_thread::yield();
      if (hears) {
        reception.cancel();
        auto frame = ends.source->receive();
        EXPECT_TRUE(frame && frame->type == wire::FrameType::kAbort) << what;
        ends.source->close();
      } else {
        ends.source->close();
        reception.cancel();
      }
      // Asked on.
      const size_t before = arbiter.times();
      while (arbiter.times() < before + 2 && receiving.wait_for(0s) != std::future_status::ready)
        std::this_thread::yield();
      {
        std::lock_guard lock(arbiter.mutex);
        arbiter.winner = winner;
        arbiter.unreachable = false;
      }
      decided.set_value();
      sending.get();
      const std::string code = receiving.get();
      if (winner == "source") {
        EXPECT_EQ(code, "CANCELLED") << what;
        EXPECT_TRUE(goes_on(*here_)) << what;
        continue;
      }
      ASSERT_EQ(code, "none") << what;
      machine_ = received.machine;
      std::swap(here_, there_);
      EXPECT_EQ(machine_->state(), hears ? State::kPaused : State::kRunning) << what;
      if (hears) {
        EXPECT_EQ(machine_->reason(), Reason::kInDoubt);
        machine_->resume();  // its owner looked, and knows
      }
      EXPECT_TRUE(goes_on(*here_)) << what;
    }
}

// Won is won: the machine is here.
TEST_F(Moves, TurnedAwayTooLateItRunsHere) {
  ReceiveOptions take;
  MigrateOptions send;
  Reception* late = nullptr;
  send.arbiter = take.arbiter = [&](const std::string&, const std::string&) {
    late->cancel();
    return Claim::kWon;
  };
  auto ends = connect_ends();
  Reception reception(system_, *ends.destination, std::move(take));
  late = &reception;
  auto receiving = std::async(std::launch::async, [&] { return reception.run(); });
  Migration(machine_, std::move(ends.source), send).run();
  auto received = receiving.get();
  EXPECT_EQ(received.machine->state(), State::kRunning);
  EXPECT_EQ(machine_->reason(), Reason::kMigrated);
}

TEST_F(Moves, TheWinnerOfTheClaimRunsIt) {
  TestArbiter arbiter;
  MigrateOptions send;
  send.arbiter = arbiter.arbiter();
  ReceiveOptions take;
  take.arbiter = arbiter.arbiter();
  arbiter.winner = "source";  // it claimed already: it takes the destination for dead
  auto moved = move(send, take);
  EXPECT_EQ(moved.destination_code, "NOT_OURS") << moved.destination_text;
  EXPECT_EQ(moved.source_code, "REFUSED") << moved.source_text;
  EXPECT_TRUE(goes_on(*here_));
  arbiter.winner.clear();
  arbiter.asked.clear();
  moved = move(send, take);
  ASSERT_MOVED(moved);
  EXPECT_EQ(arbiter.asked, std::vector<std::string>{"destination"});
}

// A stream that ends after so many writes.
class CutStream final : public wire::Stream {
 public:
  CutStream(std::unique_ptr<wire::Stream> stream, int writes) : stream_(std::move(stream)), writes_(writes) {}
  size_t read(std::span<uint8_t> into) override { return stream_->read(into); }
  void write(std::span<const std::span<const uint8_t>> parts) override {
    if (writes_-- > 0) return stream_->write(parts);
    // A part of the frame still goes out.
    const std::span<const uint8_t> torn[]{parts[0].first(parts[0].size() / 2)};
    stream_->write(torn);
    stream_->shutdown();
    throw Error("PEER_LOST", "cut");
  }
  void shutdown() noexcept override { stream_->shutdown(); }
  std::string peer() const override { return stream_->peer(); }

 private:
  std::unique_ptr<wire::Stream> stream_;
  int writes_;
};

Ends cut_ends(bool at_source, int writes) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
  auto wrap = [&](int fd, const char* peer, bool cut) -> std::unique_ptr<wire::Channel> {
    auto stream = wire::adopt(Fd(fd), peer);
    if (cut) stream = std::make_unique<CutStream>(std::move(stream), writes);
    return std::make_unique<wire::Channel>(std::move(stream));
  };
  return {wrap(fds[0], "destination", at_source), wrap(fds[1], "source", !at_source)};
}

// Cut at every frame of either side: exactly one has the machine, or, without an arbiter, the source is in
// doubt.
class Torn : public Moves, public testing::WithParamInterface<bool> {};

TEST_P(Torn, AtEveryFrameOneSideRunsIt) {
  int in_doubt = 0, moved_count = 0;
  for (bool at_source : {true, false}) {
    bool whole = false;
    for (int writes = 0; !whole && writes < 60; ++writes) {
      TestArbiter arbiter;
      MigrateOptions send;
      // As many frames each time, or the count would step over one: one round, and pages left for the stop.
      send.max_blackout_ms = 1e9;
      send.on_step = [&](Step step) {
        if (step == Step::kRoundSent) goes_on(*here_);
      };
      ReceiveOptions take;
      if (GetParam()) {
        send.arbiter = arbiter.arbiter();
        take.arbiter = arbiter.arbiter();
      }
      take.listener = there_;
      auto moved = migrate::move(system_, machine_, send, take, cut_ends(at_source, writes));
      const bool here = machine_->state() == State::kRunning;
      const bool there = moved.received.machine != nullptr;
      const std::string what = std::string(at_source ? "source" : "destination") + " after " +
                               std::to_string(writes) + " frames: " + moved.source_text + " | " +
                               moved.destination_text;
      whole = moved.source_code == "none";
      if (moved.source_code == "MIGRATION_IN_DOUBT") {
        ASSERT_FALSE(GetParam()) << what;
        ASSERT_EQ(machine_->state(), State::kPaused) << what;
        ++in_doubt;
        if (!there) machine_->resume();
      } else {
        ASSERT_NE(here, there) << what;
      }
      EXPECT_FALSE(machine_->state() == State::kRunning && tracked(*machine_)) << what;
      if (there) {
        ++moved_count;
        machine_ = moved.received.machine;
        std::swap(here_, there_);
      }
      ASSERT_TRUE(goes_on(*here_)) << what;
    }
    EXPECT_TRUE(whole);
  }
  EXPECT_EQ(in_doubt > 0, !GetParam());
  EXPECT_GE(moved_count, 2);
}

INSTANTIATE_TEST_SUITE_P(Migrate, Torn, testing::Values(false, true),
                         [](const auto& with) { return with.param ? "WithArbiter" : "Alone"; });

}  // namespace
}  // namespace hypertwin::migrate

#endif
