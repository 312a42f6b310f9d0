// What the KVM handles of one environment own, and the one way each of it is closed: by close(), by the
// garbage collector or by the environment's end, whichever comes first.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/executor.h"
#include "base/fd.h"
#include "kvm/device.h"
#include "kvm/dirty_ring.h"
#include "kvm/exit_handlers.h"
#include "kvm/kvm.h"
#include "kvm/vcpu_runner.h"

namespace hypertwin::addon {

// A vCPU with its thread. `runner()` is null once closed.
class VcpuState {
 public:
  explicit VcpuState(std::shared_ptr<kvm::VcpuRunner> runner) : runner_(std::move(runner)) {}
  ~VcpuState() { shutdown(); }
  std::shared_ptr<kvm::VcpuRunner> runner() const {
    std::lock_guard lock(mutex_);
    return runner_;
  }
  // Throws Error("CLOSED").
  std::shared_ptr<kvm::VcpuRunner> open_runner() const;
  // Kicks, joins, drops. Not on the vCPU's thread.
  void shutdown();
  std::vector<kvm_dirty_gfn> harvest();

 private:
  mutable std::mutex mutex_;  // guards the pointers
  std::shared_ptr<kvm::VcpuRunner> runner_;
  std::mutex ring_mutex_;  // guards ring_ and its reading
  std::unique_ptr<kvm::DirtyRing> ring_;
};

// A VM with its thread `ht-vm`, its vCPUs and devices.
class VmState {
 public:
  explicit VmState(std::shared_ptr<kvm::Vm> vm) : vm_(std::move(vm)) {}
  ~VmState() { shutdown(); }
  // Throws Error("CLOSED").
  std::shared_ptr<kvm::Vm> open_vm() const;
  // Stops the VM's thread, closes its vCPUs and devices, drops the VM. Not on the VM's thread.
  void shutdown();
  base::Executor& thread() { return thread_; }
  const std::shared_ptr<kvm::ExitHandlers>& handlers() const { return handlers_; }
  // On the VM's thread.
  std::shared_ptr<VcpuState> create_vcpu(uint32_t id);
  std::vector<std::shared_ptr<VcpuState>> vcpus() const;
  std::map<uint32_t, kvm::Device>& devices() { return devices_; }

 private:
  mutable std::mutex mutex_;  // guards vm_ and vcpus_
  std::shared_ptr<kvm::Vm> vm_;
  std::vector<std::weak_ptr<VcpuState>> vcpus_;
  std::shared_ptr<kvm::ExitHandlers> handlers_ = std::make_shared<kvm::ExitHandlers>();
  std::map<uint32_t, kvm::Device> devices_;  // the VM's thread only
  base::Executor thread_{"ht-vm"};
};

// An eventfd, and a thread to wait on it that exists from the first wait on. JavaScript thread, but wait().
class EventState {
 public:
  EventState();
  ~EventState() { shutdown(); }
  int fd() const { return event_.get(); }
  // The count since the last take; 0 when there is none.
  uint64_t take();
  void signal(uint64_t count);
  // On thread(): waits until there is a count and takes it; 0 when cancelled.
  uint64_t wait();
  // Ends one wait.
  void cancel();
  base::Executor& thread();
  void shutdown();

 private:
  Fd event_, stop_;
  std::atomic<bool> closing_{false};
  std::unique_ptr<base::Executor> thread_;
};

// An environment's own: the thread of system calls, the thread that closes, and every VM that may be open.
class KvmEnv {
 public:
  base::Executor& system() { return system_; }
  // Runs what may join other threads.
  base::Executor& closer() { return closer_; }
  void add(const std::shared_ptr<VmState>& vm);
  void add(const std::shared_ptr<EventState>& event);
  // Closes everything that is open; the threads too.
  void teardown();

 private:
  base::Executor system_{"ht-kvm"};
  base::Executor closer_{"ht-kvm-close"};
  // The JavaScript thread only.
  std::vector<std::weak_ptr<VmState>> vms_;
  std::vector<std::weak_ptr<EventState>> events_;
};

}  // namespace hypertwin::addon
