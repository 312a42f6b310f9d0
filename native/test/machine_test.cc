// The machine's life cycle, snapshots and errors, with guests of ours on real KVM.
#include "code_of.h"
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
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_ << "\n"
                                                     << listener->console();
  EXPECT_EQ(machine->reason(), Reason::kPowerOff);
  EXPECT_NE(listener->console().find("hello"), std::string::npos) << listener->console();
  EXPECT_GT(machine->boundary(), 10u);
  EXPECT_GT(machine->counters().interrupts, 0u);
}

std::unique_ptr<Machine> small_machine(std::shared_ptr<kvm::System> system,
                                       std::shared_ptr<TestListener> listener) {
  MachineConfig config;
  config.memory_size = 16u << 20;
  return Machine::create(system, config, guest_image("hello"), listener);
}

TEST(Machine, EachStateAllowsWhatItShould) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  auto machine = small_machine(system_, listener);
  EXPECT_EQ(code_of([&] { machine->pause(); }), "BAD_STATE");
  EXPECT_EQ(code_of([&] { machine->resume(); }), "BAD_STATE");
  machine->start();
  EXPECT_EQ(code_of([&] { machine->start(); }), "BAD_STATE");
  machine->stop();
  machine->stop();
  EXPECT_EQ(machine->state(), State::kStopped);
  for (auto call : {&Machine::start, &Machine::pause, &Machine::resume})
    EXPECT_EQ(code_of([&] { ((*machine).*call)(); }), "BAD_STATE");
}

TEST(Machine, RefusesWhatItCannotBe) {
  NEED_KVM();
  MachineConfig config;
  config.memory_size = 16u << 20;
  auto create = [&](MachineConfig c, const Machine::Image& image) {
    return code_of([&] { Machine::create(system_, c, image, nullptr); });
  };
  MachineConfig odd = config;
  odd.memory_size = (16u << 20) + 1;
  EXPECT_EQ(create(odd, guest_image("hello")), "BAD_CONFIG");
  MachineConfig huge = config;
  huge.memory_size = uint64_t{1} << 40;
  EXPECT_EQ(create(huge, guest_image("hello")), "BAD_CONFIG");
  MachineConfig no_disk = config;
  no_disk.disks.push_back({.path = "/nonexistent/disk.img"});
  EXPECT_EQ(create(no_disk, guest_image("hello")), "ENOENT");
  EXPECT_EQ(create(config, {}), "BAD_KERNEL");
  EXPECT_EQ(create(config, {std::vector<uint8_t>(1000, 7), {}}), "BAD_KERNEL");
  auto cut = guest_image("hello");
  cut.kernel.resize(cut.kernel.size() / 4);
  EXPECT_EQ(create(config, cut), "BAD_KERNEL");
}

TEST(Machine, ContinuesIdenticallyFromASnapshot) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  auto machine = small_machine(system_, listener);
  machine->start();
  ASSERT_TRUE(listener->wait_console("hello"));
  machine->pause();
  auto digest = machine->state_digest();
  machine->snapshot(dir.file("snap"));
  EXPECT_EQ(machine->state_digest(), digest) << "a snapshot changes nothing";

  auto twin_listener = std::make_shared<TestListener>();
  auto twin = Machine::restore(system_, dir.file("snap"), twin_listener);
  EXPECT_EQ(twin->state(), State::kPaused);
  EXPECT_EQ(twin->state_digest(), digest);
  EXPECT_EQ(twin->boundary(), machine->boundary());
  machine->resume();
  twin->resume();
  ASSERT_TRUE(listener->wait_state(State::kStopped));
  ASSERT_TRUE(twin_listener->wait_state(State::kStopped)) << twin_listener->last_message_;
  EXPECT_EQ(twin->reason(), Reason::kPowerOff);
  std::string whole = listener->console();
  std::string tail = twin_listener->console();
  ASSERT_GE(whole.size(), tail.size());
  EXPECT_EQ(whole.substr(whole.size() - tail.size()), tail);
}

TEST(Machine, ADamagedSnapshotIsRefused) {
  NEED_KVM();
  TempDir dir;
  auto machine = small_machine(system_, nullptr);
  machine->snapshot(dir.file("snap"));
  auto whole = read_file(dir.file("snap"));
  auto try_with = [&](const std::vector<uint8_t>& bytes) {
    std::ofstream(dir.file("bad"), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return code_of([&] { Machine::restore(system_, dir.file("bad"), nullptr); });
  };
  EXPECT_EQ(try_with({}), "CORRUPT");
  for (size_t size : {size_t{10}, size_t{63}, size_t{64}, size_t{4096}, whole.size() - 1}) {
    EXPECT_EQ(try_with({whole.begin(), whole.begin() + static_cast<long>(size)}), "CORRUPT") << size;
  }
  for (size_t at : {size_t{0}, size_t{20}, size_t{5000}, whole.size() / 2, whole.size() - 3}) {
    auto flipped = whole;
    flipped[at] ^= 0x10;
    EXPECT_EQ(try_with(flipped), "CORRUPT") << at;
  }
  auto newer = whole;
  newer[8] = 9;
  EXPECT_EQ(try_with(newer), "SNAPSHOT_VERSION");
  EXPECT_EQ(code_of([&] { Machine::restore(system_, dir.file("none"), nullptr); }), "ENOENT");
  EXPECT_EQ(code_of([&] { machine->snapshot("/nonexistent/snap"); }), "ENOENT");
}

TEST(Machine, ManyThreadsMayCallIt) {
  NEED_KVM();
  auto listener = std::make_shared<TestListener>();
  auto machine = small_machine(system_, listener);
  machine->start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        code_of([&] { machine->pause(); });
        code_of([&] { machine->state_digest(); });
        code_of([&] { machine->resume(); });
      }
    });
  for (auto& thread : threads) thread.join();
  if (machine->state() == State::kPaused) machine->resume();
  EXPECT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
}

TEST(Machine, AMachineThatTheGuestEndedEndsAgainWhenRestored) {
  NEED_KVM();
  TempDir dir;
  auto listener = std::make_shared<TestListener>();
  auto machine = small_machine(system_, listener);
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped));
  ASSERT_EQ(machine->reason(), Reason::kPowerOff);
  machine->snapshot(dir.file("snap"));
  auto again = std::make_shared<TestListener>();
  auto twin = Machine::restore(system_, dir.file("snap"), again);
  twin->resume();
  ASSERT_TRUE(again->wait_state(State::kStopped)) << again->last_message_;
  EXPECT_EQ(twin->reason(), Reason::kPowerOff);
  EXPECT_EQ(twin->boundary(), machine->boundary()) << "the guest does not go on";
}

// The reset control register, and the keyboard controller's line.
TEST(Machine, AGuestMayAskForAReset) {
  NEED_KVM();
  TempDir dir;
  for (const auto& [port, value] : {std::pair<uint16_t, uint8_t>{0xcf9, 6}, {0x64, 0xfe}}) {
    auto listener = std::make_shared<TestListener>();
    auto machine = small_machine(system_, listener);
    write_port_first(*machine, port, value);
    machine->start();
    ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
    EXPECT_EQ(machine->reason(), Reason::kReset) << listener->last_message_;
    EXPECT_EQ(listener->last_message_, "the guest asked for a reset");
    EXPECT_EQ(machine->boundary(), 1u);
    machine->snapshot(dir.file("snap"));
    auto again = std::make_shared<TestListener>();
    auto twin = Machine::restore(system_, dir.file("snap"), again);
    twin->resume();
    ASSERT_TRUE(again->wait_state(State::kStopped)) << again->last_message_;
    EXPECT_EQ(twin->reason(), Reason::kReset);
  }
  // What does not ask for one: the guest goes on, and halts.
  auto listener = std::make_shared<TestListener>();
  auto machine = small_machine(system_, listener);
  write_port_first(*machine, 0xcf9, 2);
  machine->start();
  ASSERT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
  EXPECT_EQ(machine->reason(), Reason::kHalted);
}

// The caller's frame, to which the task refers, is gone by then.
TEST(Machine, ATaskThatIsGivenUpNeverRuns) {
  NEED_KVM();
  for (int round = 0; round < 5; ++round) {
    auto listener = std::make_shared<TestListener>();
    auto machine = small_machine(system_, listener);
    machine->start();
    ASSERT_TRUE(listener->wait_console("hello"));
    machine->pause();
    const uint64_t rip = machine->vcpu_state().regs.rip;
    uint8_t code[2];
    machine->read_memory(rip, code);
    const uint8_t spin[] = {0xeb, 0xfe};
    machine->write_memory(rip, spin);
    machine->resume();
    // Until it spins.
    while (code_of([&] {
             machine->call(
                 At::kBoundary, [] {}, std::chrono::milliseconds(50));
           }) == "none") {
    }

    std::atomic<bool> waits{false}, given_up{false}, ran_after{false};
    std::thread waiter([&] {
      waits.store(true);
      EXPECT_EQ(code_of([&] {
                  machine->call(
                      At::kBoundary, [&] { ran_after.store(given_up.load()); },
                      std::chrono::milliseconds(100));
                }),
                "NO_BOUNDARY");
      given_up.store(true);
    });
    while (!waits.load()) std::this_thread::yield();
    // Comes behind the waiter's, most times, and is under way when that is given up.
    machine->call(At::kAnywhere, [] {});
    machine->call(At::kAnywhere, [&] {
      while (!given_up.load()) std::this_thread::yield();
    });
    waiter.join();
    machine->write_memory(rip, code);
    EXPECT_TRUE(listener->wait_state(State::kStopped)) << listener->last_message_;
    EXPECT_FALSE(ran_after.load());
  }
}

// Which event KVM injected last stays in KVM_GET_VCPU_EVENTS, and is another one where a page was in the way.
TEST(Machine, TheDigestHoldsEventsThatAreStillToCome) {
  VcpuState clean;
  clean.xsave.resize(sizeof(kvm_xsave));
  VcpuState stale = clean;
  stale.events.interrupt.nr = 42;
  stale.events.interrupt.soft = 1;
  stale.events.exception.nr = 14;
  stale.events.exception.has_error_code = 1;
  stale.events.exception.error_code = 7;
  stale.events.exception_has_payload = 1;
  stale.events.exception_payload = 0x5000;
  EXPECT_EQ(stale.digest(), clean.digest());
  std::vector<Digest128> digests{clean.digest()};
  for (auto change : std::initializer_list<void (*)(kvm_vcpu_events&)>{
           [](auto& events) { events.interrupt.injected = 1; },
           [](auto& events) { events.exception.injected = 1; },
           [](auto& events) { events.exception.pending = 1; },
           [](auto& events) { events.interrupt.shadow = 1; },
       }) {
    VcpuState other = stale;
    change(other.events);
    digests.push_back(other.digest());
    other.events.interrupt.nr ^= 1;
    other.events.exception.nr ^= 1;
    if (other.events.interrupt.shadow)
      EXPECT_EQ(other.digest(), digests.back());
    else
      digests.push_back(other.digest());
  }
  for (size_t i = 0; i < digests.size(); ++i)
    for (size_t k = 0; k < i; ++k) EXPECT_FALSE(digests[i] == digests[k]) << i << " and " << k;
}

TEST(Machine, GoesAwayInEachState) {
  NEED_KVM();
  for (int step = 0; step < 5; ++step) {
    auto listener = std::make_shared<TestListener>();
    auto machine = small_machine(system_, listener);
    if (step >= 1) machine->start();
    if (step == 2) machine->pause();
    if (step == 3) machine->stop();
    if (step == 4) {
      EXPECT_TRUE(listener->wait_state(State::kStopped));
    }
  }
}

}  // namespace
}  // namespace hypertwin::machine
