// virtio-rng: bytes are asked for, and only what was given reaches the guest.
#include <gtest/gtest.h>

#include "devices/virtio_rng.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kData = 0x40000;

struct FakeEntropy : EntropyHost {
  std::vector<EntropyRequest> wanted;
  void entropy_wanted(uint32_t, EntropyRequest request) override { wanted.push_back(request); }
};

class VirtioRngTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(driver.start()); }
  std::string text(uint64_t address, size_t size) {
    return {reinterpret_cast<char*>(board.at(address)), size};
  }

  TestBoard board;
  FakeEntropy entropy;
  VirtioRng rng{entropy, 3, "rng0", board.ram};
  BareDriver driver{board, rng};
};

TEST_F(VirtioRngTest, FillsABufferAcrossItsPieces) {
  EXPECT_EQ(rng.type(), 4);
  EXPECT_TRUE(rng.config().empty());
  driver.give(0, 0, {{kData, 3, true}, {kData + 100, 10, true}});
  ASSERT_EQ(entropy.wanted.size(), 1u);
  EXPECT_EQ(entropy.wanted[0].ordinal, 0u);
  EXPECT_EQ(entropy.wanted[0].size, 13u);
  EXPECT_EQ(driver.rings[0].used_index(), 0);
  EXPECT_TRUE(rng.complete(0, as_bytes("abcdefg")));
  EXPECT_EQ(driver.rings[0].used(0), std::pair(0u, 7u));
  EXPECT_EQ(text(kData, 4), std::string("abc\0", 4));
  EXPECT_EQ(text(kData + 100, 5), std::string("defg\0", 5));
  EXPECT_EQ(driver.transport.queue_interrupts, 1);
  EXPECT_FALSE(rng.complete(0, as_bytes("again")));
  EXPECT_FALSE(rng.in_flight());
}

TEST_F(VirtioRngTest, OneRequestIsOutAtATimeInTheGuestsOrder) {
  for (uint16_t i = 0; i < 3; ++i) driver.give(0, i, {{kData + 16u * i, 4, true}});
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(entropy.wanted.size(), i + 1);
    EXPECT_FALSE(rng.complete(i + 1, as_bytes("early")));
    EXPECT_FALSE(rng.complete(i, {}));  // a buffer is never returned empty (5.4.6.2)
    EXPECT_TRUE(rng.complete(i, as_bytes("more than four")));
    EXPECT_EQ(driver.rings[0].used(static_cast<uint16_t>(i)), std::pair(static_cast<uint32_t>(i), 4u));
    EXPECT_EQ(text(kData + 16 * i, 5), std::string("more\0", 5));
  }
}

TEST_F(VirtioRngTest, ALongBufferIsAskedForInPart) {
  driver.give(0, 0, {{kData, 40000, true}, {kData, 40000, true}, {kData, 4096, true}});
  EXPECT_EQ(entropy.wanted.at(0).size, VirtioRng::kMaxRequest);
  EXPECT_TRUE(rng.complete(0, std::vector<uint8_t>(200000, 1)));
  EXPECT_EQ(driver.rings[0].used(0), std::pair(0u, VirtioRng::kMaxRequest));
  EXPECT_EQ(board.at(kData)[39999], 1);
}

TEST_F(VirtioRngTest, ALateCompletionDoesNotFillANewDriversBuffer) {
  driver.give(0, 0, {{kData, 8, true}});
  ASSERT_TRUE(driver.start());
  EXPECT_FALSE(rng.complete(0, as_bytes("late")));
  driver.give(0, 0, {{kData, 8, true}});
  EXPECT_FALSE(rng.complete(0, as_bytes("late")));
  EXPECT_EQ(driver.rings[0].used_index(), 0);
  EXPECT_EQ(*board.at(kData), 0);
  EXPECT_TRUE(rng.complete(1, as_bytes("new")));
}

TEST_F(VirtioRngTest, RingsThatBreakTheRules) {
  for (const BadRing& bad : bad_rings()) {
    ASSERT_TRUE(driver.start(kVirtioIndirect));
    entropy.wanted.clear();
    bad.write(board, driver.rings[0], kData, true);
    rng.notify(0);
    EXPECT_TRUE(driver.broken()) << bad.name;
    EXPECT_TRUE(entropy.wanted.empty()) << bad.name;
    EXPECT_EQ(driver.rings[0].used_index(), 0) << bad.name;
  }
  ASSERT_TRUE(driver.start());
  driver.give(0, 0, {{kData, 8}, {kData, 8, true}});  // a readable piece
  EXPECT_TRUE(driver.broken());
  ASSERT_TRUE(driver.start());
  driver.give(0, 0, {{kData, 8, true}});
  driver.rings[0].available = 100;
  driver.give(0, 0, {{kData, 8, true}});
  ASSERT_FALSE(driver.broken());  // not looked at yet
  EXPECT_TRUE(rng.complete(entropy.wanted.back().ordinal, as_bytes("x")));
  EXPECT_TRUE(driver.broken());
}

TEST_F(VirtioRngTest, TheRequestSurvivesSaveAndLoad) {
  driver.give(0, 5, {{kData, 3, true}, {kData + 64, 5, true}});
  TestBoard there;
  there.copy_memory(board);
  VirtioRng other(entropy, 3, "rng0", there.ram);
  load_state_of(other, state_of(rng));
  ASSERT_TRUE(other.in_flight());
  EXPECT_EQ(other.in_flight()->ordinal, 0u);
  EXPECT_EQ(other.in_flight()->size, 8u);
  EXPECT_TRUE(rng.complete(0, as_bytes("12345678")));
  EXPECT_TRUE(other.complete(0, as_bytes("12345678")));
  EXPECT_EQ(std::memcmp(board.at(0), there.at(0), TestBoard::kRam), 0);
  EXPECT_EQ(state_of(rng), state_of(other));
}

TEST_F(VirtioRngTest, BadStates) {
  driver.give(0, 5, {{kData, 3, true}, {kData + 64, 5, true}});
  int refused = try_bad_states(
      state_of(rng), [&] { return std::make_unique<VirtioRng>(entropy, 3, "rng0", board.ram); },
      [](VirtioDevice& device) {
        auto& loaded = static_cast<VirtioRng&>(device);
        device.notify(0);
        if (auto request = loaded.in_flight()) loaded.complete(request->ordinal, std::vector<uint8_t>(99999));
      });
  EXPECT_GT(refused, 30);
}

}  // namespace
}  // namespace hypertwin::devices
