// The standard board with guests of ours on real KVM: its life cycle, its devices' threads, its snapshots.
#include "machine/standard_machine.h"

#include <cstdlib>

#include "migrate_util.h"

namespace hypertwin::machine {
namespace {

using migrate::MailUsers;

MachineConfig standard(uint64_t memory = 16u << 20) {
  MachineConfig config;
  config.board = BoardKind::kStandard;
  config.memory_size = memory;
  return config;
}

TEST(StandardMachine, RunsAGuestToItsPowerOff) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  auto machine = StandardMachine::create(system_, standard(), guest_image("hello"), listener);
  EXPECT_EQ(machine->state(), State::kCreated);
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_ << "\n"
                                                     << listener->console();
  EXPECT_EQ(machine->reason(), Reason::kPowerOff);
  EXPECT_NE(listener->console().find("hello"), std::string::npos) << listener->console();
  // The kernel's timer ticks, and may tick once more before the guest has looked.
  const std::string said = listener->console();
  const size_t ticks = said.find("ticks ");
  ASSERT_NE(ticks, std::string::npos) << said;
  EXPECT_GE(std::atoi(said.c_str() + ticks + 6), 5) << said;
  EXPECT_GT(machine->counters().port_exits, 10u);
  EXPECT_EQ(code_of([&] { machine->pause(); }), "BAD_STATE");
  EXPECT_FALSE(machine->press_power_button()) << "this guest does not listen to it";
}

// The reset control register, which the FADT names, and the keyboard controller's line.
TEST(StandardMachine, AGuestMayAskForAReset) {
  NEED_KVM();
  for (const auto& [port, value] : {std::pair<uint16_t, uint8_t>{0xcf9, 6}, {0x64, 0xfe}}) {
    auto listener = std::make_shared<TestListener>();
    auto machine = StandardMachine::create(system_, standard(), guest_image("hello"), listener);
    write_port_first(*machine, port, value);
    machine->start();
    ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
    EXPECT_EQ(machine->reason(), Reason::kReset) << listener->last_message_;
    EXPECT_EQ(machine->counters().port_exits, 1u);
  }
}

TEST(StandardMachine, EachStateAllowsWhatItShould) {
  NEED_KVM();
  auto machine = StandardMachine::create(system_, standard(), guest_image("exits"), nullptr);
  VirtualMachine& vm = *machine;
  EXPECT_EQ(code_of([&] { vm.pause(); }), "BAD_STATE");
  EXPECT_EQ(code_of([&] { vm.resume(); }), "BAD_STATE");
  vm.state_digest();
  vm.start();
  EXPECT_EQ(code_of([&] { vm.start(); }), "BAD_STATE");
  vm.pause();
  vm.pause();
  const auto digest = vm.state_digest();
  EXPECT_EQ(vm.state_digest(), digest) << "a paused machine stands still";
  EXPECT_EQ(code_of([&] { vm.vcpu_state(1); }), "ERANGE");
  vm.resume();
  vm.stop();
  vm.stop();
  EXPECT_EQ(vm.state(), State::kStopped);
  for (auto call : {&VirtualMachine::start, &VirtualMachine::pause, &VirtualMachine::resume})
    EXPECT_EQ(code_of([&] { (vm.*call)(); }), "BAD_STATE");
}

TEST(StandardMachine, RefusesWhatItCannotBe) {
  NEED_KVM();
  auto create = [&](const MachineConfig& config) {
    return code_of([&] { StandardMachine::create(system_, config, guest_image("hello"), nullptr); });
  };
  auto changed = [](auto change) {
    MachineConfig config = standard();
    change(config);
    return config;
  };
  EXPECT_EQ(create(changed([](auto& c) { c.vcpus = 0; })), "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.vcpus = 255; })), "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.memory_size = uint64_t{2} << 40; })), "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.vsock = VsockConfig{.cid = 2, .path = "/tmp/x"}; })),
            "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.vsock = VsockConfig{.cid = 3, .path = ""}; })), "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.disks.push_back({.path = "/nonexistent/disk.img"}); })), "ENOENT");
  EXPECT_EQ(create(changed([](auto& c) {
              c.nets.push_back({.backend = NetBackend::kTap, .tap = "a-name-that-is-too-long"});
            })),
            "BAD_CONFIG");
  EXPECT_EQ(create(changed([](auto& c) { c.nets.emplace_back().vhost = NetConfig::Vhost::kAlways; })),
            "BAD_CONFIG")
      << "no tap";
  MachineConfig deterministic = standard();
  deterministic.board = BoardKind::kDeterministic;
  deterministic.vcpus = 2;
  EXPECT_EQ(code_of([&] { Machine::create(system_, deterministic, guest_image("hello"), nullptr); }),
            "BAD_CONFIG");
  auto machine = StandardMachine::create(system_, standard(), guest_image("hello"), nullptr);
  EXPECT_EQ(code_of([&] { machine->set_console_size(80, 25); }), "ERANGE");
  EXPECT_EQ(code_of([&] { machine->with_balloon([](auto&) {}); }), "ERANGE");
  EXPECT_EQ(code_of([&] { machine->send_packet(0, std::vector<uint8_t>(60)); }), "ERANGE");
}

// Memory above the devices' window is a region of its own.
TEST(StandardMachine, HasMemoryAbove4GiB) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  auto machine =
      StandardMachine::create(system_, standard(uint64_t{5} << 30), guest_image("hello"), listener);
  std::vector<uint8_t> written(8192, 0x5a), read(8192);
  machine->write_memory(kHighRam + (uint64_t{2} << 30) - written.size(), written);
  machine->read_memory(kHighRam + (uint64_t{2} << 30) - read.size(), read);
  EXPECT_EQ(read, written);
  EXPECT_EQ(code_of([&] { machine->read_memory(kLowRamEnd - 4096, read); }), "ERANGE") << "into the window";
  EXPECT_EQ(code_of([&] { machine->read_memory(kHighRam + (uint64_t{2} << 30) - 4096, read); }), "ERANGE");
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->console();
}

TEST(StandardMachine, ServesMailUsersThroughPausesAndSnapshots) {
  NEED_KVM();
  TempDir dir;
  MailUsers users(8);
  auto side = users.side();
  auto machine = MailUsers::boot<StandardMachine>(system_, side, dir.file("mail.img"), standard());
  users.use(machine);
  ASSERT_TRUE(users.wait_answers(200));
  for (int i = 0; i < 20; ++i) {
    machine->pause();
    const auto digest = machine->state_digest();
    EXPECT_EQ(machine->state_digest(), digest);
    machine->resume();
    if (i % 5 == 0) machine->snapshot(dir.file("busy"));
    ASSERT_TRUE(users.wait_answers(20));
  }
  EXPECT_EQ(users.missing(machine), 0u);
  machine->stop();
}

// The twin continues from the snapshot with a copy of the disk, and knows all that was acknowledged.
TEST(StandardMachine, ContinuesFromASnapshotTakenUnderLoad) {
  NEED_KVM();
  TempDir dir;
  MailUsers users(8);
  auto side = users.side();
  auto machine = MailUsers::boot<StandardMachine>(system_, side, dir.file("mail.img"), standard());
  users.use(machine);
  ASSERT_TRUE(users.wait_answers(300));
  machine->pause();
  const auto digest = machine->state_digest();
  machine->snapshot(dir.file("snap"));
  std::filesystem::copy_file(dir.file("mail.img"), dir.file("twin.img"));
  EXPECT_EQ(snapshot_board(SnapshotFile(dir.file("snap"))), BoardKind::kStandard);
  auto there = users.side();
  std::shared_ptr<StandardMachine> twin = StandardMachine::restore(
      system_, dir.file("snap"), there,
      {.adjust = [&](auto& config) { config.disks[0].path = dir.file("twin.img"); }});
  EXPECT_EQ(twin->state(), State::kPaused);
  EXPECT_EQ(twin->state_digest(), digest);
  machine->stop();
  users.use(twin);
  twin->resume();
  ASSERT_TRUE(users.wait_answers(200)) << twin->message();
  EXPECT_EQ(users.missing(twin), 0u);
}

// The clock's thread sleeps while the machine stands still, and has to hear that it goes on.
TEST(StandardMachine, TheClockInterruptsAfterEachPause) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  MachineConfig config = standard();
  config.command_line = "clock=1";
  std::unique_ptr<StandardMachine> machine =
      StandardMachine::create(system_, config, guest_image("hello"), listener);
  auto interrupted = [&] {
    size_t before = 0;
    {
      std::lock_guard lock(listener->mutex_);
      before = listener->markers_.size();
    }
    return listener->wait([&] { return listener->markers_.size() >= before + 3; });
  };
  machine->start();
  ASSERT_TRUE(interrupted()) << listener->console();
  for (int i = 0; i < 3; ++i) {
    machine->pause();
    // Longer than until the alarm that is next.
    for (int n = 0; n < 5; ++n) machine->state_digest();
    machine->resume();
    ASSERT_TRUE(interrupted()) << i;
  }
  machine->pause();
  machine->snapshot(dir.file("snap"));
  machine = StandardMachine::restore(system_, dir.file("snap"), listener);
  machine->resume();
  EXPECT_TRUE(interrupted());
}

TEST(StandardMachine, OneThatTheGuestHasEndedEndsAgain) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  auto machine = StandardMachine::create(system_, standard(), guest_image("hello"), listener);
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->console();
  machine->snapshot(dir.file("1"));
  // Of one that has not been resumed, too.
  StandardMachine::restore(system_, dir.file("1"), nullptr)->snapshot(dir.file("2"));
  for (const char* name : {"1", "2"}) {
    auto there = std::make_shared<TestListener>();
    auto twin = StandardMachine::restore(system_, dir.file(name), there);
    EXPECT_EQ(twin->state(), State::kPaused);
    twin->resume();
    EXPECT_EQ(twin->state(), State::kStopped);
    EXPECT_EQ(twin->reason(), Reason::kPowerOff);
    EXPECT_EQ(there->console(), "");
    EXPECT_EQ(code_of([&] { twin->resume(); }), "BAD_STATE");
  }
  auto twin = StandardMachine::restore(system_, dir.file("1"), nullptr);
  EXPECT_EQ(twin->step(0, 1, {}), 0u);
  EXPECT_EQ(twin->state(), State::kStopped);
}

TEST(StandardMachine, ADamagedSnapshotIsRefused) {
  NEED_KVM();
  TempDir dir;
  auto machine = StandardMachine::create(system_, standard(), guest_image("hello"), nullptr);
  machine->snapshot(dir.file("snap"));
  const auto whole = read_file(dir.file("snap"));
  auto restore = [&](const std::vector<uint8_t>& bytes) {
    std::ofstream(dir.file("bad"), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return code_of([&] { StandardMachine::restore(system_, dir.file("bad"), nullptr); });
  };
  for (size_t size : {size_t{0}, size_t{63}, size_t{4096}, whole.size() - 1})
    EXPECT_EQ(restore({whole.begin(), whole.begin() + static_cast<long>(size)}), "CORRUPT") << size;
  MachineConfig other;
  other.memory_size = 16u << 20;
  auto deterministic = Machine::create(system_, other, guest_image("hello"), nullptr);
  deterministic->snapshot(dir.file("other"));
  EXPECT_EQ(code_of([&] { StandardMachine::restore(system_, dir.file("other"), nullptr); }), "CORRUPT");
  EXPECT_EQ(code_of([&] { Machine::restore(system_, dir.file("snap"), nullptr); }), "CORRUPT");
}

TEST(StandardMachine, GoesAwayInEachState) {
  NEED_KVM();
  for (int state = 0; state < 4; ++state) {
    TempDir dir;
    std::ofstream(dir.file("disk")).close();
    std::filesystem::resize_file(dir.file("disk"), 8u << 20);
    MachineConfig config = standard(32u << 20);
    config.nets.emplace_back();
    config.disks.push_back({.path = dir.file("disk")});
    config.vsock = VsockConfig{.cid = 3, .path = dir.file("vsock")};
    config.console = config.balloon = true;
    auto listener = std::make_shared<TestListener>();
    auto machine = StandardMachine::create(system_, config, guest_image("mailroom"), listener);
    if (state > 0) machine->start();
    if (state > 0) machine->send_packet(0, std::vector<uint8_t>(60, 1));
    if (state == 2) machine->pause();
    if (state == 3) machine->stop();
    machine.reset();
    EXPECT_FALSE(std::filesystem::exists(dir.file("vsock"))) << "its socket goes with it";
  }
}

TEST(StandardMachine, ManyThreadsMayCallIt) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  MachineConfig config = standard();
  config.command_line = "count=100000000";
  auto machine = StandardMachine::create(system_, config, guest_image("exits"), listener);
  machine->start();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int n = 0; n < 30; ++n) {
        try {
          if (i == 0) machine->pause();
          if (i == 1 && machine->state() == State::kPaused) machine->resume();
          if (i == 2) machine->vcpu_state(0);
          if (i == 3) machine->state_digest();
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), "BAD_STATE") << error.what();
        }
      }
    });
  for (auto& thread : threads) thread.join();
  machine->stop();
}

}  // namespace
}  // namespace hypertwin::machine
