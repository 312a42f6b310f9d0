// The machine's life cycle, snapshots and errors, with guests of ours on real KVM.
#include "machine_util.h"

namespace hypertwin::machine {
namespace {

TEST(Machine, RunsAGuestToItsPowerOff) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  MachineConfig config;
  config.memory_size = 16u << 20;
  auto machine = Machine::create(system_, config, guest_image("hello"), listener);
  EXPECT_EQ(machine->state(), State::kCreated);
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_ << "\n" << listener->console();
  EXPECT_EQ(machine->reason(), Reason::kPowerOff);
  EXPECT_NE(listener->console().find("hello"), std::string::npos) << listener->console();
  EXPECT_GT(machine->boundary(), 10u);
  EXPECT_GT(machine->counters().interrupts, 0u);
}

}  // namespace
}  // namespace hypertwin::machine
