// Typed wrappers of /dev/kvm, ioctl by ioctl. They add checks that give a clear error and own what they
// open; they hold no policy: no device, no thread, no machine.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"

namespace hypertwin::kvm {

class Vm;
class Vcpu;

// Host memory that backs guest memory. Shared: a VM keeps what its slots use alive.
class GuestMemory {
 public:
  enum class Backing { kAnonymous, kMemfd };
  struct Options {
    Backing backing = Backing::kAnonymous;
    // 0, or the huge page size in bytes (2 MiB, 1 GiB).
    uint64_t huge_page_size = 0;
    // memfd name, for /proc/<pid>/maps.
    std::string name = "hypertwin";
  };
  // `size` in bytes, a multiple of the page size.
  static std::shared_ptr<GuestMemory> allocate(uint64_t size, const Options& options);
  // Maps an existing descriptor's bytes (a memfd of another process, a snapshot): shared, or private copy on write.
  static std::shared_ptr<GuestMemory> from_fd(Fd fd, uint64_t offset, uint64_t size, bool private_copy);

  uint8_t* data() const { return mapping_.data(); }
  uint64_t size() const { return mapping_.size(); }
  // -1 for anonymous memory.
  int fd() const { return fd_.get(); }
  // Bounds-checked copies; throw Error("ERANGE").
  void read(uint64_t offset, std::span<uint8_t> into) const;
  void write(uint64_t offset, std::span<const uint8_t> from);

 private:
  GuestMemory(Mapping mapping, Fd fd) : mapping_(std::move(mapping)), fd_(std::move(fd)) {}
  Mapping mapping_;
  Fd fd_;
};

// /dev/kvm.
class System {
 public:
  static std::shared_ptr<System> open(const std::string& path = "/dev/kvm");
  int api_version() const;                   // KVM_GET_API_VERSION
  int check_extension(uint32_t cap) const;   // KVM_CHECK_EXTENSION
  size_t vcpu_mmap_size() const;             // KVM_GET_VCPU_MMAP_SIZE
  std::vector<kvm_cpuid_entry2> supported_cpuid() const;  // KVM_GET_SUPPORTED_CPUID
  std::vector<kvm_cpuid_entry2> emulated_cpuid() const;   // KVM_GET_EMULATED_CPUID
  std::vector<uint32_t> msr_index_list() const;           // KVM_GET_MSR_INDEX_LIST
  std::vector<uint32_t> msr_feature_index_list() const;   // KVM_GET_MSR_FEATURE_INDEX_LIST
  std::vector<kvm_msr_entry> get_msrs(std::span<const uint32_t> indices) const;  // KVM_GET_MSRS (features)
  std::shared_ptr<Vm> create_vm(uint64_t type = 0);       // KVM_CREATE_VM
  int fd() const { return fd_.get(); }

 private:
  explicit System(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

struct Slot {
  uint32_t slot = 0;
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t offset = 0;  // in `memory`
  uint32_t flags = 0;   // KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY
  std::shared_ptr<GuestMemory> memory;
};

// A virtual machine's descriptor. All calls may come from any thread.
class Vm : public std::enable_shared_from_this<Vm> {
 public:
  Vm(Fd fd, std::shared_ptr<System> system);
  int check_extension(uint32_t cap) const;
  // KVM_SET_USER_MEMORY_REGION. size 0 deletes the slot. Throws EBADSLOT, EOVERLAP, EALIGN, ERANGE before
  // the kernel is asked, naming the slot that is in the way.
  void set_user_memory_region(const Slot& slot);
  std::vector<Slot> slots() const;
  std::optional<Slot> slot(uint32_t slot) const;
  std::shared_ptr<Vcpu> create_vcpu(uint32_t id);  // KVM_CREATE_VCPU

  // KVM_GET_DIRTY_LOG into `bitmap` (one bit a page, 64-bit words, rounded up).
  void get_dirty_log(uint32_t slot, std::span<uint64_t> bitmap) const;
  // KVM_CLEAR_DIRTY_LOG; first_page a multiple of 64.
  void clear_dirty_log(uint32_t slot, uint64_t first_page, uint32_t num_pages,
                       std::span<const uint64_t> bitmap) const;
  uint64_t reset_dirty_rings() const;  // KVM_RESET_DIRTY_RINGS: pages reset
  void enable_cap(uint32_t cap, uint64_t arg0 = 0, uint64_t arg1 = 0, uint64_t arg2 = 0, uint64_t arg3 = 0,
                  uint32_t flags = 0);  // KVM_ENABLE_CAP
  // Size in bytes of each vCPU's dirty ring, 0 when off.
  uint32_t dirty_ring_bytes() const { return dirty_ring_bytes_; }

  int fd() const { return fd_.get(); }
  const std::shared_ptr<System>& system() const { return system_; }

 private:
  Fd fd_;
  std::shared_ptr<System> system_;
  mutable std::mutex mutex_;  // guards slots_
  std::map<uint32_t, Slot> slots_;
  std::atomic<uint32_t> dirty_ring_bytes_{0};
};

// What KVM_RUN came back with.
enum class RunResult {
  kExit,         // kvm_run::exit_reason says why
  kInterrupted,  // EINTR: kicked, a signal, or immediate_exit
  kAgain,        // EAGAIN: not runnable yet (an AP before INIT/SIPI)
};

// A virtual CPU. run() and the state calls belong on one thread at a time; kick() may come from any thread.
class Vcpu {
 public:
  Vcpu(Fd fd, std::shared_ptr<Vm> vm, uint32_t id);
  ~Vcpu();

  // KVM_RUN once. Other errors than EINTR and EAGAIN throw.
  RunResult run();
  // Makes the current or the next run() return kInterrupted soon. Sticky until a run() consumed it.
  void kick();
  // Completes a pending port-I/O or MMIO exit without running the guest (immediate_exit and KVM_RUN), so
  // that the registers are whole. Harmless when nothing is pending.
  void complete_io();
  // The shared page; valid as long as the vCPU.
  kvm_run* run_page() const;
  size_t run_page_size() const { return run_mapping_.size(); }

  kvm_regs get_regs() const;
  void set_regs(const kvm_regs& regs);
  kvm_sregs get_sregs() const;
  void set_sregs(const kvm_sregs& sregs);
  kvm_fpu get_fpu() const;
  void set_fpu(const kvm_fpu& fpu);
  std::vector<uint8_t> get_xsave() const;  // KVM_GET_XSAVE2 where offered, else KVM_GET_XSAVE (4096 bytes)
  void set_xsave(std::span<const uint8_t> xsave);
  kvm_xcrs get_xcrs() const;
  void set_xcrs(const kvm_xcrs& xcrs);
  // Returns as many entries as the kernel read; throws naming the first MSR it refused.
  std::vector<kvm_msr_entry> get_msrs(std::span<const uint32_t> indices) const;
  void set_msrs(std::span<const kvm_msr_entry> msrs);
  void set_cpuid2(std::span<const kvm_cpuid_entry2> entries);
  std::vector<kvm_cpuid_entry2> get_cpuid2() const;
  kvm_vcpu_events get_vcpu_events() const;
  void set_vcpu_events(const kvm_vcpu_events& events);
  kvm_debugregs get_debugregs() const;
  void set_debugregs(const kvm_debugregs& regs);
  kvm_mp_state get_mp_state() const;
  void set_mp_state(const kvm_mp_state& state);
  kvm_lapic_state get_lapic() const;
  void set_lapic(const kvm_lapic_state& state);
  uint32_t get_tsc_khz() const;
  void set_tsc_khz(uint32_t khz);
  void interrupt(uint32_t vector);  // KVM_INTERRUPT
  void nmi();                       // KVM_NMI
  void set_guest_debug(const kvm_guest_debug& debug);
  void enable_cap(uint32_t cap, uint64_t arg0 = 0, uint64_t arg1 = 0);

  int fd() const { return fd_.get(); }
  uint32_t id() const { return id_; }
  const std::shared_ptr<Vm>& vm() const { return vm_; }

 private:
  Fd fd_;
  std::shared_ptr<Vm> vm_;
  uint32_t id_ = 0;
  Mapping run_mapping_;
  std::atomic<bool> kicked_{false};
};

}  // namespace hypertwin::kvm
