#include "machine/quirks.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "machine/guest_debug.h"

namespace hypertwin::machine {

namespace {

constexpr uint64_t kCode = 0x1000;
// Often enough: a window that is found by chance is missed in nearly all of them.
constexpr int kWindowTries = 14;
constexpr uint64_t kPage = 4096;

// A VM with one page of real-mode code, and a page for each try that KVM has not mapped yet.
class TinyVm {
 public:
  TinyVm(const std::shared_ptr<kvm::System>& system, std::span<const uint8_t> code) {
    auto vm = system->create_vm();
    auto memory = kvm::GuestMemory::allocate((1 + kWindowTries) * kPage, {});
    memory->write(0, code);
    vm->set_user_memory_region({.slot = 0, .guest_address = kCode, .size = memory->size(), .memory = memory});
    vcpu_ = vm->create_vcpu(0);
    auto sregs = vcpu_->get_sregs();
    for (kvm_segment* segment : {&sregs.cs, &sregs.ss, &sregs.ds}) segment->base = segment->selector = 0;
    vcpu_->set_sregs(sregs);
    restart();
  }
  void restart() {
    kvm_regs regs{};
    regs.rip = kCode;
    regs.rsp = kCode + kPage - 16;
    regs.rbx = fresh_ += kPage;
    regs.rflags = 2;
    vcpu_->set_regs(regs);
  }
  // The exit's reason.
  uint32_t run() {
    for (int tries = 0; tries < 100; ++tries)
      if (vcpu_->run() == kvm::RunResult::kExit) return vcpu_->run_page()->exit_reason;
    throw Error("KVM_UNUSABLE", "this host's KVM does not get on with a tiny guest (see hypertwin doctor)");
  }
  kvm::Vcpu& vcpu() { return *vcpu_; }

 private:
  std::shared_ptr<kvm::Vcpu> vcpu_;
  uint64_t fresh_ = kCode - kPage;  // the first start is the constructor's
};

bool probe_rip_past(const std::shared_ptr<kvm::System>& system) {
  const uint8_t code[] = {0xe6, 0x80, 0xf4};  // out 0x80, al; hlt
  TinyVm vm(system, code);
  if (vm.run() != KVM_EXIT_IO)
    throw Error("KVM_UNUSABLE", "this host's KVM did not run a two-instruction guest (see hypertwin doctor)");
  return vm.vcpu().get_regs().rip != kCode;
}

// The window is open for one instruction only: whoever does not look there misses it. And it stays closed
// behind STI when KVM has to interrupt the guest there, for a page (or, seldom, for the host's own
// interrupt): a processor whose emulation forgets that then opens it too early, by chance.
bool probe_exact_window(const std::shared_ptr<kvm::System>& system) {
  const uint8_t after_sti[] = {0xfb, 0x90, 0xfa, 0xf4};          // sti; nop; cli; hlt
  const uint8_t after_fault[] = {0xfb, 0x88, 0x07, 0xfa, 0xf4};  // sti; mov [bx], al; cli; hlt
  const uint8_t after_iret[] = {
      0x68, 0x02, 0x02,  // push 0x202 (IF)
      0x6a, 0x00,        // push cs
      0x68, 0x09, 0x10,  // push 0x1009
      0xcf,              // iret
      0xfa, 0xf4,        // 0x1009: cli; hlt
  };
  struct Case {
    std::span<const uint8_t> code;
    uint64_t window;  // where it opens
  };
  for (const Case& c :
       {Case{after_sti, kCode + 2}, Case{after_fault, kCode + 3}, Case{after_iret, kCode + 9}}) {
    TinyVm vm(system, c.code);
    for (int tries = 0; tries < kWindowTries; ++tries) {
      vm.restart();
      vm.vcpu().run_page()->request_interrupt_window = 1;
      if (vm.run() != KVM_EXIT_IRQ_WINDOW_OPEN || vm.vcpu().get_regs().rip != c.window) return false;
    }
  }
  return true;
}

}  // namespace

bool breakpoints_exit(const std::shared_ptr<kvm::System>& system) {
  static std::mutex mutex;
  static std::optional<bool> known;
  std::lock_guard lock(mutex);
  if (known) return *known;
  constexpr uint16_t kVectors = 0x10;  // in the code's page
  // int3; hlt, where vector 3 points, too
  std::vector<uint8_t> code(kVectors + 4 * 4);
  code[0] = 0xcc;
  code[1] = 0xf4;
  const uint8_t handler[] = {kCode & 0xff, kCode >> 8, 0, 0};
  std::copy(std::begin(handler), std::end(handler), code.begin() + kVectors + 4 * 3);
  code[kVectors + 4 * 3] += 1;
  TinyVm vm(system, code);
  auto sregs = vm.vcpu().get_sregs();
  sregs.idt.base = kCode + kVectors;
  vm.vcpu().set_sregs(sregs);
  set_debugged(vm.vcpu(), true);
  known = vm.run() == KVM_EXIT_DEBUG;
  return *known;
}

std::string Quirks::text() const {
  return std::string("rip-at-pio=") + (rip_past_port_io ? "past" : "at") +
         " irq-window=" + (exact_irq_window ? "exact" : "unused");
}

Quirks kvm_quirks(const std::shared_ptr<kvm::System>& system) {
  static std::mutex mutex;
  static std::optional<Quirks> known;
  std::lock_guard lock(mutex);
  if (!known) known = Quirks{probe_rip_past(system), probe_exact_window(system)};
  return *known;
}

}  // namespace hypertwin::machine
