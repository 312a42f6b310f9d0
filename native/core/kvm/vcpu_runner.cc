// The loop of a vCPU whose exits are answered by a table.
#include "kvm/vcpu_runner.h"

#include <cstring>
#include <string>

#include "base/error.h"

namespace hypertwin::kvm {

VcpuRunner::VcpuRunner(std::shared_ptr<Vcpu> vcpu, std::shared_ptr<const ExitHandlers> handlers)
    : vcpu_(std::move(vcpu)),
      handlers_(std::move(handlers)),
      thread_("ht-vcpu" + std::to_string(vcpu_->id())) {}

VcpuRunner::~VcpuRunner() { close(); }

void VcpuRunner::close() {
  closing_.store(true);
  // The flag comes first: a run that starts later sees it, a run in progress is ended by the kick.
  vcpu_->kick();
  thread_.stop();
}

RunResult VcpuRunner::run() {
  exit_pending_ = false;
  kvm_run* page = vcpu_->run_page();
  while (!closing_.load(std::memory_order_relaxed)) {
    RunResult result = vcpu_->run();
    if (result != RunResult::kExit) return result;
    if (!handle(page)) {
      exit_pending_ = true;
      return result;
    }
    handled_.store(handled_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  return RunResult::kInterrupted;
}

bool VcpuRunner::handle(kvm_run* run) {
  switch (run->exit_reason) {
    case KVM_EXIT_IO:
      return handle_port(run);
    case KVM_EXIT_MMIO:
      return handle_mmio(run);
    case KVM_EXIT_HLT:
      return hlt_policy_.load(std::memory_order_relaxed) == HltPolicy::kResume;
    case KVM_EXIT_DIRTY_RING_FULL:
      return vcpu_->vm()->handle_ring_full();
    default:
      return false;
  }
}

bool VcpuRunner::handle_port(kvm_run* run) {
  uint64_t bytes = uint64_t{run->io.size} * run->io.count;
  if (run->io.data_offset > vcpu_->run_page_size() || bytes > vcpu_->run_page_size() - run->io.data_offset)
    return false;
  ExitHandler* handler = handlers_->find(ExitHandler::Space::kPort, run->io.port, run->io.size);
  if (!handler) return false;
  uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
  for (uint32_t i = 0; i < run->io.count; ++i, data += run->io.size)
    handler->access(run->io.port, run->io.direction == KVM_EXIT_IO_OUT, data, run->io.size);
  return true;
}

bool VcpuRunner::handle_mmio(kvm_run* run) {
  if (run->mmio.len > sizeof run->mmio.data) return false;
  ExitHandler* handler = handlers_->find(ExitHandler::Space::kMmio, run->mmio.phys_addr, run->mmio.len);
  if (!handler) return false;
  handler->access(run->mmio.phys_addr, run->mmio.is_write, run->mmio.data, run->mmio.len);
  return true;
}

void VcpuRunner::respond(std::span<const uint8_t> data) {
  kvm_run* run = vcpu_->run_page();
  auto put = [&](void* into, uint64_t size) {
    if (data.size() != size)
      throw Error("ERANGE",
                  "the exit takes " + std::to_string(size) + " bytes, not " + std::to_string(data.size()));
    std::memcpy(into, data.data(), size);
  };
  if (exit_pending_) switch (run->exit_reason) {
      case KVM_EXIT_IO: {
        uint64_t bytes = uint64_t{run->io.size} * run->io.count;
        if (run->io.direction != KVM_EXIT_IO_IN || run->io.data_offset > vcpu_->run_page_size() ||
            bytes > vcpu_->run_page_size() - run->io.data_offset)
          break;
        return put(reinterpret_cast<uint8_t*>(run) + run->io.data_offset, bytes);
      }
      case KVM_EXIT_MMIO:
        if (run->mmio.is_write || run->mmio.len > sizeof run->mmio.data) break;
        return put(run->mmio.data, run->mmio.len);
      case KVM_EXIT_X86_RDMSR:
        run->msr.error = 0;
        return put(&run->msr.data, sizeof run->msr.data);
      case KVM_EXIT_HYPERCALL:
        return put(&run->hypercall.ret, sizeof run->hypercall.ret);
      case KVM_EXIT_XEN:
        return put(&run->xen.u.hcall.result, sizeof run->xen.u.hcall.result);
      case KVM_EXIT_HYPERV:
        if (run->hyperv.type != KVM_EXIT_HYPERV_HCALL) break;
        return put(&run->hyperv.u.hcall.result, sizeof run->hyperv.u.hcall.result);
      default:
        break;
    }
  throw Error("ENOINPUT",
              "the vCPU's last exit takes no answer: only port reads, MMIO reads, MSR reads and "
              "hypercalls do, until the next run");
}

void VcpuRunner::refuse_msr() {
  kvm_run* run = vcpu_->run_page();
  if (!exit_pending_ || (run->exit_reason != KVM_EXIT_X86_RDMSR && run->exit_reason != KVM_EXIT_X86_WRMSR))
    throw Error("ENOINPUT", "the vCPU's last exit is no MSR access");
  run->msr.error = 1;
}

}  // namespace hypertwin::kvm
