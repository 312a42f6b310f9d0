// The trackers on real KVM: exact page for page in every mode, devices' writes merged in, nothing lost while
// the guest runs.
#include "dirty/tracker.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "dirty/probe.h"
#include "dirty/tiny_guest.h"

#if defined(__x86_64__)

namespace hypertwin::dirty {
namespace {

constexpr uint64_t kPage = devices::kPageSize;
constexpr uint32_t kSmallRing = 16 * 1024;  // 1024 entries

std::string why_no_kvm() {
  try {
    kvm::System::open();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<uint64_t> pages_of(const SlotHarvest& slot) {
  std::vector<uint64_t> out;
  for (auto [first, count] : slot.ranges())
    for (uint64_t i = 0; i < count; ++i) out.push_back(first + i);
  return out;
}

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

// Guest memory is read while others write it, as a migration does: what is torn is harvested again. So this
// is no race that a thread sanitizer should tell of.
__attribute__((no_sanitize("thread"))) void copy_live(uint8_t* into, const uint8_t* from, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += 8) {
    uint64_t value = *reinterpret_cast<const volatile uint64_t*>(from + at);
    std::memcpy(into + at, &value, 8);
  }
}

// Applies one harvest to a copy of the data: what a migration does.
void copy_harvested(const Harvest& harvest, const TinyGuest& guest, std::vector<uint8_t>& copy) {
  for (auto [first, count] : harvest.slots.at(TinyGuest::kDataSlot).ranges())
    copy_live(copy.data() + first * kPage, guest.data() + first * kPage, count * kPage);
}

class Modes : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override {
    if (std::string reason = why_no_kvm(); !reason.empty()) GTEST_SKIP() << reason;
    system_ = kvm::System::open();
    if (GetParam() == Mode::kRing && system_->check_extension(KVM_CAP_DIRTY_LOG_RING) <= 0 &&
        system_->check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) <= 0)
      GTEST_SKIP() << "this kernel has no dirty ring";
    if (GetParam() == Mode::kManual && system_->check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) <= 0)
      GTEST_SKIP() << "this kernel has no manual clear";
  }

  std::unique_ptr<TinyGuest> make_guest(uint64_t data_size, bool user = true) {
    return std::make_unique<TinyGuest>(
        system_,
        TinyGuest::Options{
            .data_size = data_size, .ring_bytes = GetParam() == Mode::kRing ? kSmallRing : 0, .user = user});
  }

  std::unique_ptr<Tracker> track(TinyGuest& guest, Tracker::Options options = {}) {
    options.mode = GetParam();
    return std::make_unique<Tracker>(guest.target(), options);
  }

  std::shared_ptr<kvm::System> system_;
};

TEST_P(Modes, ReportsExactlyTheWrittenPages) {
  auto guest = make_guest(4 << 20);
  auto tracker = track(*guest);
  tracker->start();
  Harvest harvest;
  std::mt19937_64 random(3);
  for (int round = 0; round < 40; ++round) {
    std::vector<uint64_t> expected;
    for (uint64_t i = 0, n = random() % 20; i < n; ++i) {
      uint64_t page = random() % guest->data_pages();
      expected.push_back(page);
      ASSERT_TRUE(guest->fill(page * kPage + random() % 512 * 8, 0, 1, random()));
    }
    std::sort(expected.begin(), expected.end());
    expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
    tracker->harvest(harvest);
    const SlotHarvest& data = harvest.slots.at(1);
    EXPECT_EQ(data.slot, TinyGuest::kDataSlot);
    EXPECT_EQ(data.guest_address, TinyGuest::kDataAddress);
    EXPECT_EQ(pages_of(data), expected) << "round " << round;
    EXPECT_EQ(data.pages, expected.size());
    EXPECT_EQ(harvest.sequence, static_cast<uint64_t>(round) + 1);
    EXPECT_LE(harvest.started_ns, harvest.ended_ns);
  }
}

TEST_P(Modes, ReportsWritesFromCpl0) {
  auto guest = make_guest(1 << 20, false);
  auto tracker = track(*guest);
  tracker->start();
  ASSERT_TRUE(guest->fill(5 * kPage, 7 * kPage, 30, 1));
  Harvest harvest;
  tracker->harvest(harvest);
  std::vector<uint64_t> expected;
  for (uint64_t i = 0; i < 30; ++i) expected.push_back(5 + 7 * i);
  EXPECT_EQ(pages_of(harvest.slots.at(1)), expected);
}

TEST_P(Modes, MergesDevicesWrites) {
  auto guest = make_guest(1 << 20);
  auto tracker = track(*guest);
  devices::GuestRam& ram = *guest->target().ram;
  ASSERT_TRUE(ram.store(TinyGuest::kDataAddress, uint64_t{1}));  // before start: not reported
  tracker->start();
  Harvest harvest;
  tracker->harvest(harvest);
  EXPECT_EQ(harvest.slots.at(1).pages, 0u);

  std::vector<uint8_t> packet(3 * kPage, 0xab);
  ASSERT_TRUE(ram.write(TinyGuest::kDataAddress + 10 * kPage + 1, packet));  // four pages
  ASSERT_TRUE(guest->fill(11 * kPage, 9 * kPage, 2, 5));                     // 11 and 20
  tracker->harvest(harvest);
  EXPECT_EQ(pages_of(harvest.slots.at(1)), (std::vector<uint64_t>{10, 11, 12, 13, 20}));
  tracker->harvest(harvest);
  EXPECT_EQ(harvest.slots.at(1).pages, 0u);
}

TEST_P(Modes, SurvivesFarMorePagesThanTheRingHolds) {
  auto guest = make_guest(16 << 20);
  auto tracker = track(*guest);
  tracker->start();
  Harvest harvest;
  for (uint64_t round = 1; round <= 3; ++round) {
    ASSERT_TRUE(guest->fill(0, kPage, guest->data_pages(), round));
    tracker->harvest(harvest);
    EXPECT_EQ(harvest.slots.at(1).pages, guest->data_pages());
  }
  if (GetParam() == Mode::kRing) {
    EXPECT_GE(guest->ring_full_exits(), 9u);
  } else {
    EXPECT_EQ(guest->ring_full_exits(), 0u);
  }
}

TEST_P(Modes, EverythingFirstThenOnlyWhatChanged) {
  auto guest = make_guest(1 << 20);
  auto tracker = track(*guest, {.everything_first = true});
  tracker->start();
  Harvest harvest;
  tracker->harvest(harvest);
  EXPECT_EQ(harvest.slots.at(0).pages, 16u);
  EXPECT_EQ(harvest.slots.at(1).pages, guest->data_pages());
  ASSERT_TRUE(guest->fill(kPage, 0, 1, 1));
  tracker->harvest(harvest);
  EXPECT_EQ(pages_of(harvest.slots.at(1)), std::vector<uint64_t>{1});
}

TEST_P(Modes, ClearsInChunks) {
  auto guest = make_guest(2 << 20);
  auto tracker = track(*guest, {.clear_chunk_pages = 64});
  tracker->start();
  Harvest harvest;
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(guest->fill(0, 130 * kPage, 4, 1));
    tracker->harvest(harvest);
    EXPECT_EQ(pages_of(harvest.slots.at(1)), (std::vector<uint64_t>{0, 130, 260, 390}));
  }
}

TEST_P(Modes, TracksOnlyTheChosenSlotsAndNeverAllocatesAgain) {
  auto guest = make_guest(1 << 20);
  auto tracker = track(*guest, {.slots = {1}});
  tracker->start();
  Harvest harvest;
  tracker->harvest(harvest);
  ASSERT_EQ(harvest.slots.size(), 1u);
  const uint64_t* first = harvest.slots[0].bitmap.data();
  tracker->harvest(harvest);
  tracker->harvest(harvest);
  // The ring's harvests change place with the tracker's own buffer: every second one is the first again.
  EXPECT_EQ(harvest.slots[0].bitmap.data(), first);
}

TEST_P(Modes, StopsAndStartsAgainAlsoWithANewTracker) {
  auto guest = make_guest(1 << 20);
  Harvest harvest;
  for (int round = 0; round < 3; ++round) {
    auto tracker = track(*guest);
    EXPECT_EQ(code_of([&] { tracker->harvest(harvest); }), "DIRTY_STOPPED");
    for (int again = 0; again < 2; ++again) {
      tracker->start();
      tracker->start();
      ASSERT_TRUE(guest->fill(3 * kPage, 0, 1, 1));
      tracker->harvest(harvest);
      EXPECT_EQ(pages_of(harvest.slots.at(1)), std::vector<uint64_t>{3});
      ASSERT_TRUE(guest->fill(4 * kPage, 0, 1, 1));  // never harvested
      tracker->stop();
      tracker->stop();
      EXPECT_EQ(guest->target().vm->slot(1)->flags & KVM_MEM_LOG_DIRTY_PAGES, 0u);
      ASSERT_TRUE(guest->fill(0, kPage, guest->data_pages(), 1));  // not tracked
    }
  }
}

TEST_P(Modes, RefusesASecondStartedTracker) {
  auto guest = make_guest(1 << 20);
  auto one = track(*guest), two = track(*guest);
  one->start();
  EXPECT_EQ(code_of([&] { two->start(); }), "DIRTY_BUSY");
  EXPECT_FALSE(two->started());
  one->stop();
  two->start();
  EXPECT_TRUE(two->started());
}

TEST_P(Modes, RefusesWhatDoesNotFit) {
  auto guest = make_guest(1 << 20);
  EXPECT_EQ(code_of([&] { track(*guest, {.slots = {9}}); }), "DIRTY_SLOT");
  EXPECT_EQ(code_of([&] { track(*guest, {.clear_chunk_pages = 65}); }), "EINVAL");
  Mode other = GetParam() == Mode::kRing ? Mode::kBitmap : Mode::kRing;
  EXPECT_EQ(code_of([&] { Tracker(guest->target(), {.mode = other}); }), "DIRTY_RING");
  Target elsewhere = guest->target();
  elsewhere.ram = std::make_shared<devices::GuestRam>(
      std::vector<devices::GuestRam::Region>{{0x100000, kPage, guest->data(), TinyGuest::kDataSlot}});
  EXPECT_EQ(code_of([&] { Tracker(elsewhere, {.mode = GetParam()}); }), "DIRTY_SLOT");
}

// The strongest one: guest and a device (only even pages) write without pause while another thread harvests
// and copies what it harvested. At the end the copy must be the memory. Returns how many pages differ.
uint64_t race(TinyGuest& guest, Tracker& tracker, int rounds) {
  tracker.start();
  std::vector<uint8_t> copy(guest.data(), guest.data() + guest.data_size());
  std::atomic<bool> done{false};
  std::thread vcpu([&] {
    uint64_t value = 1;
    for (std::mt19937_64 random(5); !done; value += 1 << 20)
      if (!guest.scatter(random() | 1, 1 << 20, value)) break;
  });
  std::thread device([&] {
    std::mt19937_64 random(6);
    while (!done) {
      uint64_t value = random(), at = random() % guest.data_size() & ~kPage & ~uint64_t{7};
      if (!guest.target().ram->store(TinyGuest::kDataAddress + at, value)) break;
      if (value % 64 == 0) std::this_thread::yield();
    }
  });
  Harvest harvest;
  for (int round = 0; round < rounds;) {
    tracker.harvest(harvest);
    copy_harvested(harvest, guest, copy);
    bool by_guest = false;
    for (uint64_t page = 1; page < guest.data_pages(); page += 2) by_guest |= harvest.slots.at(1).has(page);
    round += by_guest;
    // Lets the others get on where there is one CPU; not needed for the result.
    std::this_thread::yield();
  }
  done = true;
  guest.stop();
  vcpu.join();
  device.join();
  tracker.harvest(harvest);
  copy_harvested(harvest, guest, copy);
  uint64_t differ = 0;
  for (uint64_t page = 0; page < guest.data_pages(); ++page)
    differ += std::memcmp(copy.data() + page * kPage, guest.data() + page * kPage, kPage) != 0;
  return differ;
}

TEST_P(Modes, ACopyByHarvestsEqualsTheMemory) {
  auto guest = make_guest(1 << 20);
  auto tracker = track(*guest);
  EXPECT_EQ(race(*guest, *tracker, 1000), 0u);
}

TEST_P(Modes, OneSkippedPageIsCaught) {
  auto guest = make_guest(1 << 20);
  auto tracker = track(*guest);
  tracker->plant_skipped_page();
  EXPECT_GT(race(*guest, *tracker, 100), 0u);
}

INSTANTIATE_TEST_SUITE_P(Dirty, Modes, testing::Values(Mode::kBitmap, Mode::kManual, Mode::kRing),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST(DirtyMode, HasANameEach) {
  for (Mode mode : {Mode::kBitmap, Mode::kManual, Mode::kRing}) EXPECT_EQ(mode_from(to_string(mode)), mode);
  EXPECT_EQ(code_of([] { mode_from("guess"); }), "DIRTY_MODE");
}

// What the probe says in a child that is killed when it goes silent; empty when it had to be.
std::string probe_in_child(Mode mode, bool user) {
  int ends[2];
  if (::pipe(ends) != 0) return "pipe failed";
  pid_t child = ::fork();
  if (child == 0) {
    ProbeResult result = probe(kvm::System::open(), mode, user);
    std::string text = (result.works ? "+" : "-") + result.reason;
    ::_exit(::write(ends[1], text.data(), text.size()) < 0);
  }
  ::close(ends[1]);
  pollfd wait{ends[0], POLLIN, 0};
  char text[512];
  ssize_t size = ::poll(&wait, 1, 5'000) > 0 ? ::read(ends[0], text, sizeof text) : 0;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ends[0]);
  return {text, static_cast<size_t>(std::max<ssize_t>(size, 0))};
}

TEST(DirtyProbe, FindsTheBitmapsExact) {
  if (std::string reason = why_no_kvm(); !reason.empty()) GTEST_SKIP() << reason;
  for (Mode mode : {Mode::kBitmap, Mode::kManual})
    for (bool user : {true, false}) {
      std::string said = probe_in_child(mode, user);
      EXPECT_EQ(said.substr(0, 1), "+") << to_string(mode) << ": " << said;
    }
}

TEST(DirtyProbe, JudgesTheRing) {
  if (std::string reason = why_no_kvm(); !reason.empty()) GTEST_SKIP() << reason;
  for (bool user : {true, false}) {
    std::string said = probe_in_child(Mode::kRing, user);
    // Either way is right; what it says is for the log.
    GTEST_LOG_(INFO) << (said.empty() ? "wedged, killed" : said);
    EXPECT_TRUE(said.empty() || said[0] == '+' || said[0] == '-') << said;
  }
}

}  // namespace
}  // namespace hypertwin::dirty

#endif
