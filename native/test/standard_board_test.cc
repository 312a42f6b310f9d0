// The standard board's PCI windows on real KVM: where the kernel listens for notifications.
#include "machine/standard_board.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>

#include "code_of.h"
#include "devices_board.h"
#include "machine_util.h"

namespace hypertwin::machine {
namespace {

using devices::VirtioPci;

struct NoHost : StandardHost {
  std::function<void(uint32_t)> on_console{};
  uint64_t now() override { return 0; }
  void transmit(uint32_t, std::span<const uint8_t>) override {}
  void console_output(uint32_t device, std::span<const uint8_t>) override {
    if (on_console) on_console(device);
  }
  void block_submit(uint32_t, devices::BlockRequest) override {}
  void power(devices::PowerEvent) override {}
  void entropy_wanted(uint32_t, devices::EntropyRequest) override {}
  void discard(uint32_t, uint64_t, uint64_t) override {}
  void free_hint(uint32_t, uint32_t, uint64_t, uint64_t) override {}
  void hints_ended(uint32_t, uint32_t) override {}
  void balloon_stats(uint32_t) override {}
  void guest_finishes(uint32_t, uint64_t) override {}
  void transmit_unfinished(uint32_t, std::span<const iovec>) override {}
  void block_cancel(uint32_t) override {}
  void vsock_event(uint32_t, devices::VsockEvent) override {}
};

// Two networks (slots 1 and 2), the entropy device (slot 3), and a console (slot 4).
struct Board {
  static constexpr uint8_t kCommand = 0x04, kBar0 = 0x10;

  NoHost host;
  std::shared_ptr<kvm::Vm> vm;
  std::vector<uint8_t> memory = std::vector<uint8_t>(2 * devices::kPageSize);
  devices::GuestRam ram{{{.guest_address = 0,
                          .size = devices::kPageSize,
                          .host = devices::TestBoard::aligned(memory.data()),
                          .slot = 0}}};
  std::unique_ptr<StandardBoard> board;
  Fd probe{::eventfd(0, EFD_CLOEXEC)};

  explicit Board(const std::shared_ptr<kvm::System>& system) : vm(system->create_vm()) {
    vm->create_irqchip();
    MachineConfig config;
    config.nets.resize(2);
    config.console = true;
    board = std::make_unique<StandardBoard>(vm, host, ram, config, [](uint32_t) {});
  }
  void select(unsigned slot, uint8_t offset) {
    board->port_write(0xcf8, 4, 0x80000000 | slot << 11 | offset);
  }
  uint32_t config(unsigned slot, uint8_t offset) {
    select(slot, offset);
    return board->port_read(0xcfc, 4);
  }
  void set_config(unsigned slot, uint8_t offset, uint32_t value) {
    select(slot, offset);
    board->port_write(0xcfc, 4, value);
  }
  uint32_t window(unsigned slot) { return config(slot, kBar0) & ~15u; }
  void move(unsigned slot, uint32_t to) { set_config(slot, kBar0, to); }
  kvm::IoEvent event(uint32_t window, unsigned queue) const {
    return {.address = window + VirtioPci::kMemoryNotify + 4 * queue,
            .length = 0,
            .pio = false,
            .fd = probe.get(),
            .datamatch = std::nullopt};
  }
  // Whether the kernel does, for the notifications of a queue whose function's window is there.
  bool listens(uint32_t window, unsigned queue = 0) const {
    if (code_of([&] { vm->assign_ioeventfd(event(window, queue)); }) == "EEXIST") return true;
    vm->deassign_ioeventfd(event(window, queue));
    return false;
  }
  std::vector<uint8_t> save() {
    ByteWriter out;
    board->save(out);
    return out.take();
  }
  void load(std::span<const uint8_t> state) {
    ByteReader in(state, "state");
    board->load(in);
    in.expect_done();
  }
};

TEST(StandardBoard, TwoWindowsAtOnePlaceAreTheGuestsAffair) {
  NEED_KVM();
  Board board(system_);
  const uint32_t first = board.window(1), second = board.window(2), rng = board.window(3);
  for (uint32_t window : {first, second}) EXPECT_TRUE(board.listens(window, 0) && board.listens(window, 1));
  EXPECT_TRUE(board.listens(rng));
  EXPECT_FALSE(board.listens(rng, 1));
  // The entropy device's queue, then the first network's both.
  board.move(3, second);
  EXPECT_FALSE(board.listens(rng));
  board.move(2, rng);
  EXPECT_TRUE(board.listens(rng, 1)) << "it has left";
  EXPECT_TRUE(board.listens(second)) << "there is room for the other now";
  EXPECT_FALSE(board.listens(second, 1));
  board.move(1, second);
  EXPECT_FALSE(board.listens(first));
  EXPECT_FALSE(board.listens(second, 1));
  board.set_config(3, Board::kCommand, 0);
  EXPECT_TRUE(board.listens(second, 1)) << "any function's window may make room";
  board.move(1, first);
  EXPECT_TRUE(board.listens(first, 1));
  EXPECT_FALSE(board.listens(second));
  // All of a function's queues or none.
  const uint32_t elsewhere = first + 0x1000000;
  const kvm::IoEvent its_second = board.event(elsewhere, 1);
  board.vm->assign_ioeventfd(its_second);
  board.move(1, elsewhere);
  EXPECT_FALSE(board.listens(elsewhere, 0));
  board.vm->deassign_ioeventfd(its_second);
  board.move(1, elsewhere);
  EXPECT_TRUE(board.listens(elsewhere, 0) && board.listens(elsewhere, 1));
}

TEST(StandardBoard, ExchangedWindowsAreRestored) {
  NEED_KVM();
  std::vector<uint8_t> exchanged, at_one_place;
  uint32_t first = 0, second = 0, rng = 0;
  {
    Board board(system_);
    first = board.window(1), second = board.window(2), rng = board.window(3);
    board.move(1, rng);
    board.move(3, first);
    EXPECT_TRUE(board.listens(first) && board.listens(rng, 1));
    exchanged = board.save();
    board.move(3, rng);
    at_one_place = board.save();
  }
  Board board(system_);
  board.load(exchanged);
  EXPECT_EQ(board.window(1), rng);
  EXPECT_EQ(board.window(3), first);
  EXPECT_TRUE(board.listens(first) && board.listens(second, 1) && board.listens(rng, 1));
  EXPECT_FALSE(board.listens(first, 1));
  Board other(system_);
  other.load(at_one_place);
  EXPECT_TRUE(other.listens(rng) && other.listens(second));
  EXPECT_FALSE(other.listens(first));
}

// A function's thread, or an access to it, may wait for a page of a guest whose memory is streamed.
TEST(StandardBoard, AFunctionThatWaitsHoldsUpNothingElse) {
  NEED_KVM();
  Board board(system_);
  std::promise<void> begun, go_on;
  std::atomic<int> typed{0};
  board.host.on_console = [&](uint32_t device) {
    if (device == kSerialConsole) {
      ++typed;
      return;
    }
    begun.set_value();
    go_on.get_future().wait();
  };
  constexpr uint32_t kEmergencyWrite = 8;
  const uint32_t console = board.window(4);
  auto access = std::async(std::launch::async, [&] {
    board.board->mmio_write(console + VirtioPci::kMemoryDevice + kEmergencyWrite, 4, 'x');
  });
  begun.get_future().wait();
  auto others = std::async(std::launch::async, [&] {
    board.board->port_write(devices::Serial::kPorts[0].first, 1, 'x');
    // As the owner does, on the thread that must not wait.
    std::lock_guard lock(board.board->mutex());
    const uint8_t key = 'k';
    EXPECT_EQ(board.board->serial().receive({&key, 1}), 1u);
    EXPECT_FALSE(board.board->acpi().press_power_button());
  });
  EXPECT_EQ(others.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  go_on.set_value();
  access.get();
  others.get();
  EXPECT_EQ(typed, 1);
}

}  // namespace
}  // namespace hypertwin::machine
