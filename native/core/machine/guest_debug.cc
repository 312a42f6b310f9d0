#include "machine/guest_debug.h"

#include <cinttypes>
#include <cstdio>
#include <optional>

namespace hypertwin::machine {

namespace {
// Newer than some headers; a kernel without it refuses the whole call.
constexpr uint32_t kBlockInterrupts = 0x00100000;
}  // namespace

void set_guest_debug(kvm::Vcpu& vcpu, Debugging how) {
  kvm_guest_debug debug{};
  if (how != Debugging::kOff) debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
  if (how == Debugging::kStep) {
    debug.control |= KVM_GUESTDBG_SINGLESTEP;
    // So that the step does not end in a handler.
    const int offered = vcpu.vm()->check_extension(KVM_CAP_SET_GUEST_DEBUG2);
    if (offered & static_cast<int>(kBlockInterrupts)) debug.control |= kBlockInterrupts;
  }
  vcpu.set_guest_debug(debug);
}

bool breakpoints_exit(const std::shared_ptr<kvm::System>& system) {
  static std::mutex mutex;
  static std::optional<bool> known;
  std::lock_guard lock(mutex);
  if (known) return *known;
  // Real mode: int3, and hlt where its vector points, too.
  constexpr uint64_t kCode = 0x1000;
  const uint8_t code[] = {0xcc, 0xf4};
  auto vm = system->create_vm();
  auto memory = kvm::GuestMemory::allocate(2 * kCode, {});
  const uint8_t vector[] = {0x01, 0x10, 0x00, 0x00};  // 0000:1001
  memory->write(4 * 3, vector);
  memory->write(kCode, code);
  vm->set_user_memory_region({.slot = 0, .size = memory->size(), .memory = memory});
  auto vcpu = vm->create_vcpu(0);
  auto sregs = vcpu->get_sregs();
  for (kvm_segment* segment : {&sregs.cs, &sregs.ss, &sregs.ds}) segment->base = segment->selector = 0;
  vcpu->set_sregs(sregs);
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rsp = kCode;
  regs.rflags = 2;
  vcpu->set_regs(regs);
  set_guest_debug(*vcpu, Debugging::kOn);
  StepLimit limit(*vcpu);
  while (vcpu->run() != kvm::RunResult::kExit)
    if (limit.passed()) break;
  known = vcpu->run_page()->exit_reason == KVM_EXIT_DEBUG;
  return *known;
}

std::string describe_stop(const kvm::Vcpu& vcpu) {
  char text[64];
  std::snprintf(text, sizeof(text), "vCPU %u at 0x%" PRIx64, vcpu.id(), uint64_t{vcpu.get_regs().rip});
  return text;
}

StepLimit::StepLimit(kvm::Vcpu& vcpu) {
  thread_ = std::thread([this, &vcpu] {
    constexpr auto kMoment = std::chrono::milliseconds(200);
    std::unique_lock lock(mutex_);
    for (uint64_t seen = step_;;) {
      if (over_.wait_for(lock, kMoment, [this] { return done_; })) return;
      const uint64_t now = step_;
      while (now == seen && now == step_) {
        passed_ = now;
        vcpu.kick();
        if (over_.wait_for(lock, std::chrono::milliseconds(1), [this] { return done_; })) return;
      }
      seen = now;
    }
  });
}

StepLimit::~StepLimit() {
  {
    std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_all();
  thread_.join();
}

}  // namespace hypertwin::machine
