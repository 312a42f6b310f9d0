// A virtio-console whose rings and buffers lie in pages that have not come: it waits for them, and nobody
// else does.
#include <gtest/gtest.h>

#include <future>

#include "machine/standard_machine.h"
#include "machine_util.h"

namespace hypertwin::machine {
namespace {

constexpr uint64_t kBase = (4u << 20) / devices::kPageSize;
constexpr uint64_t kWords = kBase + 4;
constexpr auto kLimit = std::chrono::seconds(60);

struct Part {
  const char* name;
  uint64_t page;
};
// As docs/guests.md has them.
constexpr Part kParts[] = {{"descriptors of the receive queue", kBase},
                           {"rings of the receive queue", kBase + 1},
                           {"descriptors of the transmit queue", kBase + 2},
                           {"rings of the transmit queue", kBase + 3},
                           {"what is said", kWords},
                           {"the buffer of what is typed", kBase + 5}};

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class ConsolePaging : public testing::Test {
 protected:
  void SetUp() override {
    system_ = open_kvm();
    if (!system_) GTEST_SKIP() << "no usable /dev/kvm";
    MachineConfig config;
    config.board = BoardKind::kStandard;
    config.memory_size = 16u << 20;
    config.console = true;
    auto listener = std::make_shared<TestListener>();
    auto machine = StandardMachine::create(system_, config, guest_image("echo"), listener);
    machine->start();
    ASSERT_TRUE(listener->wait_console("echo ready\n")) << listener->console();
    // Each buffer has held something, and the first one is next.
    for (const char* each : {"1\n", "2\n", "3\n", "4\n"}) {
      ASSERT_TRUE(machine->send_console(bytes_of(each)));
      ASSERT_TRUE(listener->wait_console(std::string("echo ") + each)) << listener->console();
    }
    machine->pause();
    machine->snapshot(dir_.file("s"));
  }

  // It runs, has been typed to, and waits for that page.
  void begin(uint64_t page) {
    pages_ = std::make_shared<GatedPages>(dir_.file("s"), page);
    listener_ = std::make_shared<TestListener>();
    RestoreOptions options;
    options.pages = pages_;
    options.paging = {.all = false, .block = 1};
    twin_ = StandardMachine::restore(system_, dir_.file("s"), listener_, options);
    twin_->resume();
    ASSERT_TRUE(twin_->send_console(bytes_of("two\n")));
    ASSERT_TRUE(pages_->wait_asked());
  }

  std::shared_ptr<kvm::System> system_;
  TempDir dir_;
  std::shared_ptr<GatedPages> pages_;
  std::shared_ptr<TestListener> listener_;
  std::unique_ptr<StandardMachine> twin_;
};

TEST_F(ConsolePaging, WaitsForItsMemoryAndKeepsNobodyWaiting) {
  for (const auto& [name, page] : kParts) {
    SCOPED_TRACE(name);
    begin(page);
    auto typed = std::async(std::launch::async, [&] {
      const bool taken = twin_->send_console(bytes_of("three\n"));
      twin_->press_power_button();
      twin_->counters();
      return taken && twin_->state() == State::kRunning;
    });
    EXPECT_EQ(typed.wait_for(kLimit), std::future_status::ready);
    EXPECT_EQ(listener_->console(), "") << "it waits";
    pages_->open();
    EXPECT_TRUE(typed.get());
    // Together, where neither had been taken before the memory came.
    EXPECT_TRUE(listener_->wait_console("three\n")) << twin_->message();
    const std::string console = listener_->console();
    EXPECT_TRUE(console == "echo two\nthree\n" || console == "echo two\necho three\n") << console;
    twin_->pause();
    EXPECT_EQ(twin_->state(), State::kPaused) << twin_->message();
  }
}

TEST_F(ConsolePaging, NothingIsSaidOfMemoryThatWasLost) {
  for (const auto& [name, page] : kParts) {
    SCOPED_TRACE(name);
    begin(page);
    pages_->break_off();
    ASSERT_TRUE(listener_->wait_state(State::kFailed));
    EXPECT_NE(twin_->message().find("the source has gone"), std::string::npos) << twin_->message();
    twin_.reset();
    EXPECT_EQ(listener_->console(), "");
  }
}

TEST_F(ConsolePaging, AMachineThatGoesWaitsForNone) {
  for (const auto& [name, page] : kParts) {
    SCOPED_TRACE(name);
    begin(page);
    twin_.reset();
    EXPECT_EQ(listener_->console(), "");
  }
}

}  // namespace
}  // namespace hypertwin::machine
