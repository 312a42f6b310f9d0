// A primary and its backup where something comes to its limit: the backup's speed, its disk, the lease.
#include <sched.h>
#include <sys/mount.h>

#include "ha_util.h"

namespace hypertwin::ha {
namespace {

using machine::open_kvm;

// ---- A slow backup

TEST(Ha, ThePrimaryWaitsForASlowBackupAndGoesOnWithIt) {
  NEED_KVM();
  Pair pair(system_);
  pair.protect.max_lag = 20ms;
  pair.boot();
  ASSERT_TRUE(pair.protect_it());
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50)) << pair.text();
  // Of the guest that may go on by one boundary in such a time, however far the replay is behind.
  constexpr uint64_t kLongestPace = 100'000'000;
  const uint64_t before = pair.primary->stats().paced_ns;
  Standstill replica(pair.backup->machine());
  ASSERT_TRUE(soon([&] { return pair.primary->stats().paced_ns > before + kLongestPace; })) << "paced";
  const Stats from = pair.primary->stats();
  ASSERT_TRUE(soon([&] { return pair.primary->stats().paced_ns > from.paced_ns + 5 * kLongestPace; }));
  const Stats to = pair.primary->stats();
  EXPECT_LE(to.boundary - from.boundary, (to.paced_ns - from.paced_ns) / kLongestPace + 2);
  EXPECT_GT(to.lag_ns, 20'000'000u);
  EXPECT_EQ(pair.primary->state(), State::kProtected) << pair.text();
  replica.end();
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 200)) << pair.text();
  EXPECT_TRUE(soon([&] { return pair.primary->stats().lag_ns < 20'000'000; })) << "it has caught up";
  ASSERT_TRUE(pair.users->settle());
  EXPECT_EQ(pair.primary->state(), State::kProtected) << pair.text();
}

// ---- A full disk

// A file system of so many bytes that only this process sees; gone with it.
testing::AssertionResult small_files(const std::string& folder, const std::string& size) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) != 0)
    return testing::AssertionFailure()
           << "a small file system cannot be mounted here: " << std::strerror(errno);
  return testing::AssertionSuccess();
}

TEST(Ha, AFullDiskEndsTheProtectionAndThePrimaryGoesOn) {
  NEED_KVM();
  Pair pair(system_, 4);
  const std::string folder = pair.dir.file("small");
  std::filesystem::create_directory(folder);
  if (auto mounted = small_files(folder, "1m"); !mounted) GTEST_SKIP() << mounted.message();
  pair.follow.adjust = [&](machine::MachineConfig& config) {
    for (auto& disk : config.disks) disk.path = folder + "/backup.img";
  };
  pair.machine = boot_mailroom(pair.system, pair.primary_listener, pair.dir.file("primary.img"));
  ASSERT_TRUE(pair.protect_it());
  // Everything but what the image has taken already.
  {
    std::ofstream rest(folder + "/rest", std::ios::binary);
    const std::string page(4096, 'x');
    while (rest.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
    }
  }
  pair.users->use(pair.machine);
  ASSERT_TRUE(pair.primary_events.wait(State::kUnprotected)) << pair.text();
  EXPECT_EQ(pair.primary_events.code(State::kUnprotected), "ENOSPC");
  EXPECT_NE(pair.primary_events.text().find(folder + "/backup.img"), std::string::npos) << pair.text();
  ASSERT_TRUE(pair.backup_events.wait(State::kEnded)) << pair.text();
  EXPECT_EQ(pair.backup_events.code(State::kEnded), "ENOSPC");
  EXPECT_EQ(pair.arbiter.winner(pair.primary->session()), "") << "nobody had to be asked";
  EXPECT_EQ(pair.backup_listener->packets.load(), 0u);
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 100)) << pair.text();
  ASSERT_TRUE(pair.users->settle());
  EXPECT_TRUE(pair.users->nothing_lost());
  pair.backup.reset();
}

// ---- The lease

// The cable is cut without a word while acknowledgements are on their way: they arrive when the backup may
// have taken over already.
TEST(Ha, NothingLeavesAfterTheLeaseThoughAcknowledgementsCome) {
  NEED_KVM();
  Pair pair(system_);
  pair.follow.heartbeats = {2000us, 300ms, 300ms};
  pair.protect.record_blocks = true;
  std::atomic<uint64_t> received{0};  // records
  pair.follow.on_step = [&](std::string_view step) { received += step == "acked"; };
  pair.boot();
  auto cable = std::make_shared<Cable>();
  auto delay = std::make_shared<Delay>();
  auto [left, right] = streams();
  auto cuttable = std::make_unique<CuttableStream>(std::move(left), cable);
  ASSERT_TRUE(pair.protect_it(
      {std::make_unique<wire::Channel>(std::make_unique<LateStream>(std::move(cuttable), delay)),
       std::make_unique<wire::Channel>(std::move(right))}));
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 50)) << pair.text();
  pair.arbiter.unreachable(true);
  delay->hold(true);
  // What outputs wait for is at the backup, and its acknowledgement on the way: all users wait, nothing is
  // recorded any more.
  uint64_t recorded = 0;
  ASSERT_TRUE(soon([&] {
    const Stats now = pair.primary->stats();
    const bool calm = now.log_records == std::exchange(recorded, now.log_records);
    std::this_thread::sleep_for(20ms);
    return calm && now.held_outputs > 0 && received.load() >= now.log_records &&
           now.acked_records < now.log_records;
  })) << pair.text();
  cable->cut.store(true);
  ASSERT_TRUE(pair.backup_events.wait(State::kWaiting)) << pair.text();
  EXPECT_EQ(pair.primary->state(), State::kProtected) << "it has not noticed";
  const Stats before = pair.primary->stats();
  const uint64_t packets = pair.primary_listener->packets.load();
  EXPECT_GT(before.held_outputs, 0u);
  delay->hold(false);
  ASSERT_TRUE(pair.primary_events.wait(State::kWaiting)) << pair.text();
  const Stats after = pair.primary->stats();
  EXPECT_GT(after.acked_records, before.acked_records) << "they came";
  EXPECT_EQ(after.released_outputs, before.released_outputs);
  pair.arbiter.only("backup");
  pair.arbiter.unreachable(false);
  ASSERT_EQ(pair.backup->wait_settled(60s), State::kLive) << pair.text();
  ASSERT_TRUE(pair.primary_events.wait(State::kHalted)) << pair.text();
  EXPECT_EQ(pair.primary_listener->packets.load(), packets);
  EXPECT_GE(pair.primary->stats().dropped_outputs, before.held_outputs);
  EXPECT_TRUE(pair.users->move_to(pair.backup->machine())) << pair.text();
  ASSERT_TRUE(pair.users->wait_acknowledged(pair.users->acknowledged() + 100)) << pair.text();
  ASSERT_TRUE(pair.users->settle());
}

}  // namespace
}  // namespace hypertwin::ha
