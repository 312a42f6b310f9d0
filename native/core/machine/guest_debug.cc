#include "machine/guest_debug.h"

#include <cinttypes>
#include <cstdio>

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

std::string describe_stop(const kvm::Vcpu& vcpu) {
  char text[64];
  std::snprintf(text, sizeof(text), "vCPU %u at 0x%" PRIx64, vcpu.id(), uint64_t{vcpu.get_regs().rip});
  return text;
}

StepLimit::StepLimit(kvm::Vcpu& vcpu, std::chrono::milliseconds patience) {
  thread_ = std::thread([this, &vcpu, patience] {
    std::unique_lock lock(mutex_);
    if (over_.wait_for(lock, patience, [this] { return done_; })) return;
    passed_ = true;
    do vcpu.kick();
    while (!over_.wait_for(lock, std::chrono::milliseconds(1), [this] { return done_; }));
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

bool StepLimit::passed() {
  std::lock_guard lock(mutex_);
  return passed_;
}

}  // namespace hypertwin::machine
