// A primary and its backup in one process: who goes on, with what, and who does not.
#include "ha/ha.h"

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

TEST(Ha, TheBackupGoesOnWhereThePrimaryWas) {
  NEED_KVM();
  Pair pair(system_);
  pair.boot();
  Scissors scissors;
  ASSERT_TRUE(pair.protect_it(std::move(scissors.ends)));
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 500)) << pair.text();
  ASSERT_TRUE(pair.users->settle());
  pair.users->forget_machine();
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
  pair.users->use(survivor);
  EXPECT_TRUE(pair.users->nothing_lost());
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
    pair.users->use(pair.backup->machine());
    ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 200)) << pair.text();
    ASSERT_TRUE(pair.users->settle());
    EXPECT_TRUE(pair.users->nothing_lost()) << pair.text();
  }
}

}  // namespace
}  // namespace hypertwin::ha
