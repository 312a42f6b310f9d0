// A primary and its backup in one process: who goes on, with what, and who does not.
#include "ha/ha.h"

#include <future>

#include "base/clock.h"
#include "ha_util.h"

namespace hypertwin::ha {
namespace {

using machine::guest_image;
using machine::open_kvm;

// Cuts the connection under both.
struct Scissors {
  int fds[2];
  Ends ends;
  Scissors() {
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
    ends = {std::make_unique<wire::Channel>(wire::adopt(Fd(fds[0]), "backup")),
            std::make_unique<wire::Channel>(wire::adopt(Fd(fds[1]), "primary"))};
  }
  void cut() { ::shutdown(fds[0], SHUT_RDWR); }
};

// Until the guest halts with nothing to do. A boundary is tried to be left between two looks.
void wait_idle(Machine& machine) {
  for (uint64_t before = 0;;) {
    uint64_t halted = 0;
    machine.call(machine::At::kAnywhere, [&] {
      if (machine.at_boundary() && machine.vcpu()->run_page()->exit_reason == KVM_EXIT_HLT)
        halted = machine.boundary();
    });
    if (halted != 0 && halted == before) return;
    before = halted;
  }
}

TEST(Ha, TheBackupGoesOnWhereThePrimaryWas) {
  NEED_KVM();
  Pair pair(system_);
  pair.boot();
  Scissors scissors;
  ASSERT_TRUE(pair.protect_it(std::move(scissors.ends)));
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 500)) << pair.text();
  ASSERT_TRUE(pair.users->settle());
  pair.users->forget_machine();
  wait_idle(*pair.machine);
  pair.arbiter.only("backup");
  scissors.cut();
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(State::kHalted)) << pair.text();
  EXPECT_EQ(pair.machine->state(), machine::State::kStopped);
  EXPECT_EQ(pair.machine->reason(), Reason::kFenced);
  // An idle guest does by itself what is not in the log: both end at the same halt.
  auto survivor = pair.backup->machine();
  while (survivor->boundary() < pair.machine->boundary()) std::this_thread::yield();
  EXPECT_EQ(survivor->state_digest(), pair.machine->state_digest());
  EXPECT_TRUE(pair.users->move_to(survivor));
}

TEST(Ha, KilledAtAnyMomentNothingAcknowledgedIsLost) {
  NEED_KVM();
  for (int round = 0; round < 6; ++round) {
    Pair pair(system_);
    pair.boot();
    Scissors scissors;
    ASSERT_TRUE(pair.protect_it(std::move(scissors.ends)));
    ASSERT_TRUE(
        pair.users->wait_acknowledged(pair.users->acknowledged() + 100 + static_cast<uint64_t>(round) * 37));
    pair.arbiter.only("backup");
    scissors.cut();
    ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(State::kHalted)) << pair.text();
    EXPECT_TRUE(pair.users->move_to(pair.backup->machine())) << pair.text();
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 200)) << pair.text();
    ASSERT_TRUE(pair.users->settle());
  }
}

// Protected under load, then cut; neither side is told who shall win.
struct Torn : Pair {
  using Pair::Pair;
  Scissors scissors;
  testing::AssertionResult begin() {
    boot();
    if (auto protected_ = protect_it(std::move(scissors.ends)); !protected_) return protected_;
    if (!users->wait_acknowledged(users->acknowledged() + 100)) return testing::AssertionFailure() << text();
    return testing::AssertionSuccess();
  }
  testing::AssertionResult works_on(const std::shared_ptr<Machine>& survivor) {
    if (auto known = users->move_to(survivor); !known) return known << text();
    if (users->wait_acknowledged(users->acknowledged() + 100) && users->settle())
      return testing::AssertionSuccess();
    return testing::AssertionFailure() << "nobody works\n" << text();
  }
};

TEST(Ha, BothSuspectAtOnceAndOneGoesOn) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.scissors.cut();
  auto backup = pair.backup->wait_settled(60s);
  ASSERT_TRUE(backup) << pair.text();
  const bool backup_won = pair.arbiter.winner(pair.primary->session()) == "backup";
  EXPECT_EQ(*backup, backup_won ? State::kLive : State::kHalted) << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(backup_won ? State::kHalted : State::kUnprotected)) << pair.text();
  EXPECT_EQ(pair.machine->state(), backup_won ? machine::State::kStopped : machine::State::kRunning);
  EXPECT_TRUE(pair.works_on(backup_won ? pair.backup->machine() : pair.machine));
  EXPECT_TRUE(pair.users->nothing_lost()) << pair.text();
}

TEST(Ha, ThePrimaryGoesOnUnprotectedWhenItWins) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.arbiter.only("primary");
  pair.scissors.cut();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kHalted) << pair.text();
  EXPECT_EQ(pair.backup->machine()->reason(), Reason::kFenced);
  EXPECT_EQ(pair.primary->stats().held_outputs, 0u);
  EXPECT_FALSE(pair.machine->recorded());
  EXPECT_TRUE(pair.works_on(pair.machine));
  EXPECT_TRUE(pair.users->nothing_lost());
  EXPECT_EQ(pair.backup_listener->packets.load(), 0u);
}

TEST(Ha, ThePrimaryStopsWithoutABackupWhereThatIsThePolicy) {
  NEED_KVM();
  Torn pair(system_);
  pair.protect.on_loss = ProtectOptions::Loss::kStop;
  ASSERT_TRUE(pair.begin());
  pair.arbiter.only("primary");
  pair.scissors.cut();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  EXPECT_EQ(pair.machine->state(), machine::State::kPaused);
  EXPECT_EQ(pair.machine->reason(), Reason::kUnprotected);
  pair.machine->resume();
  EXPECT_TRUE(pair.works_on(pair.machine));
}

TEST(Ha, ThePolicyToStopHoldsThoughTheMachineStoodStillAlready) {
  NEED_KVM();
  for (const bool handing : {false, true}) {
    Torn pair(system_);
    pair.protect.on_loss = ProtectOptions::Loss::kStop;
    ASSERT_TRUE(pair.begin());
    if (handing) {
      pair.arbiter.only("primary");
      EXPECT_THROW(pair.primary->hand_over(), Error);
    } else {
      pair.arbiter.unreachable(true);
      pair.scissors.cut();
      ASSERT_TRUE(pair.primary_events.wait(State::kWaiting)) << pair.text();
      pair.arbiter.only("primary");
      pair.arbiter.unreachable(false);
    }
    ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
    EXPECT_EQ(pair.machine->state(), machine::State::kPaused);
    EXPECT_EQ(pair.machine->reason(), Reason::kUnprotected) << "its next protection resumes it";
    pair.machine->resume();
    EXPECT_TRUE(pair.works_on(pair.machine));
  }
}

TEST(Ha, NobodyTakesARiskWhileTheArbiterDoesNotAnswer) {
  NEED_KVM();
  for (const std::string winner : {"primary", "backup"}) {
    Torn pair(system_);
    ASSERT_TRUE(pair.begin());
    pair.arbiter.unreachable(true);
    pair.scissors.cut();
    ASSERT_TRUE(pair.primary_events.wait(State::kWaiting)) << pair.text();
    ASSERT_TRUE(pair.backup_events.wait(State::kWaiting)) << pair.text();
    EXPECT_EQ(pair.machine->state(), machine::State::kPaused);
    EXPECT_EQ(pair.machine->reason(), Reason::kInDoubt);
    const uint64_t seen = pair.users->replies();
    EXPECT_EQ(pair.backup_listener->packets.load(), 0u);
    EXPECT_EQ(pair.users->replies(), seen);
    pair.arbiter.only(winner);
    pair.arbiter.unreachable(false);
    const bool backup_won = winner == "backup";
    ASSERT_EQ(pair.backup->wait_settled(60s), backup_won ? State::kLive : State::kHalted) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(backup_won ? State::kHalted : State::kUnprotected)) << pair.text();
    EXPECT_TRUE(pair.works_on(backup_won ? pair.backup->machine() : pair.machine));
    EXPECT_TRUE(pair.users->nothing_lost()) << pair.text();
  }
}

// Its claim may have succeeded: then the primary is fenced, and nobody else has the machine.
TEST(Ha, ABackupThatClaimsIsClosedOnlyWithTheAnswer) {
  NEED_KVM();
  for (const std::string winner : {"backup", "primary"}) {
    Torn pair(system_);
    ASSERT_TRUE(pair.begin());
    pair.arbiter.unreachable(true);
    pair.scissors.cut();
    ASSERT_TRUE(pair.backup_events.wait(State::kWaiting)) << pair.text();
    auto closing = std::async(std::launch::async, [&] { pair.backup->close(); });
    EXPECT_EQ(closing.wait_for(200ms), std::future_status::timeout);
    pair.arbiter.only(winner);
    pair.arbiter.unreachable(false);
    closing.get();
    const bool backup_won = winner == "backup";
    EXPECT_EQ(pair.backup->state(), backup_won ? State::kLive : State::kHalted) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(backup_won ? State::kHalted : State::kUnprotected)) << pair.text();
    EXPECT_TRUE(pair.works_on(backup_won ? pair.backup->machine() : pair.machine));
  }
}

TEST(Ha, ClosedWhileTheArbiterDoesNotAnswerNobodyRuns) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.arbiter.unreachable(true);
  pair.scissors.cut();
  ASSERT_TRUE(pair.primary_events.wait(State::kWaiting)) << pair.text();
  ASSERT_TRUE(pair.backup_events.wait(State::kWaiting)) << pair.text();
  pair.backup->close();
  pair.primary->close();
  EXPECT_EQ(pair.backup->state(), State::kEnded);
  EXPECT_EQ(pair.primary->state(), State::kEnded);
  EXPECT_EQ(pair.machine->state(), machine::State::kPaused);
  EXPECT_EQ(pair.backup->machine()->state(), machine::State::kStopped);
  // Its owner, who knows that the backup is gone, may go on with it. Nothing of the protection is left.
  pair.primary.reset();
  EXPECT_FALSE(pair.machine->recorded());
  pair.machine->resume();
  EXPECT_TRUE(pair.users->move_to(pair.machine)) << pair.text();
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50));
  ASSERT_TRUE(pair.users->settle());
}

TEST(Ha, SilenceIsNoticed) {
  NEED_KVM();
  for (const std::string winner : {"backup", "primary"}) {
    Pair pair(system_);
    pair.protect.heartbeats = pair.follow.heartbeats = {2000us, 100ms, 100ms};
    pair.boot();
    auto cable = std::make_shared<Cable>();
    auto [left, right] = streams();
    ASSERT_TRUE(pair.protect_it(
        {std::make_unique<wire::Channel>(std::make_unique<CuttableStream>(std::move(left), cable)),
         std::make_unique<wire::Channel>(std::make_unique<CuttableStream>(std::move(right), cable))}));
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50));
    pair.arbiter.only(winner);
    cable->cut.store(true);
    const bool backup_won = winner == "backup";
    ASSERT_EQ(pair.backup->wait_settled(60s), backup_won ? State::kLive : State::kHalted) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(backup_won ? State::kHalted : State::kUnprotected)) << pair.text();
    auto timeline = backup_won ? pair.backup->timeline() : pair.primary->timeline();
    ASSERT_TRUE(timeline);
    EXPECT_GE(timeline->detected_ns - timeline->last_heard_ns, 90'000'000u);
    EXPECT_TRUE(pair.users->move_to(backup_won ? pair.backup->machine() : pair.machine)) << pair.text();
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50));
    ASSERT_TRUE(pair.users->settle());
  }
}

// What campaigns kill at.
TEST(Ha, TellsOfEachRecordWhereEachIsABlock) {
  NEED_KVM();
  Torn pair(system_);
  std::atomic<uint64_t> sent{0}, acknowledged{0}, received{0};
  pair.protect.record_blocks = true;
  pair.protect.on_step = [&](std::string_view step) {
    if (step == "log-sent") ++sent;
    if (step == "acked") ++acknowledged;
  };
  pair.follow.on_step = [&](std::string_view step) { received += step == "acked"; };
  ASSERT_TRUE(pair.begin());
  ASSERT_TRUE(pair.users->settle());
  pair.primary->close();
  ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
  const auto stats = pair.primary->stats();
  EXPECT_GT(stats.log_records, 100u);
  EXPECT_EQ(stats.log_blocks, stats.log_records);
  EXPECT_EQ(sent, stats.log_records);
  EXPECT_EQ(acknowledged, stats.acked_records);
  EXPECT_GE(received, acknowledged);
  EXPECT_LE(received, sent);
}

TEST(Ha, BothSidesKnowHowFarTheReplayIsBehind) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  constexpr uint64_t kStill = 100'000'000;
  Standstill replica(pair.backup->machine());
  EXPECT_TRUE(soon([&] { return pair.backup->stats().lag_ns > kStill; })) << "of the backup";
  EXPECT_TRUE(soon([&] { return pair.primary->stats().lag_ns > kStill; })) << "of the primary";
  replica.end();
  EXPECT_TRUE(soon([&] { return pair.backup->stats().lag_ns < kStill; }));
  const auto backup = pair.backup->stats();
  EXPECT_GE(backup.lag_max_ns, kStill);
  EXPECT_LE(backup.lag_max_ns, pair.primary->stats().lag_max_ns + kStill);
  EXPECT_GT(backup.lag_p50_ns, 0u);
  EXPECT_LE(backup.lag_p50_ns, backup.lag_p99_ns);
  EXPECT_LE(backup.lag_p99_ns, backup.lag_max_ns);
  ASSERT_TRUE(pair.users->settle());
  pair.backup->close();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  EXPECT_EQ(pair.backup->stats().lag_ns, 0u) << "nothing is behind any more";
  EXPECT_EQ(pair.primary->stats().lag_ns, 0u);
}

TEST(Ha, HandsOverAsPlanned) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.primary->hand_over();
  EXPECT_EQ(pair.primary->state(), State::kEnded);
  EXPECT_EQ(pair.primary_events.code(State::kEnded), "HAND_OVER");
  EXPECT_EQ(pair.machine->state(), machine::State::kStopped);
  EXPECT_EQ(pair.machine->reason(), Reason::kHandedOver);
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  EXPECT_EQ(pair.arbiter.winner(pair.backup->session()), "backup");
  EXPECT_THROW(pair.primary->hand_over(), Error);
  EXPECT_TRUE(pair.works_on(pair.backup->machine()));
}

// The heartbeats alone would tell the backup of the last outputs too late.
TEST(Ha, AHandOverRepeatsNothing) {
  NEED_KVM();
  Torn pair(system_);
  pair.protect.heartbeats = {1s, 5s, 10s};
  ASSERT_TRUE(pair.begin());
  pair.primary->hand_over();
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  const auto timeline = pair.backup->timeline();
  ASSERT_TRUE(timeline);
  EXPECT_EQ(timeline->reissued_packets, 0u);
  EXPECT_TRUE(pair.works_on(pair.backup->machine()));
}

// ---- A pause of its owner's

TEST(Ha, APausedMachineIsHandedOverPaused) {
  NEED_KVM();
  for (const bool backup_wins : {true, false}) {
    Torn pair(system_);
    ASSERT_TRUE(pair.begin());
    ASSERT_TRUE(pair.users->settle());
    wait_idle(*pair.machine);
    pair.machine->pause();
    pair.arbiter.only(backup_wins ? "backup" : "primary");
    if (backup_wins) {
      pair.primary->hand_over();
      ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
    } else {
      EXPECT_THROW(pair.primary->hand_over(), Error);
      ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
    }
    auto survivor = backup_wins ? pair.backup->machine() : pair.machine;
    EXPECT_EQ(survivor->state(), machine::State::kPaused);
    EXPECT_EQ(survivor->reason(), Reason::kRequested);
    survivor->resume();
    pair.users->resume();
    EXPECT_TRUE(pair.works_on(survivor));
  }
}

// A machine's clock, as its guest would read it.
uint64_t guest_time(Machine& machine) {
  uint64_t time = 0;
  machine.call(machine::At::kAnywhere, [&] { time = machine.live_inputs().clock(0); });
  return time;
}

TEST(Ha, APauseAndTheGuestsTimeSurviveAFailover) {
  NEED_KVM();
  for (const bool resumed : {false, true}) {
    Pair pair(system_);
    pair.boot();
    auto cable = std::make_shared<Cable>();
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ASSERT_TRUE(pair.protect_it({std::make_unique<wire::Channel>(std::make_unique<CuttableStream>(
                                     wire::adopt(Fd(fds[0]), "backup"), cable)),
                                 std::make_unique<wire::Channel>(wire::adopt(Fd(fds[1]), "primary"))}));
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50)) << pair.text();
    ASSERT_TRUE(pair.users->settle());
    wait_idle(*pair.machine);
    pair.machine->pause();
    // Heartbeats that say so, behind the log's last block.
    ASSERT_TRUE(soon([&] {
      const Stats now = pair.primary->stats();
      return now.acked_records == now.log_records;
    }));
    const uint64_t told = cable->written.load() + 4;
    ASSERT_TRUE(soon([&] { return cable->written.load() >= told; }));
    // The time that must not pass for the guest.
    std::this_thread::sleep_for(3s);
    if (resumed) {
      pair.machine->resume();
      pair.users->resume();
      ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50)) << pair.text();
    }
    pair.arbiter.only("backup");
    const uint64_t host_before = now_ns(), before = guest_time(*pair.machine);
    ::shutdown(fds[0], SHUT_RDWR);
    ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(State::kHalted)) << pair.text();
    auto survivor = pair.backup->machine();
    EXPECT_EQ(survivor->state(), resumed ? machine::State::kRunning : machine::State::kPaused);
    const uint64_t after = guest_time(*survivor), host_after = now_ns();
    EXPECT_LE(after, before + (resumed ? host_after - host_before : 0));
    if (!resumed) {
      survivor->resume();
      pair.users->resume();
    }
    EXPECT_TRUE(pair.users->move_to(survivor)) << pair.text();
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50)) << pair.text();
    ASSERT_TRUE(pair.users->settle());
  }
}

TEST(Ha, AHandOverThatTheBackupLosesFailsAndThePrimaryGoesOn) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.arbiter.only("primary");
  EXPECT_THROW(pair.primary->hand_over(), Error);
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kHalted) << pair.text();
  EXPECT_EQ(pair.machine->state(), machine::State::kRunning);
  EXPECT_TRUE(pair.works_on(pair.machine));
}

TEST(Ha, ClosedWhileTheBackupWaitsForItsArbiterAtAHandOver) {
  NEED_KVM();
  Torn pair(system_);
  ASSERT_TRUE(pair.begin());
  pair.arbiter.unreachable(true);
  auto handing = std::async(std::launch::async, [&] { pair.primary->hand_over(); });
  ASSERT_TRUE(pair.backup_events.wait(State::kWaiting)) << pair.text();
  // The backup reads nothing, and beats all the same: a word would reach it only with the arbiter's answer.
  pair.primary->close();
  EXPECT_THROW(handing.get(), Error);
  EXPECT_EQ(pair.primary->state(), State::kEnded);
  EXPECT_EQ(pair.machine->state(), machine::State::kPaused);
  EXPECT_FALSE(pair.machine->recorded());
  pair.backup->close();
  EXPECT_EQ(pair.backup->state(), State::kEnded);
}

TEST(Ha, AHandOverThatTheLossOvertakesLeavesThePrimaryRunning) {
  NEED_KVM();
  Torn pair(system_);
  std::promise<void> claimed;
  pair.protect.on_step = [&](const char* step) {
    if (std::string_view(step) == "claimed") claimed.set_value();
  };
  ASSERT_TRUE(pair.begin());
  pair.arbiter.only("primary");
  // Until the backup is lost the vCPU's thread cannot do what the hand-over asks of it.
  std::promise<void> standing;
  auto still = std::async(std::launch::async, [&] {
    pair.machine->call(machine::At::kAnywhere, [&] {
      standing.set_value();
      claimed.get_future().wait();
      std::this_thread::sleep_for(20ms);
    });
  });
  standing.get_future().wait();
  auto handing = std::async(std::launch::async, [&] { pair.primary->hand_over(); });
  std::this_thread::sleep_for(20ms);
  pair.scissors.cut();
  EXPECT_THROW(handing.get(), Error);
  still.get();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  EXPECT_TRUE(pair.works_on(pair.machine));
}

TEST(Ha, EndsInPeaceFromEitherSideAndAsksNobody) {
  NEED_KVM();
  for (bool by_primary : {true, false}) {
    Torn pair(system_);
    ASSERT_TRUE(pair.begin());
    if (by_primary)
      pair.primary->close();
    else
      pair.backup->close();
    ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
    EXPECT_EQ(pair.primary_events.code(State::kUnprotected), "CLOSED");
    ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
    EXPECT_EQ(pair.backup_events.code(State::kEnded), "CLOSED");
    EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "");
    EXPECT_TRUE(pair.works_on(pair.machine));
    EXPECT_TRUE(pair.users->nothing_lost());
  }
}

TEST(Ha, AGuestThatEndsEndsBothSides) {
  NEED_KVM();
  for (bool by_owner : {true, false}) {
    Pair pair(system_);
    if (by_owner) {
      pair.boot();
    } else {
      machine::MachineConfig config;
      config.memory_size = 16u << 20;
      pair.machine = Machine::create(pair.system, config, guest_image("hello"), pair.primary_listener);
    }
    ASSERT_TRUE(pair.protect_it());
    if (by_owner)
      pair.machine->stop();
    else
      pair.machine->start();
    ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(State::kEnded)) << pair.text();
    EXPECT_EQ(pair.primary_events.code(State::kEnded), "GUEST_ENDED");
    EXPECT_EQ(pair.backup_events.code(State::kEnded), "GUEST_ENDED");
    EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "");
    EXPECT_EQ(pair.machine->reason(), by_owner ? Reason::kRequested : Reason::kPowerOff);
    if (!by_owner) {
      EXPECT_EQ(pair.backup->machine()->reason(), Reason::kPowerOff);
      EXPECT_NE(pair.primary_listener->console().find("hello"), std::string::npos);
      EXPECT_EQ(pair.backup_listener->console(), "");
    }
  }
}

// Stopped between two boundaries, behind the log's last one: the replica spins there too.
TEST(Ha, AGuestThatSpinsAndIsStoppedEndsBothSides) {
  NEED_KVM();
  for (const bool from_the_start : {false, true}) {
    Pair pair(system_);
    machine::MachineConfig config;
    config.memory_size = 16u << 20;
    config.command_line = "count=1000 spin=1";
    pair.machine = Machine::create(pair.system, config, guest_image("exits"), pair.primary_listener);
    const auto spins = [&](Machine& machine) {
      const auto look = [&] {
        uint64_t boundary = 0;
        machine.call(machine::At::kAnywhere, [&] {
          if (!machine.at_boundary()) boundary = machine.boundary();
        });
        return boundary;
      };
      const uint64_t before = look();
      std::this_thread::sleep_for(20ms);
      return before > 1000 && look() == before;
    };
    if (from_the_start) {
      pair.machine->start();
      ASSERT_TRUE(soon([&] { return spins(*pair.machine); }));
    }
    ASSERT_TRUE(pair.protect_it());
    if (!from_the_start) pair.machine->start();
    ASSERT_TRUE(soon([&] {
      return spins(*pair.machine) && spins(*pair.backup->machine()) &&
             pair.machine->boundary() == pair.backup->machine()->boundary();
    }));
    pair.machine->stop();
    ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
    ASSERT_TRUE(pair.primary_events.wait(State::kEnded)) << pair.text();
    EXPECT_EQ(pair.primary_events.code(State::kEnded), "GUEST_ENDED");
    EXPECT_EQ(pair.backup_events.code(State::kEnded), "GUEST_ENDED");
    EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "");
  }
}

TEST(Ha, AProtectionIsClosedThoughTheBackupDoesNotFinish) {
  NEED_KVM();
  Torn pair(system_);
  std::promise<void> ending;
  pair.protect.on_step = [&](std::string_view step) {
    if (step == "ending") ending.set_value();
  };
  ASSERT_TRUE(pair.begin());
  // While records come: a replica that waits for one takes no task before.
  Standstill replica(pair.backup->machine());
  ASSERT_TRUE(pair.users->settle());
  pair.users->forget_machine();
  pair.machine->stop();
  ASSERT_EQ(ending.get_future().wait_for(60s), std::future_status::ready) << pair.text();
  pair.primary->close();
  EXPECT_EQ(pair.primary->state(), State::kEnded);
  EXPECT_EQ(pair.primary_events.code(State::kEnded), "GUEST_ENDED") << pair.text();
  replica.end();
  EXPECT_EQ(pair.backup->wait_settled(60s), State::kEnded) << pair.text();
}

// Live by failover, hand-over or a cut, five times in a row, each time with a new backup.
TEST(Ha, IsProtectedAgainAndAgain) {
  NEED_KVM();
  Pair pair(system_);
  pair.boot();
  std::set<std::string> sessions;
  std::vector<std::unique_ptr<Primary>> former;
  for (int hop = 0; hop < 5; ++hop) {
    Scissors scissors;
    Events primary_events, backup_events;
    pair.protect.on_event = primary_events.take();
    pair.follow.on_event = backup_events.take();
    pair.follow.adjust = [&, hop](machine::MachineConfig& config) {
      for (auto& disk : config.disks) disk.path = pair.dir.file("hop" + std::to_string(hop));
    };
    auto backup = Backup::follow(pair.system, std::move(scissors.ends.backup), pair.follow);
    auto primary = Primary::protect(pair.machine, std::move(scissors.ends.primary), pair.protect);
    ASSERT_TRUE(primary_events.wait(State::kProtected)) << primary_events.text() << backup_events.text();
    EXPECT_TRUE(sessions.insert(primary->session()).second);
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 100));
    if (hop % 2) {
      primary->hand_over();
    } else {
      pair.arbiter.only("backup");
      scissors.cut();
    }
    ASSERT_EQ(backup->wait_settled(60s), State::kLive) << primary_events.text() << backup_events.text();
    ASSERT_TRUE(primary_events.wait(hop % 2 ? State::kEnded : State::kHalted)) << primary_events.text();
    pair.machine = backup->machine();
    primary.reset();
    backup.reset();
    EXPECT_TRUE(pair.users->move_to(pair.machine)) << hop;
  }
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 100));
  ASSERT_TRUE(pair.users->settle());
}

TEST(Ha, BeforeThereIsProtectionALossChangesNothing) {
  NEED_KVM();
  for (const std::string where : {"hello", "copied", "state-sent"}) {
    Pair pair(system_);
    pair.boot();
    Scissors scissors;
    std::promise<void> cut;
    pair.protect.on_step = [&](const char* step) {
      if (step != where) return;
      scissors.cut();
      cut.set_value();
    };
    // No answer to the state is under way when the cable is cut: from the first one on there is protection.
    pair.follow.on_step = [&, done = cut.get_future().share()](std::string_view step) {
      if (step == "state-received") done.wait_for(60s);
    };
    pair.backup = Backup::follow(pair.system, std::move(scissors.ends.backup), pair.follow);
    pair.primary = Primary::protect(pair.machine, std::move(scissors.ends.primary), pair.protect);
    ASSERT_TRUE(pair.primary_events.wait(State::kEnded)) << where << pair.text();
    ASSERT_EQ(pair.backup->wait_settled(60s), State::kEnded) << where << pair.text();
    EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "") << where;
    EXPECT_EQ(pair.machine->state(), machine::State::kRunning) << where;
    EXPECT_FALSE(pair.machine->recorded());
    EXPECT_EQ(pair.backup_listener->packets.load(), 0u);
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 100));
    // It can be tried again.
    pair.primary.reset();
    pair.protect.on_step = nullptr;
    pair.follow.on_step = nullptr;
    Events again;
    pair.protect.on_event = again.take();
    auto ends = connect_ends();
    auto backup = Backup::follow(pair.system, std::move(ends.backup), pair.follow);
    auto primary = Primary::protect(pair.machine, std::move(ends.primary), pair.protect);
    EXPECT_TRUE(again.wait(State::kProtected)) << again.text();
    pair.users->settle();
  }
}

// A guest that computes for long between two exits: the replica computes at the same time, not afterwards,
// and goes live in the middle of it.
TEST(Ha, AReplicaRunsOnWithoutARecord) {
  NEED_KVM();
  Pair pair(system_);
  machine::MachineConfig config;
  config.memory_size = 16u << 20;
  config.command_line = "kind=pio count=200000000";
  pair.machine = Machine::create(pair.system, config, guest_image("exits"), pair.primary_listener);
  pair.machine->start();
  Scissors scissors;
  ASSERT_TRUE(pair.protect_it(std::move(scissors.ends)));
  const uint64_t target = pair.machine->boundary() + 3000;
  while (pair.machine->boundary() < target) std::this_thread::yield();
  pair.machine->pause();
  // No output, no input: nothing but checks in the log, each for 256 boundaries. All but the last boundary
  // was left by the primary's guest, and so it is by the replica's.
  const uint64_t last = pair.machine->boundary();
  while (pair.backup->machine()->boundary() + 1 < last) {
    ASSERT_EQ(pair.backup->state(), State::kProtected) << pair.text();
    std::this_thread::yield();
  }
  pair.arbiter.only("backup");
  scissors.cut();
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  pair.backup->machine()->stop();
}

// ---- What must not go unnoticed

TEST(HaNegative, AGuestThatStraysEndsItsProtection) {
  NEED_KVM();
  Pair pair(system_);
  machine::MachineConfig config;
  config.memory_size = 16u << 20;
  config.command_line = "only=rdtsc repeat=100000";
  pair.machine = Machine::create(pair.system, config, guest_image("probe"), pair.primary_listener);
  ASSERT_TRUE(pair.protect_it());
  pair.machine->start();
  ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
  EXPECT_EQ(pair.backup_events.code(State::kEnded), "DIVERGED") << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  EXPECT_EQ(pair.primary_events.code(State::kUnprotected), "DIVERGED");
  EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "");
  // The guest goes on, with all that it said.
  pair.machine->stop();
}

TEST(HaNegative, ARecordThatIsNotSentIsFound) {
  NEED_KVM();
  Pair pair(system_);
  pair.protect.planted.drop_record = 2000;
  pair.boot();
  ASSERT_TRUE(pair.protect_it());
  ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
  EXPECT_EQ(pair.backup_events.code(State::kEnded), "DIVERGED") << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
}

// Cut at once after users were told of more than the backup knows.
TEST(HaNegative, WithoutTheOutputRuleAcknowledgedOperationsAreLost) {
  NEED_KVM();
  Pair pair(system_);
  pair.protect.planted.no_output_rule = true;
  pair.boot();
  auto cable = std::make_shared<Cable>();
  auto [left, right] = streams();
  pair.protect.heartbeats = pair.follow.heartbeats = {2000us, 2s, 2s};
  ASSERT_TRUE(pair.protect_it(
      {std::make_unique<wire::Channel>(std::make_unique<CuttableStream>(std::move(left), cable)),
       std::make_unique<wire::Channel>(std::move(right))}));
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50));
  pair.arbiter.only("backup");
  cable->cut.store(true);
  // The users go on being answered, though nothing leaves for the backup.
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50));
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(State::kHalted)) << pair.text();
  EXPECT_FALSE(pair.users->move_to(pair.backup->machine()));
}

TEST(HaNegative, AnArbiterThatSaysYesTwiceLetsTwoLive) {
  NEED_KVM();
  Torn pair(system_);
  pair.arbiter.yes_to_all();
  ASSERT_TRUE(pair.begin());
  pair.scissors.cut();
  EXPECT_EQ(pair.backup->wait_settled(60s), State::kLive);
  EXPECT_TRUE(pair.primary_events.wait(State::kUnprotected));
}

TEST(Ha, RefusesWhatCannotBeProtected) {
  NEED_KVM();
  Pair pair(system_);
  pair.boot();
  auto code = [&](ProtectOptions options) {
    try {
      Primary::protect(pair.machine, std::move(connect_ends().primary), options);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("none");
  };
  ProtectOptions none = pair.protect;
  none.arbiter = nullptr;
  EXPECT_EQ(code(none), "BAD_CONFIG");
  ProtectOptions hasty = pair.protect;
  hasty.heartbeats = {2000us, 1000us, 1000us};
  EXPECT_EQ(code(hasty), "BAD_CONFIG");
  pair.machine->set_debugging(true);
  EXPECT_EQ(code(pair.protect), "BAD_STATE");
  pair.machine->set_debugging(false);
  ASSERT_TRUE(pair.protect_it());
  EXPECT_EQ(code(pair.protect), "BAD_STATE");
  pair.machine->stop();
  ASSERT_TRUE(pair.primary_events.wait(State::kEnded));
  EXPECT_EQ(code(pair.protect), "BAD_STATE");
}

}  // namespace
}  // namespace hypertwin::ha
