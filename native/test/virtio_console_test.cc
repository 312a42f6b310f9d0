// virtio-console: a terminal of one port.
#include <gtest/gtest.h>

#include <functional>

#include "devices/virtio_console.h"
#include "devices_virtio.h"

namespace hypertwin::devices {
namespace {

constexpr uint64_t kData = 0x40000;

class VirtioConsoleTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(driver.start(5)); }
  std::string text(uint64_t address, size_t size) {
    return {reinterpret_cast<char*>(board.at(address)), size};
  }
  void put(uint64_t address, std::string_view what) {
    std::memcpy(board.at(address), what.data(), what.size());
  }

  TestBoard board;
  VirtioConsole console{board.host, 2, "console0", board.ram, {.columns = 100, .rows = 40}};
  BareDriver driver{board, console};
};

TEST_F(VirtioConsoleTest, ConfigurationAndResize) {
  EXPECT_EQ(console.offered() & 7, 5u);
  EXPECT_EQ(driver.config(0, 2), 100u);
  EXPECT_EQ(driver.config(2, 2), 40u);
  EXPECT_EQ(driver.config(4, 4), 1u);
  uint8_t generation = console.config_generation();
  console.set_size(100, 40);
  EXPECT_EQ(driver.transport.config_interrupts, 0);
  console.set_size(132, 50);
  EXPECT_EQ(driver.config(0, 4), 50u << 16 | 132);
  EXPECT_EQ(driver.transport.config_interrupts, 1);
  EXPECT_NE(console.config_generation(), generation);
}

TEST_F(VirtioConsoleTest, OutputAcrossPiecesInOrder) {
  put(kData, "hello, ");
  put(kData + 100, "world\n");
  driver.rings[1].offer(0, {{kData, 7}, {kData + 100, 6}});
  driver.give(1, 4, {{kData, 5}});
  EXPECT_EQ(board.host.console, "hello, world\nhello");
  EXPECT_EQ(driver.rings[1].used(0), std::pair(0u, 0u));
  EXPECT_EQ(driver.rings[1].used(1), std::pair(4u, 0u));
  EXPECT_EQ(driver.transport.queue_interrupts, 1);
}

// Another vCPU gives the queue new buffers as fast as they are taken.
TEST(VirtioConsole, ATurnEndsThoughTheGuestNeverDoes) {
  struct Host : FakeHost {
    std::function<void()> meanwhile;
    void console_output(uint32_t device, std::span<const uint8_t> bytes) override {
      FakeHost::console_output(device, bytes);
      meanwhile();
    }
  } host;
  TestBoard board;
  VirtioConsole console(host, 2, "console0", board.ram, {.columns = 100, .rows = 40});
  BareDriver driver(board, console);
  ASSERT_TRUE(driver.start());
  uint16_t next = 1;
  host.meanwhile = [&] { driver.rings[1].offer(next++ % 16, {{kData, 1}}); };
  driver.give(1, 0, {{kData, 1}});
  EXPECT_EQ(host.console.size(), 16u);
  EXPECT_EQ(driver.transport.again, 1);
  host.meanwhile = [] {};
  console.notify(1);
  EXPECT_EQ(host.console.size(), 17u) << "what was left";
  EXPECT_EQ(driver.transport.again, 1);
}

TEST_F(VirtioConsoleTest, InputFillsBuffersAndWaitsForMore) {
  driver.give(0, 0, {{kData, 4, true}, {kData + 100, 4, true}});
  EXPECT_EQ(console.receive(as_bytes("0123456789")), 10u);
  EXPECT_EQ(driver.rings[0].used(0), std::pair(0u, 8u));
  EXPECT_EQ(text(kData, 5), std::string("0123\0", 5));
  EXPECT_EQ(text(kData + 100, 4), "4567");
  EXPECT_EQ(console.input_space(), VirtioConsole::kMaxInput - 2);
  driver.give(0, 2, {{kData, 4, true}});
  EXPECT_EQ(driver.rings[0].used(1), std::pair(2u, 2u));
  EXPECT_EQ(text(kData, 4), "8923");
}

TEST_F(VirtioConsoleTest, InputIsBoundedAndWaitsForADriver) {
  console.reset();
  std::vector<uint8_t> much(VirtioConsole::kMaxInput + 100, 'x');
  much[0] = 'a';
  EXPECT_EQ(console.receive(much), VirtioConsole::kMaxInput);
  EXPECT_EQ(console.receive(much), 0u);
  ASSERT_TRUE(driver.start());
  driver.give(0, 0, {{kData, 10, true}});
  EXPECT_EQ(text(kData, 2), "ax");
  EXPECT_EQ(console.receive(much), 10u);
}

TEST_F(VirtioConsoleTest, EmergencyWritesNeedNoDriver) {
  console.reset();
  console.config_write(8, 4, 'A');
  console.config_write(8, 1, 0x12345642);
  console.config_write(0, 4, 'C');
  console.config_write(9, 1, 'C');
  EXPECT_EQ(board.host.console, "AB");
  EXPECT_EQ(driver.config(0, 2), 100u);
}

TEST_F(VirtioConsoleTest, RingsThatBreakTheRules) {
  for (unsigned queue : {0u, 1u})
    for (const BadRing& bad : bad_rings()) {
      ASSERT_TRUE(driver.start(kVirtioIndirect));
      bad.write(board, driver.rings[queue], kData, queue == 0);
      console.notify(queue);
      size_t taken = console.receive(as_bytes("x"));
      EXPECT_EQ(taken, 1u);
      EXPECT_TRUE(driver.broken()) << queue << ' ' << bad.name;
      EXPECT_EQ(driver.rings[queue].used_index(), 0) << queue << ' ' << bad.name;
    }
  EXPECT_EQ(board.host.console, "");
  ASSERT_TRUE(driver.start());
  driver.give(0, 0, {{kData, 8}});
  EXPECT_TRUE(driver.broken());
  ASSERT_TRUE(driver.start());
  driver.give(1, 0, {{kData, 8}, {kData, 8, true}});
  EXPECT_TRUE(driver.broken());
  ASSERT_TRUE(driver.start());
  driver.give(1, 0, {{0, TestBoard::kRam}, {0, 1}});
  EXPECT_TRUE(driver.broken());
  EXPECT_EQ(board.host.console, "");
}

TEST_F(VirtioConsoleTest, StateSurvivesSaveAndLoad) {
  console.set_size(1, 2);
  console.receive(as_bytes("typed ahead"));
  VirtioConsole other(board.host, 2, "console0", board.ram, {});
  load_state_of(other, state_of(console));
  EXPECT_EQ(state_of(other), state_of(console));
  EXPECT_TRUE(std::ranges::equal(other.config(), console.config()));
  driver.rings[0].offer(0, {{kData, 64, true}});
  other.notify(0);
  EXPECT_EQ(text(kData, 11), "typed ahead");
}

TEST_F(VirtioConsoleTest, BadStates) {
  console.receive(as_bytes("typed ahead"));
  int refused = try_bad_states(
      state_of(console),
      [&] {
        return std::make_unique<VirtioConsole>(board.host, 2, "c", board.ram, VirtioConsole::Options{});
      },
      [](VirtioDevice& device) {
        device.notify(0);
        device.notify(1);
        static_cast<VirtioConsole&>(device).receive(std::vector<uint8_t>(100));
      });
  EXPECT_GT(refused, 30);
}

}  // namespace
}  // namespace hypertwin::devices
