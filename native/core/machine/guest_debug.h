// A vCPU under a debugger: what KVM is told, and a kick for an instruction that does not end.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "kvm/kvm.h"

namespace hypertwin::machine {

enum class Debugging { kOff, kOn, kStep };
void set_guest_debug(kvm::Vcpu& vcpu, Debugging how);
inline bool contains(std::span<const uint64_t> addresses, uint64_t address) {
  return std::find(addresses.begin(), addresses.end(), address) != addresses.end();
}
// Whether the guest's int3 comes out as KVM_EXIT_DEBUG; found out by doing, once a process.
bool breakpoints_exit(const std::shared_ptr<kvm::System>& system);
// "vCPU 1 at 0xffffffff81000000"
std::string describe_stop(const kvm::Vcpu& vcpu);

// Kicks the vCPU while one step lasts longer than a moment, until the next one begins or this goes.
class StepLimit {
 public:
  explicit StepLimit(kvm::Vcpu& vcpu);
  ~StepLimit();
  StepLimit(const StepLimit&) = delete;
  StepLimit& operator=(const StepLimit&) = delete;
  void begin() { step_.fetch_add(1, std::memory_order_relaxed); }
  // The step that began last has lasted too long.
  bool passed() const { return passed_.load() == step_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> step_{0};
  std::atomic<uint64_t> passed_{~uint64_t{0}};
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace hypertwin::machine
