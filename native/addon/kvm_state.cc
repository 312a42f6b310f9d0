#include "kvm_state.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"

namespace hypertwin::addon {

std::shared_ptr<kvm::VcpuRunner> VcpuState::open_runner() const {
  if (auto open = runner()) return open;
  throw Error("CLOSED", "the vCPU is closed");
}

void VcpuState::shutdown() {
  std::shared_ptr<kvm::VcpuRunner> runner;
  {
    std::lock_guard lock(mutex_);
    runner = std::move(runner_);
    runner_ = nullptr;
  }
  if (runner) runner->close();
  std::lock_guard lock(ring_mutex_);
  ring_ = nullptr;
}

std::vector<kvm_dirty_gfn> VcpuState::harvest() {
  std::lock_guard lock(ring_mutex_);
  auto runner = open_runner();
  if (!ring_) {
    std::shared_ptr<const kvm::Vcpu> vcpu(runner, &runner->vcpu());
    ring_ = std::make_unique<kvm::DirtyRing>(std::move(vcpu));
  }
  std::vector<kvm_dirty_gfn> pages;
  ring_->harvest([&](uint32_t slot, uint64_t offset) { pages.push_back({0, slot, offset}); });
  return pages;
}

std::shared_ptr<kvm::Vm> VmState::open_vm() const {
  std::lock_guard lock(mutex_);
  if (!vm_) throw Error("CLOSED", "the VM is closed");
  return vm_;
}

void VmState::shutdown() {
  thread_.stop();
  std::shared_ptr<kvm::Vm> vm;
  std::vector<std::weak_ptr<VcpuState>> vcpus;
  {
    std::lock_guard lock(mutex_);
    vm = std::move(vm_);
    vm_ = nullptr;
    vcpus.swap(vcpus_);
  }
  for (auto& weak : vcpus)
    if (auto vcpu = weak.lock()) vcpu->shutdown();
  if (vm) devices_.clear();
}

std::shared_ptr<VcpuState> VmState::create_vcpu(uint32_t id) {
  auto state =
      std::make_shared<VcpuState>(std::make_shared<kvm::VcpuRunner>(open_vm()->create_vcpu(id), handlers_));
  std::lock_guard lock(mutex_);
  std::erase_if(vcpus_, [](const auto& weak) { return weak.expired(); });
  vcpus_.push_back(state);
  return state;
}

std::vector<std::shared_ptr<VcpuState>> VmState::vcpus() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<VcpuState>> open;
  for (const auto& weak : vcpus_)
    if (auto vcpu = weak.lock()) open.push_back(std::move(vcpu));
  return open;
}

EventState::EventState()
    : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!event_ || !stop_) throw_errno("eventfd", "creating an event");
}

uint64_t EventState::take() {
  uint64_t count = 0;
  if (::read(event_.get(), &count, sizeof count) == sizeof count) return count;
  if (errno != EAGAIN) throw_errno("read", "taking an event's count");
  return 0;
}

void EventState::signal(uint64_t count) {
  if (::write(event_.get(), &count, sizeof count) != sizeof count)
    throw_errno("write", "signalling an event");
}

uint64_t EventState::wait() {
  pollfd polled[2] = {{event_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (!closing_.load()) {
    if (::poll(polled, 2, -1) < 0 && errno != EINTR) throw_errno("poll", "waiting for an event");
    if (uint64_t count = take()) return count;
    uint64_t stops = 0;
    if (!closing_.load() && polled[1].revents && ::read(stop_.get(), &stops, sizeof stops) == sizeof stops)
      return 0;
  }
  return 0;
}

void EventState::cancel() {
  uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof one) != sizeof one)
    throw_errno("write", "ending a wait for an event");
}

base::Executor& EventState::thread() {
  if (!thread_) thread_ = std::make_unique<base::Executor>("ht-event");
  return *thread_;
}

void EventState::shutdown() {
  if (!thread_) return;
  closing_.store(true);
  cancel();
  thread_->stop();
}

void KvmEnv::add(const std::shared_ptr<EventState>& event) {
  std::erase_if(events_, [](const auto& weak) { return weak.expired(); });
  events_.push_back(event);
}

void KvmEnv::add(const std::shared_ptr<VmState>& vm) {
  std::erase_if(vms_, [](const auto& weak) { return weak.expired(); });
  vms_.push_back(vm);
}

void KvmEnv::teardown() {
  system_.stop();
  for (auto& weak : vms_)
    if (auto vm = weak.lock()) vm->shutdown();
  vms_.clear();
  for (auto& weak : events_)
    if (auto event = weak.lock()) event->shutdown();
  closer_.stop();
}

}  // namespace hypertwin::addon
