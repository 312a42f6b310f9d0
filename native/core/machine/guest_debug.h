// A vCPU under a debugger: what KVM is told, and a kick for an instruction that does not end.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "kvm/kvm.h"

namespace hypertwin::machine {

enum class Debugging { kOff, kOn, kStep };
void set_guest_debug(kvm::Vcpu& vcpu, Debugging how);
// "vCPU 1 at 0xffffffff81000000"
std::string describe_stop(const kvm::Vcpu& vcpu);

// Kicks the vCPU again and again after `patience`, until it goes.
class StepLimit {
 public:
  explicit StepLimit(kvm::Vcpu& vcpu, std::chrono::milliseconds patience = std::chrono::milliseconds(200));
  ~StepLimit();
  StepLimit(const StepLimit&) = delete;
  StepLimit& operator=(const StepLimit&) = delete;
  bool passed();

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  bool passed_ = false;
  std::thread thread_;
};

}  // namespace hypertwin::machine
