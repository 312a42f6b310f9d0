// The KVM wrappers on the host's /dev/kvm: guests of a few bytes, wrong uses, kicks, closing.
#include "kvm/kvm.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/error.h"
#include "kvm/device.h"
#include "kvm/dirty_ring.h"
#include "kvm/stats.h"
#include "kvm/vcpu_runner.h"

namespace hypertwin::kvm {
namespace {

constexpr uint64_t kPage = 4096;

std::shared_ptr<GuestMemory> memory(uint64_t size,
                                    GuestMemory::Backing backing = GuestMemory::Backing::kAnonymous) {
  GuestMemory::Options options;
  options.backing = backing;
  return GuestMemory::allocate(size, options);
}

// A real-mode guest: 64 KiB at 0, code at 0x1000.
struct Guest {
  std::shared_ptr<GuestMemory> ram = memory(64 * 1024);
  std::shared_ptr<Vm> vm;
  std::shared_ptr<Vcpu> vcpu;

  explicit Guest(std::span<const uint8_t> code) {
    vm = System::open()->create_vm();
    ram->write(0x1000, code);
    vm->set_user_memory_region({.slot = 0, .guest_address = 0, .size = ram->size(), .memory = ram});
    vcpu = vm->create_vcpu(0);
    kvm_sregs sregs = vcpu->get_sregs();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu->set_sregs(sregs);
    kvm_regs regs{};
    regs.rip = 0x1000;
    regs.rflags = 2;
    vcpu->set_regs(regs);
  }
};

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_GT(std::strlen(error.what()), 20u);
    return error.code();
  }
  return "no error";
}

int open_descriptors() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class Kvm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "no usable /dev/kvm";
  }
};

TEST_F(Kvm, SystemAnswers) {
  auto system = System::open();
  EXPECT_EQ(system->api_version(), 12);
  EXPECT_GE(system->vcpu_mmap_size(), sizeof(kvm_run));
  EXPECT_EQ(system->check_extension(KVM_CAP_USER_MEMORY), 1);
  EXPECT_FALSE(system->supported_cpuid().empty());
  EXPECT_FALSE(system->msr_index_list().empty());
}

TEST(KvmOpen, MissingDeviceSaysWhatToDo) {
  try {
    System::open("/nonexistent/kvm");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "ENOENT");
    EXPECT_EQ(error.call(), "open");
    EXPECT_NE(std::string(error.what()).find("kvm_intel"), std::string::npos);
  }
}

TEST(KvmOpen, AnotherDescriptorIsRefused) {
  EXPECT_EQ(code_of([] { System::open("/dev/null"); }), "ENOTTY");
}

TEST_F(Kvm, PortOutThenHlt) {
  const uint8_t code[] = {0xb0, 0x2a, 0xe6, 0x10,
                          0xe4, 0x11, 0xf4};  // mov al,42; out 0x10,al; in al,0x11; hlt
  Guest guest(code);
  ASSERT_EQ(guest.vcpu->run(), RunResult::kExit);
  kvm_run* run = guest.vcpu->run_page();
  ASSERT_EQ(run->exit_reason, uint32_t{KVM_EXIT_IO});
  EXPECT_EQ(run->io.port, 0x10);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(run)[run->io.data_offset], 42);
  ASSERT_EQ(guest.vcpu->run(), RunResult::kExit);
  ASSERT_EQ(run->io.direction, KVM_EXIT_IO_IN);
  reinterpret_cast<uint8_t*>(run)[run->io.data_offset] = 7;
  EXPECT_EQ(guest.vcpu->complete_io(), RunResult::kInterrupted);
  EXPECT_EQ(guest.vcpu->get_regs().rax & 0xff, 7u);
  EXPECT_EQ(guest.vcpu->get_regs().rip, 0x1006u);
  EXPECT_EQ(guest.vcpu->complete_io(), RunResult::kInterrupted);
  ASSERT_EQ(guest.vcpu->run(), RunResult::kExit);
  EXPECT_EQ(run->exit_reason, uint32_t{KVM_EXIT_HLT});
}

TEST_F(Kvm, StateGoesOutAndIn) {
  const uint8_t code[] = {0xf4};
  Guest guest(code);
  Vcpu& vcpu = *guest.vcpu;
  vcpu.set_cpuid2(guest.vm->system()->supported_cpuid());
  EXPECT_FALSE(vcpu.get_cpuid2().empty());
  vcpu.set_regs(vcpu.get_regs());
  vcpu.set_sregs(vcpu.get_sregs());
  vcpu.set_fpu(vcpu.get_fpu());
  auto xsave = vcpu.get_xsave();
  EXPECT_GE(xsave.size(), 4096u);
  vcpu.set_xsave(xsave);
  vcpu.set_xcrs(vcpu.get_xcrs());
  vcpu.set_vcpu_events(vcpu.get_vcpu_events());
  vcpu.set_debugregs(vcpu.get_debugregs());
  vcpu.set_mp_state(vcpu.get_mp_state());
  const uint32_t efer[] = {0xc0000080};
  auto msrs = vcpu.get_msrs(efer);
  ASSERT_EQ(msrs.size(), 1u);
  vcpu.set_msrs(msrs);
  const uint32_t unknown[] = {0xc0000080, 0x12345678};
  EXPECT_EQ(code_of([&] { vcpu.get_msrs(unknown); }), "EMSR");
  if (guest.vm->check_extension(KVM_CAP_SREGS2)) vcpu.set_sregs2(vcpu.get_sregs2());
  EXPECT_EQ(vcpu.translate(0x1000).physical_address, 0x1000u);
  if (guest.vm->check_extension(KVM_CAP_NESTED_STATE) > 0) vcpu.set_nested_state(vcpu.get_nested_state());
}

TEST_F(Kvm, WrongMemoryRegions) {
  const uint8_t code[] = {0xf4};
  Guest guest(code);
  Vm& vm = *guest.vm;
  auto ram = memory(4 * kPage);
  auto set = [&](Slot slot) { return code_of([&] { vm.set_user_memory_region(slot); }); };
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x8000, .size = kPage, .memory = ram}), "EOVERLAP");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100001, .size = kPage, .memory = ram}), "EALIGN");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = 100, .memory = ram}), "EALIGN");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = 5 * kPage, .memory = ram}), "ERANGE");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = kPage, .offset = 4 * kPage, .memory = ram}),
            "ERANGE");
  EXPECT_EQ(set({.slot = 1, .guest_address = ~0xfffull, .size = 2 * kPage, .memory = ram}), "ERANGE");
  EXPECT_EQ(set({.slot = 65535, .guest_address = 0x100000, .size = kPage, .memory = ram}), "EBADSLOT");
  EXPECT_EQ(set({.slot = 0xffff0000, .guest_address = 0x100000, .size = kPage, .memory = ram}), "EBADSLOT");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = 0, .memory = ram}), "EBADSLOT");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = kPage, .memory = nullptr}), "EINVAL");
  EXPECT_EQ(set({.slot = 0, .guest_address = 0x100000, .size = kPage, .memory = ram}), "EBADSLOT");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = kPage, .flags = 1u << 31, .memory = ram}),
            "EINVAL");
  EXPECT_EQ(set({.slot = 1, .guest_address = 0x100000, .size = kPage, .memory = ram}), "no error");
  EXPECT_EQ(vm.slots().size(), 2u);
  EXPECT_EQ(set({.slot = 1, .memory = nullptr}), "no error");
  EXPECT_EQ(vm.slots().size(), 1u);
  EXPECT_EQ(code_of([&] { vm.create_vcpu(0); }), "EEXIST");
  EXPECT_EQ(code_of([&] { vm.create_vcpu(~0u); }), "EINVAL");
  std::vector<uint64_t> bitmap(1);
  EXPECT_EQ(code_of([&] { vm.get_dirty_log(0, bitmap); }), "ENOENT");
  EXPECT_EQ(code_of([&] { vm.get_dirty_log(7, bitmap); }), "EBADSLOT");
  EXPECT_EQ(code_of([&] { vm.clear_dirty_log(0, 1, 64, bitmap); }), "EALIGN");
  EXPECT_EQ(code_of([&] { vm.clear_dirty_log(0, 64, 64, bitmap); }), "ERANGE");
}

TEST(KvmMemory, BoundsAndBackings) {
  EXPECT_EQ(code_of([] { memory(100); }), "EALIGN");
  EXPECT_EQ(code_of([] { memory(0); }), "ERANGE");
  EXPECT_EQ(code_of([] { memory(1ull << 62); }), "ENOMEM");
  EXPECT_EQ(code_of([] { GuestMemory::allocate(2 << 20, {.huge_page_size = 3}); }), "EINVAL");
  auto ram = memory(2 * kPage, GuestMemory::Backing::kMemfd);
  const uint8_t bytes[] = {1, 2, 3};
  ram->write(2 * kPage - 3, bytes);
  EXPECT_EQ(code_of([&] { ram->write(2 * kPage - 2, bytes); }), "ERANGE");
  EXPECT_EQ(code_of([&] { ram->write(~0ull, bytes); }), "ERANGE");
  auto again = GuestMemory::from_fd(Fd(::dup(ram->fd())), kPage, kPage, false);
  uint8_t back[3];
  again->read(kPage - 3, back);
  EXPECT_EQ(std::memcmp(bytes, back, 3), 0);
  EXPECT_EQ(code_of([&] { GuestMemory::from_fd(Fd(::dup(ram->fd())), kPage, 2 * kPage, false); }), "ERANGE");
}

// jmp $: only a kick ends it.
TEST_F(Kvm, KickEndsARunAndIsSticky) {
  const uint8_t code[] = {0xeb, 0xfe};
  Guest guest(code);
  guest.vcpu->kick();
  EXPECT_EQ(guest.vcpu->run(), RunResult::kInterrupted);
  std::atomic<int> returned{0};
  std::thread runner([&] {
    for (int i = 0; i < 200; ++i) {
      ASSERT_EQ(guest.vcpu->run(), RunResult::kInterrupted);
      returned.fetch_add(1);
      returned.notify_all();
    }
  });
  for (int i = 0; i < 200; ++i) {
    guest.vcpu->kick();
    returned.wait(i);
    ASSERT_EQ(returned.load(), i + 1);  // one kick, one return
  }
  runner.join();
  guest.vcpu->kick();  // nobody runs: harmless
}

TEST_F(Kvm, KickFromAThreadThatBlocksAllSignals) {
  const uint8_t code[] = {0xeb, 0xfe};
  Guest guest(code);
  std::thread runner([&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    EXPECT_EQ(guest.vcpu->run(), RunResult::kInterrupted);
  });
  while (!guest.vcpu->running()) std::this_thread::yield();
  guest.vcpu->kick();
  runner.join();
}

TEST_F(Kvm, IrqchipPitEventfds) {
  auto vm = System::open()->create_vm();
  EXPECT_EQ(code_of([&] { vm->get_irqchip(0); }), "ENXIO");
  vm->create_irqchip();
  EXPECT_EQ(code_of([&] { vm->create_irqchip(); }), "EEXIST");
  vm->set_irqchip(vm->get_irqchip(KVM_IRQCHIP_IOAPIC));
  EXPECT_EQ(code_of([&] { vm->get_irqchip(9); }), "EINVAL");
  vm->create_pit2();
  vm->set_pit2(vm->get_pit2());
  vm->reinject_control(false);
  auto vcpu = vm->create_vcpu(0);
  vcpu->set_lapic(vcpu->get_lapic());
  vm->irq_line(4, true);
  vm->irq_line_status(4, false);
  Fd event(::eventfd(0, EFD_CLOEXEC));
  vm->assign_irqfd(event.get(), 5);
  EXPECT_EQ(code_of([&] { vm->assign_irqfd(event.get(), 5); }), "EBUSY");
  vm->deassign_irqfd(event.get(), 5);
  EXPECT_EQ(code_of([&] { vm->assign_irqfd(-1, 5); }), "EBADF");
  IoEvent io{.address = 0x40, .length = 1, .pio = true, .fd = event.get(), .datamatch = 3};
  vm->assign_ioeventfd(io);
  EXPECT_EQ(code_of([&] { vm->assign_ioeventfd(io); }), "EEXIST");
  vm->deassign_ioeventfd(io);
  EXPECT_EQ(code_of([&] { vm->deassign_ioeventfd(io); }), "ENOENT");
  kvm_irq_routing_entry route{};
  route.gsi = 5;
  route.type = KVM_IRQ_ROUTING_IRQCHIP;
  route.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
  route.u.irqchip.pin = 5;
  vm->set_gsi_routing(std::span(&route, 1));
  kvm_clock_data clock = vm->get_clock();
  clock.flags = 0;
  vm->set_clock(clock);
}

TEST_F(Kvm, StatsHoldTogether) {
  const uint8_t code[] = {0xe6, 0x10, 0xf4};
  Guest guest(code);
  if (!guest.vm->check_extension(KVM_CAP_BINARY_STATS_FD))
    GTEST_SKIP() << "this host has no KVM_CAP_BINARY_STATS_FD";
  guest.vcpu->run();
  Stats stats = guest.vcpu->stats();
  EXPECT_FALSE(stats.id().empty());
  bool found = false;
  for (const Stat& stat : stats.read())
    if (stat.name == "exits") found = stat.values.size() == 1 && stat.values[0] > 0;
  EXPECT_TRUE(found);
  EXPECT_FALSE(guest.vm->stats().read().empty());
}

TEST_F(Kvm, ThousandCyclesLeaveNoDescriptor) {
  const uint8_t code[] = {0xf4};
  { Guest first(code); }
  int before = open_descriptors();
  for (int i = 0; i < 200; ++i) {
    Guest guest(code);
    guest.vcpu->run();
  }
  EXPECT_EQ(open_descriptors(), before);
}

// The pages are written at CPL 0, far fewer than the ring holds: an emulating host can overrun a full ring.
TEST_F(Kvm, DirtyRingHasEachPageInOrder) {
  auto vm = System::open()->create_vm();
  if (vm->check_extension(KVM_CAP_DIRTY_LOG_RING) == 0)
    GTEST_SKIP() << "this host has no KVM_CAP_DIRTY_LOG_RING";
  vm->enable_cap(KVM_CAP_DIRTY_LOG_RING, 4096 * sizeof(kvm_dirty_gfn));
  auto ram = memory(64 * 1024);
  const uint8_t code[] = {0xa2, 0x00, 0x50, 0xa2, 0x00, 0x30, 0xf4};  // mov [0x5000],al; mov [0x3000],al; hlt
  ram->write(0x1000, code);
  Slot all{.slot = 3, .guest_address = 0, .size = ram->size(), .offset = 0, .flags = 0, .memory = ram};
  vm->set_user_memory_region(all);
  auto vcpu = vm->create_vcpu(0);
  kvm_sregs sregs = vcpu->get_sregs();
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  vcpu->set_sregs(sregs);
  kvm_regs regs{};
  regs.rip = 0x1000;
  regs.rflags = 2;
  vcpu->set_regs(regs);
  // Once unwatched: a page that KVM maps while the log is on, for reading too, may count as written.
  ASSERT_EQ(vcpu->run(), RunResult::kExit);
  all.flags = KVM_MEM_LOG_DIRTY_PAGES;
  vm->set_user_memory_region(all);
  vcpu->set_regs(regs);
  ASSERT_EQ(vcpu->run(), RunResult::kExit);
  DirtyRing ring(vcpu);
  EXPECT_EQ(ring.capacity(), 4096u);
  std::vector<std::pair<uint32_t, uint64_t>> pages;
  ring.harvest([&](uint32_t slot, uint64_t offset) { pages.emplace_back(slot, offset); });
  ASSERT_EQ(pages.size(), 2u);
  EXPECT_EQ(pages[0], std::make_pair(3u, uint64_t{5}));
  EXPECT_EQ(pages[1], std::make_pair(3u, uint64_t{3}));
  EXPECT_EQ(vm->reset_dirty_rings(), 2u);
  EXPECT_EQ(ring.harvest([](uint32_t, uint64_t) {}), 0u);
}

TEST_F(Kvm, NoRingIsAnError) {
  const uint8_t code[] = {0xf4};
  Guest guest(code);
  EXPECT_EQ(code_of([&] { DirtyRing ring(guest.vcpu); }), "ENORING");
}

TEST(KvmExitHandlers, AnswerWithinTheirRangeOnly) {
  ExitHandlers handlers;
  using Space = ExitHandler::Space;
  auto constant = handlers.add({.space = Space::kPort,
                                .address = 0x20,
                                .length = 4,
                                .action = ExitHandler::Action::kConstant,
                                .value = 0x1234});
  auto bytes = handlers.add(
      {.space = Space::kMmio, .address = 0x1000, .length = 8, .action = ExitHandler::Action::kRam});
  EXPECT_EQ(code_of([&] { handlers.add({.space = Space::kPort, .address = 0x23, .length = 1}); }),
            "EOVERLAP");
  EXPECT_EQ(code_of([&] { handlers.add({.space = Space::kPort, .address = 0, .length = 0}); }), "ERANGE");
  EXPECT_EQ(code_of([&] { handlers.add({.space = Space::kPort, .address = 0xffff, .length = 2}); }),
            "ERANGE");
  EXPECT_EQ(code_of([&] { handlers.add({.space = Space::kMmio, .address = ~0ull, .length = 2}); }), "ERANGE");
  EXPECT_EQ(handlers.find(Space::kPort, 0x20, 4), constant.get());
  EXPECT_EQ(handlers.find(Space::kPort, 0x21, 4), nullptr);
  EXPECT_EQ(handlers.find(Space::kPort, 0x1f, 1), nullptr);
  EXPECT_EQ(handlers.find(Space::kMmio, 0x1001, 8), nullptr);
  EXPECT_EQ(handlers.find(Space::kMmio, ~0ull, 8), nullptr);
  uint8_t data[8] = {1, 2, 3, 4};
  bytes->access(0x1004, true, data, 4);
  uint8_t back[4];
  bytes->read_ram(4, back);
  EXPECT_EQ(std::memcmp(back, data, 4), 0);
  constant->access(0x20, false, data, 2);
  EXPECT_EQ(data[0] | data[1] << 8, 0x1234);
  handlers.remove(constant);
  EXPECT_EQ(handlers.find(Space::kPort, 0x20, 1), nullptr);
}

TEST_F(Kvm, RunnerAnswersAndHandsOver) {
  const uint8_t code[] = {0xe4, 0x20, 0xe6, 0x21,
                          0xf4, 0xe4, 0x22, 0xf4};  // in 0x20; out 0x21; hlt; in 0x22; hlt
  Guest guest(code);
  auto handlers = std::make_shared<ExitHandlers>();
  handlers->add({.address = 0x20, .action = ExitHandler::Action::kConstant, .value = 9});
  VcpuRunner runner(guest.vcpu, handlers);
  ASSERT_EQ(runner.run(), RunResult::kExit);
  kvm_run* page = guest.vcpu->run_page();
  EXPECT_EQ(page->io.port, 0x21);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(page)[page->io.data_offset], 9);
  const uint8_t answer[] = {5, 6};
  EXPECT_EQ(code_of([&] { runner.respond(std::span(answer, 1)); }), "ENOINPUT");
  runner.set_hlt_policy(VcpuRunner::HltPolicy::kResume);
  ASSERT_EQ(runner.run(), RunResult::kExit);
  EXPECT_EQ(page->io.port, 0x22);
  EXPECT_EQ(code_of([&] { runner.respond(answer); }), "ERANGE");
  runner.respond(std::span(answer, 1));
  runner.set_hlt_policy(VcpuRunner::HltPolicy::kExit);
  ASSERT_EQ(runner.run(), RunResult::kExit);
  EXPECT_EQ(page->exit_reason, uint32_t{KVM_EXIT_HLT});
  EXPECT_EQ(guest.vcpu->get_regs().rax & 0xff, 5u);
  EXPECT_EQ(runner.handled(), 2u);
  EXPECT_EQ(code_of([&] { runner.refuse_msr(); }), "ENOINPUT");
}

TEST_F(Kvm, RunnerClosesWhileTheGuestRuns) {
  const uint8_t code[] = {0xeb, 0xfe};
  for (int i = 0; i < 50; ++i) {
    Guest guest(code);
    VcpuRunner runner(guest.vcpu, std::make_shared<ExitHandlers>());
    std::atomic<bool> ended{false};
    runner.thread().post([&] {
      EXPECT_EQ(runner.run(), RunResult::kInterrupted);
      ended = true;
    });
    if (i % 2)
      while (!guest.vcpu->running()) std::this_thread::yield();
    runner.close();
    runner.close();
    EXPECT_TRUE(ended || i % 2 == 0);
  }
}

// Kicks from two threads against a vCPU whose every run exits by itself: no kick is lost, none outlives its
// run.
TEST_F(Kvm, KicksRaceWithExits) {
  const uint8_t code[] = {0xe6, 0x10, 0xeb, 0xfc};  // out 0x10, al; jmp back
  Guest guest(code);
  std::atomic<int> interrupted{0}, kicking{2};
  std::vector<std::thread> kickers;
  for (int i = 0; i < 2; ++i)
    kickers.emplace_back([&] {
      for (int kick = 0; kick < 200; ++kick) {
        int before = interrupted;
        guest.vcpu->kick();
        while (interrupted == before) std::this_thread::yield();  // hangs when a kick is lost
      }
      --kicking;
    });
  while (kicking > 0)
    if (guest.vcpu->run() == RunResult::kInterrupted) ++interrupted;
  for (auto& kicker : kickers) kicker.join();
  guest.vcpu->run();  // consumes what was left
  for (int i = 0; i < 20; ++i) EXPECT_EQ(guest.vcpu->run(), RunResult::kExit);
}

}  // namespace
}  // namespace hypertwin::kvm
