// Runs one vCPU on a native thread of its own (`ht-vcpu<id>`) and answers its exits from an ExitHandlers
// table; an exit that nothing answers ends the run and is the caller's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/executor.h"
#include "kvm/exit_handlers.h"
#include "kvm/kvm.h"

namespace hypertwin::kvm {

class VcpuRunner {
 public:
  enum class HltPolicy {
    kExit,    // HLT ends the run
    kResume,  // HLT is counted and the guest goes on behind it
  };

  VcpuRunner(std::shared_ptr<Vcpu> vcpu, std::shared_ptr<const ExitHandlers> handlers);
  // As close(). Not on the runner's own thread.
  ~VcpuRunner();
  VcpuRunner(const VcpuRunner&) = delete;
  VcpuRunner& operator=(const VcpuRunner&) = delete;

  // The vCPU's thread: everything done with the vCPU, but kick(), is a task of it.
  base::Executor& thread() { return thread_; }
  Vcpu& vcpu() { return *vcpu_; }

  // On the vCPU's thread: runs until an exit that nothing answers, a kick or close(). kExit: run_page() says
  // why. Throws what Vcpu::run throws.
  RunResult run();
  // Puts the answer to the exit that run() ended with into the run page: the bytes of a port read or MMIO
  // read (exactly as many), or the 64-bit result of a hypercall or MSR read. The next run() or complete_io()
  // delivers it. Throws Error("ENOINPUT") when the exit takes none, ERANGE on another length.
  void respond(std::span<const uint8_t> data);
  // Refuses an MSR access: the guest gets #GP.
  void refuse_msr();

  void kick() { vcpu_->kick(); }
  void set_hlt_policy(HltPolicy policy) { hlt_policy_.store(policy, std::memory_order_relaxed); }
  // Exits that the table or the HLT policy answered; any thread.
  uint64_t handled() const { return handled_.load(std::memory_order_relaxed); }
  // Ends a run in progress, drops what waits, joins the thread. Any thread but its own; twice is fine.
  void close();

 private:
  // Whether the exit was answered.
  bool handle(kvm_run* run);
  bool handle_port(kvm_run* run);
  bool handle_mmio(kvm_run* run);

  std::shared_ptr<Vcpu> vcpu_;
  std::shared_ptr<const ExitHandlers> handlers_;
  std::atomic<HltPolicy> hlt_policy_{HltPolicy::kExit};
  std::atomic<uint64_t> handled_{0};
  std::atomic<bool> closing_{false};
  bool exit_pending_ = false;  // the vCPU's thread only: the run page holds an exit that the caller owns
  base::Executor thread_;      // last: its thread ends before what it uses
};

}  // namespace hypertwin::kvm
