#include "machine/quirks.h"

#include <mutex>

#include "base/error.h"

namespace hypertwin::machine {

namespace {

std::string probe(const std::shared_ptr<kvm::System>& system) {
  auto vm = system->create_vm();
  auto memory = kvm::GuestMemory::allocate(4096, {});
  constexpr uint64_t kCode = 0x1000;
  const uint8_t code[] = {0xe6, 0x80, 0xf4};  // out 0x80, al; hlt
  memory->write(0, code);
  vm->set_user_memory_region({.slot = 0, .guest_address = kCode, .size = 4096, .memory = memory});
  auto vcpu = vm->create_vcpu(0);
  auto sregs = vcpu->get_sregs();
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  vcpu->set_sregs(sregs);
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rflags = 2;
  vcpu->set_regs(regs);
  for (int tries = 0; tries < 100; ++tries) {
    if (vcpu->run() != kvm::RunResult::kExit) continue;
    if (vcpu->run_page()->exit_reason != KVM_EXIT_IO) break;
    return vcpu->get_regs().rip == kCode ? "rip-at-pio=at" : "rip-at-pio=past";
  }
  throw Error("KVM_UNUSABLE", "this host's KVM did not run a two-instruction guest (see hypertwin doctor)");
}

}  // namespace

std::string kvm_quirks(const std::shared_ptr<kvm::System>& system) {
  static std::mutex mutex;
  static std::string known;
  std::lock_guard lock(mutex);
  if (known.empty()) known = probe(system);
  return known;
}

}  // namespace hypertwin::machine
