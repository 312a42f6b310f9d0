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
#include "kvm/stats.h"

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

}  // namespace
}  // namespace hypertwin::kvm
