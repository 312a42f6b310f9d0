// virtio-balloon: what the guest gives up, says and hints reaches the host as whole pages of RAM, and nothing
// else.
#include <gtest/gtest.h>

#include "devices/virtio_balloon.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kData = 0x40000, kFree = 0x80000;
constexpr uint64_t kHint = 1 << 3;
constexpr uint32_t kPage = VirtioBalloon::kPage;
using Range = std::pair<uint64_t, uint64_t>;

struct FakeBalloonHost : BalloonHost {
  std::vector<Range> discarded, hints;
  std::vector<uint32_t> commands, ended;
  int stats = 0;
  void discard(uint32_t, uint64_t address, uint64_t size) override { discarded.emplace_back(address, size); }
  void free_hint(uint32_t, uint32_t command, uint64_t address, uint64_t size) override {
    hints.emplace_back(address, size);
    commands.push_back(command);
  }
  void hints_ended(uint32_t, uint32_t command) override { ended.push_back(command); }
  void balloon_stats(uint32_t) override { ++stats; }
};

class VirtioBalloonTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(driver.start(kAll)); }
  void pages(unsigned queue, uint16_t head, std::vector<uint32_t> numbers) {
    std::memcpy(board.at(kData), numbers.data(), numbers.size() * 4);
    driver.give(queue, head, {{kData, static_cast<uint32_t>(numbers.size() * 4)}});
  }
  void command(uint16_t head, uint32_t value) {
    put_le(board.at(kData), value);
    driver.give(3, head, {{kData, 4}});
  }

  static constexpr uint64_t kAll = 1 << 1 | 1 << 2 | kHint | 1 << 5;
  TestBoard board;
  FakeBalloonHost host;
  VirtioBalloon balloon{host, 4, "balloon0", board.ram};
  BareDriver driver{board, balloon};
};

TEST_F(VirtioBalloonTest, TargetAndActual) {
  EXPECT_EQ(balloon.offered() & 0x3f, kAll);
  balloon.set_target(64);
  EXPECT_EQ(driver.config(0, 4), 64u);
  EXPECT_EQ(driver.transport.config_interrupts, 1);
  balloon.set_target(64);
  EXPECT_EQ(driver.transport.config_interrupts, 1);
  EXPECT_THROW(balloon.set_target(TestBoard::kRam / kPage + 1), Error);
  EXPECT_EQ(balloon.target(), 64u);
  balloon.config_write(4, 4, 48);
  EXPECT_EQ(balloon.actual(), 48u);
  balloon.config_write(5, 1, 1);
  EXPECT_EQ(balloon.actual(), 48u + 256);
  for (uint32_t at : {0u, 2u, 7u, 8u, 12u, 0xfffffffeu}) balloon.config_write(at, 1, 0xff);
  balloon.config_write(2, 4, 0x00300000);  // across the border: half of it is the driver's
  EXPECT_EQ(balloon.target(), 64u);
  EXPECT_EQ(driver.config(8, 4), 0u);
  EXPECT_EQ(balloon.actual(), 0xff000030u);
  balloon.reset();
  EXPECT_EQ(balloon.actual(), 0u);
  EXPECT_EQ(balloon.target(), 64u);
}

TEST_F(VirtioBalloonTest, PagesGivenUpAreMergedAndChecked) {
  pages(0, 0, {0x90, 0x82, 0x80, 0x81, 0x81, 0xff, 0x100, 0xffffffff});
  EXPECT_EQ(host.discarded, (std::vector<Range>{{0x80000, 0x3000}, {0x90000, 0x1000}, {0xff000, 0x1000}}));
  EXPECT_EQ(driver.rings[0].used(0), std::pair(0u, 0u));
  EXPECT_EQ(balloon.counters().inflated, 6u);
  EXPECT_EQ(balloon.counters().refused, 2u);
  host.discarded.clear();
  pages(1, 0, {0x80, 0x81});
  EXPECT_EQ(balloon.counters().deflated, 2u);
  EXPECT_EQ(driver.rings[1].used_index(), 1);
  EXPECT_TRUE(host.discarded.empty());
}

TEST_F(VirtioBalloonTest, ReportsAreWholePagesInsideWhatWasReported) {
  driver.give(4, 0,
              {{kFree, 2 * kPage, true}, {kFree + 0x10001, 3 * kPage, true}, {kFree + 0x20010, kPage, true}});
  EXPECT_EQ(host.discarded, (std::vector<Range>{{kFree, 2 * kPage}, {kFree + 0x11000, 2 * kPage}}));
  EXPECT_EQ(driver.rings[4].used(0), std::pair(0u, 0u));
  EXPECT_EQ(balloon.counters().reported, 4u);
}

TEST(VirtioBalloon, RangesEndWhereRegionsDo) {
  TestBoard board;
  uint8_t* base = board.at(0);
  GuestRam ram(
      {{0, 0x20000, base, 0}, {0x20000, 0x20000, base + 0x20000, 1}, {0x100000, 0x60000, base + 0x40000, 2}});
  FakeBalloonHost host;
  VirtioBalloon balloon(host, 0, "b", ram);
  BareDriver driver(board, balloon);
  // Its fifth ring's place is behind the first two regions' end: only the reports' queue is laid out there.
  balloon.reset();
  balloon.set_status(3);
  balloon.set_driver_features(kVirtioVersion1 | 1 << 5);
  balloon.set_status(11);
  Ring ring(board, 0x10000, 16);
  balloon.queues()[4].size = 16;
  balloon.queues()[4].descriptors = ring.descriptors();
  balloon.queues()[4].driver = ring.driver();
  balloon.queues()[4].device = ring.device();
  balloon.enable_queue(4);
  balloon.set_status(15);
  ring.offer(0, {{0x1f000, 0x3000, true}});
  balloon.notify(4);
  EXPECT_EQ(host.discarded, (std::vector<Range>{{0x1f000, 0x1000}, {0x20000, 0x2000}}));
}

TEST_F(VirtioBalloonTest, StatisticsComeWhenAskedFor) {
  EXPECT_FALSE(balloon.request_stats());
  auto stats = [&](uint16_t head, uint64_t free) {
    uint8_t* p = board.at(kData);
    for (auto [tag, value] : {std::pair<uint16_t, uint64_t>{4, free}, {5, 1000}, {77, 1}}) {
      p = put_le(p, tag);
      p = put_le(p, value);
    }
    put_le<uint16_t>(p, 0);  // a piece of a fourth
    driver.give(2, head, {{kData, 15}, {kData + 15, 17}});
  };
  stats(0, 600);
  EXPECT_EQ(host.stats, 1);
  EXPECT_EQ(balloon.stats()[4], 600u);
  EXPECT_EQ(balloon.stats()[5], 1000u);
  EXPECT_FALSE(balloon.stats()[0]);
  EXPECT_EQ(driver.rings[2].used_index(), 0);  // kept
  EXPECT_TRUE(balloon.request_stats());
  EXPECT_EQ(driver.rings[2].used(0), std::pair(0u, 0u));
  EXPECT_FALSE(balloon.request_stats());
  stats(0, 500);
  EXPECT_EQ(balloon.stats()[4], 500u);
  stats(2, 400);  // one too many waits
  EXPECT_EQ(host.stats, 2);
  EXPECT_TRUE(balloon.request_stats());
  EXPECT_EQ(host.stats, 3);
  EXPECT_EQ(balloon.stats()[4], 400u);
}

TEST_F(VirtioBalloonTest, HintsCountForTheCommandThatIsUnderWay) {
  auto hint = [&](uint16_t head, uint64_t address) { driver.give(3, head, {{address, 2 * kPage, true}}); };
  hint(0, kFree);
  EXPECT_TRUE(host.hints.empty());
  uint32_t first = balloon.start_hinting();
  EXPECT_GE(first, 2u);
  EXPECT_EQ(driver.config(8, 4), first);
  EXPECT_EQ(driver.transport.config_interrupts, 1);
  hint(1, kFree);  // not announced
  command(2, first);
  hint(3, kFree + 0x10000);
  EXPECT_EQ(host.hints, (std::vector<Range>{{kFree + 0x10000, 2 * kPage}}));
  EXPECT_EQ(host.commands, std::vector<uint32_t>{first});
  uint32_t second = balloon.start_hinting();
  EXPECT_NE(second, first);
  EXPECT_EQ(host.ended, std::vector<uint32_t>{first});
  hint(4, kFree);  // still for the first
  command(5, first);
  hint(6, kFree);
  EXPECT_EQ(host.hints.size(), 1u);
  command(7, second);
  hint(8, kFree + 1);  // unaligned: one whole page
  EXPECT_EQ(host.hints.back(), Range(kFree + kPage, kPage));
  command(9, 0);
  EXPECT_EQ(host.ended, (std::vector<uint32_t>{first, second}));
  hint(10, kFree);
  EXPECT_EQ(host.hints.size(), 2u);
  balloon.finish_hinting();
  EXPECT_EQ(driver.config(8, 4), 1u);
  EXPECT_EQ(host.ended.size(), 2u);
  EXPECT_EQ(driver.rings[3].used_index(), driver.rings[3].available);
  EXPECT_EQ(balloon.counters().hinted, 3u);
}

TEST_F(VirtioBalloonTest, AResetEndsACommand) {
  uint32_t command_id = balloon.start_hinting();
  command(0, command_id);
  ASSERT_TRUE(driver.start(kAll));
  EXPECT_EQ(host.ended, std::vector<uint32_t>{command_id});
  EXPECT_EQ(driver.config(8, 4), 0u);
  driver.give(3, 0, {{kFree, kPage, true}});
  EXPECT_TRUE(host.hints.empty());
  EXPECT_GT(balloon.start_hinting(), command_id);
  ASSERT_TRUE(driver.start(0));
  EXPECT_EQ(balloon.start_hinting(), 0u);  // not negotiated
}

TEST_F(VirtioBalloonTest, RingsThatBreakTheRules) {
  for (unsigned queue = 0; queue < 5; ++queue)
    for (const BadRing& bad : bad_rings()) {
      ASSERT_TRUE(driver.start(kAll | kVirtioIndirect));
      bad.write(board, driver.rings[queue], kData, queue >= 3);
      balloon.notify(queue);
      EXPECT_TRUE(driver.broken()) << queue << ' ' << bad.name;
      EXPECT_EQ(driver.rings[queue].used_index(), 0) << queue << ' ' << bad.name;
    }
  struct {
    unsigned queue;
    std::vector<Driver::Piece> pieces;
  } bad[] = {
      {0, {{kData, 6}}},                                // half a page number
      {0, {{kData, 4}, {kData, 4, true}}},              // to be written
      {1, {{0, VirtioBalloon::kMaxPageList}, {0, 4}}},  // too long
      {2, {{kData, 10, true}}},                         // statistics to be written
      {3, {{kData, 8}}},                                // half a command too much
      {4, {{kData, 4}, {kFree, kPage, true}}},          // a report to be read
  };
  for (const auto& each : bad) {
    ASSERT_TRUE(driver.start(kAll));
    driver.give(each.queue, 0, each.pieces);
    EXPECT_TRUE(driver.broken()) << each.queue;
  }
  EXPECT_TRUE(host.discarded.empty());
  EXPECT_TRUE(host.hints.empty());
  EXPECT_EQ(host.stats, 0);
  EXPECT_FALSE(balloon.request_stats());
  EXPECT_EQ(balloon.start_hinting(), 0u);
}

TEST_F(VirtioBalloonTest, StateSurvivesSaveAndLoad) {
  balloon.set_target(9);
  balloon.config_write(4, 4, 5);
  put_le<uint16_t>(board.at(kData), 4);
  driver.give(2, 3, {{kData, 10}});
  command(0, balloon.start_hinting());
  TestBoard there;
  there.copy_memory(board);
  VirtioBalloon other(host, 4, "balloon0", there.ram);
  load_state_of(other, state_of(balloon));
  EXPECT_EQ(state_of(other), state_of(balloon));
  EXPECT_EQ(other.target(), 9u);
  EXPECT_EQ(other.actual(), 5u);
  EXPECT_EQ(other.stats()[4], 0u);
  EXPECT_EQ(other.hinting(), balloon.hinting());
  EXPECT_TRUE(other.request_stats());
  EXPECT_TRUE(balloon.request_stats());
  EXPECT_EQ(std::memcmp(board.at(0), there.at(0), TestBoard::kRam), 0);
  EXPECT_EQ(other.start_hinting(), balloon.start_hinting());
}

TEST_F(VirtioBalloonTest, BadStates) {
  driver.give(2, 3, {{kData, 10}});
  command(0, balloon.start_hinting());
  int refused = try_bad_states(
      state_of(balloon), [&] { return std::make_unique<VirtioBalloon>(host, 4, "b", board.ram); },
      [](VirtioDevice& device) {
        auto& loaded = static_cast<VirtioBalloon&>(device);
        for (unsigned queue = 0; queue < 5; ++queue) device.notify(queue);
        loaded.request_stats();
        loaded.start_hinting();
        loaded.finish_hinting();
      });
  EXPECT_GT(refused, 30);
}

}  // namespace
}  // namespace hypertwin::devices
