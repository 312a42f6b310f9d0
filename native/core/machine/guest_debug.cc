#include "machine/guest_debug.h"

#include "base/error.h"
#include "base/hex.h"

namespace hypertwin::machine {

namespace {
// Newer than some headers; a kernel without it refuses the whole call.
constexpr uint32_t kBlockInterrupts = 0x00100000;
}  // namespace

void set_debugged(kvm::Vcpu& vcpu, bool on) {
  kvm_guest_debug debug{};
  if (on) debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
  vcpu.set_guest_debug(debug);
}

void refuse_debugged(bool debugged, const char* verb) {
  if (debugged)
    throw Error("BAD_STATE",
                std::string("cannot ") + verb +
                    " a machine that is debugged, for its breakpoints are in the guest's memory: "
                    "close the debugger first");
}

std::string describe_stop(const kvm::Vcpu& vcpu) {
  return "vCPU " + std::to_string(vcpu.id()) + " at " + hex(vcpu.get_regs().rip);
}

Stepper::Stepper(kvm::Vcpu& vcpu) : vcpu_(vcpu) {
  // Without software breakpoints: an int3 of the guest's own is executed.
  step_debug_.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  // So that the step does not end in a handler.
  const int offered = vcpu.vm()->check_extension(KVM_CAP_SET_GUEST_DEBUG2);
  if (offered & static_cast<int>(kBlockInterrupts)) step_debug_.control |= kBlockInterrupts;
  thread_ = std::thread([this] {
    constexpr auto kMoment = std::chrono::milliseconds(200);
    std::unique_lock lock(mutex_);
    for (uint64_t seen = step_;;) {
      if (over_.wait_for(lock, kMoment, [this] { return done_; })) return;
      const uint64_t now = step_;
      while (now == seen && now == step_) {
        passed_ = now;
        vcpu_.kick();
        if (over_.wait_for(lock, std::chrono::milliseconds(1), [this] { return done_; })) return;
      }
      seen = now;
    }
  });
}

void Stepper::begin() {
  before_ = vcpu_.get_regs();
  vcpu_.set_guest_debug(step_debug_);
  step_.fetch_add(1, std::memory_order_relaxed);
}

void Stepper::take_back() { vcpu_.set_regs(before_); }

Stepper::~Stepper() {
  {
    std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_all();
  thread_.join();
}

}  // namespace hypertwin::machine
