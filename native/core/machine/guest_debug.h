// A vCPU under a debugger: what KVM is told, and a kick for an instruction that does not end.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "kvm/kvm.h"

namespace hypertwin::machine {

// Whether the guest's int3 comes out as KVM_EXIT_DEBUG, where KVM can do that (quirks.h).
void set_debugged(kvm::Vcpu& vcpu, bool on);
// Throws Error("BAD_STATE") while a machine is debugged: breakpoints are in its memory, and what is taken of
// it has no debugger.
void refuse_debugged(bool debugged, const char* verb);
inline bool contains(std::span<const uint64_t> addresses, uint64_t address) {
  return std::find(addresses.begin(), addresses.end(), address) != addresses.end();
}
// "vCPU 1 at 0xffffffff81000000"
std::string describe_stop(const kvm::Vcpu& vcpu);

// Steps of a vCPU: kicks it while one lasts longer than a moment, until the next one begins or this goes.
class Stepper {
 public:
  explicit Stepper(kvm::Vcpu& vcpu);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;
  // The next KVM_RUN executes one instruction. Each time: KVM steps from where it was told to.
  void begin();
  // After a step of memory that was lost meanwhile, where a KVM that emulates it went on with zeros.
  void take_back();
  // The step that began last has lasted too long.
  bool too_long() const { return passed_.load() == step_.load(std::memory_order_relaxed); }

 private:
  kvm::Vcpu& vcpu_;
  kvm_guest_debug step_debug_{};
  kvm_regs before_{};
  std::atomic<uint64_t> step_{0};
  std::atomic<uint64_t> passed_{~uint64_t{0}};
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace hypertwin::machine
