// Typed wrappers of /dev/kvm, ioctl by ioctl. They add checks that give a clear error and own what they
// open; they hold no policy: no device, no thread, no machine.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bus_guard.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "kvm/linux_kvm.h"

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
    // Anonymous memory in the kernel's transparent huge pages, where it has some at hand.
    bool transparent_huge_pages = false;
    // memfd name, for /proc/<pid>/maps.
    std::string name = "hypertwin";
  };
  // `size` in bytes, a multiple of the page size.
  static std::shared_ptr<GuestMemory> allocate(uint64_t size, const Options& options);
  // Maps an existing descriptor's bytes (a memfd of another process, a snapshot): shared, or private copy on
  // write. Bytes that the file loses afterwards read as zeros; guard() tells.
  static std::shared_ptr<GuestMemory> from_fd(Fd fd, uint64_t offset, uint64_t size, bool private_copy);

  uint8_t* data() const { return mapping_.data(); }
  uint64_t size() const { return mapping_.size(); }
  // -1 for anonymous memory.
  int fd() const { return fd_.get(); }
  // Of from_fd(): whether the file lost bytes under it. nullptr where nothing can be lost.
  const BusGuard* guard() const { return guard_.get(); }
  // Bounds-checked copies; throw Error("ERANGE").
  void read(uint64_t offset, std::span<uint8_t> into) const;
  void write(uint64_t offset, std::span<const uint8_t> from);

 private:
  GuestMemory(Mapping mapping, Fd fd) : mapping_(std::move(mapping)), fd_(std::move(fd)) {}
  Mapping mapping_;
  Fd fd_;
  std::unique_ptr<BusGuard> guard_;
};

// /dev/kvm.
class System : public std::enable_shared_from_this<System> {
 public:
  static std::shared_ptr<System> open(const std::string& path = "/dev/kvm");
  int api_version() const;                                // KVM_GET_API_VERSION
  int check_extension(uint32_t cap) const;                // KVM_CHECK_EXTENSION
  size_t vcpu_mmap_size() const;                          // KVM_GET_VCPU_MMAP_SIZE
  std::vector<kvm_cpuid_entry2> supported_cpuid() const;  // KVM_GET_SUPPORTED_CPUID
  std::vector<kvm_cpuid_entry2> emulated_cpuid() const;   // KVM_GET_EMULATED_CPUID
  std::vector<uint32_t> msr_index_list() const;           // KVM_GET_MSR_INDEX_LIST
  std::vector<uint32_t> msr_feature_index_list() const;   // KVM_GET_MSR_FEATURE_INDEX_LIST
  std::vector<kvm_msr_entry> get_msrs(std::span<const uint32_t> indices) const;  // KVM_GET_MSRS (features)
  std::vector<kvm_cpuid_entry2> supported_hv_cpuid() const;                      // KVM_GET_SUPPORTED_HV_CPUID
  uint64_t mce_cap_supported() const;  // KVM_X86_GET_MCE_CAP_SUPPORTED
  // KVM_HAS/GET_DEVICE_ATTR on the system descriptor (KVM_CAP_SYS_ATTRIBUTES).
  bool has_attr(uint32_t group, uint64_t attr) const;
  uint64_t get_attr(uint32_t group, uint64_t attr) const;
  std::shared_ptr<Vm> create_vm(uint64_t type = 0);  // KVM_CREATE_VM
  int fd() const { return fd_.get(); }

 private:
  explicit System(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

class Device;
class Stats;

// KVM_X86_SET_MSR_FILTER: a bit of `bitmap` that is 1 allows the access, 0 denies it.
struct MsrFilterRange {
  uint32_t flags = 0;  // KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE
  uint32_t base = 0;
  uint32_t count = 0;
  std::vector<uint8_t> bitmap;  // (count + 7) / 8 bytes
};

struct IoEvent {
  uint64_t address = 0;
  uint32_t length = 0;  // 0 (any, MMIO only), 1, 2, 4, 8
  bool pio = false;
  int fd = -1;
  std::optional<uint64_t> datamatch;
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
  // Who empties the dirty rings (dirty::Tracker); an empty function for nobody. It may be called once more
  // while it is being replaced.
  void set_ring_full_handler(std::function<void()> handler);
  // For a vCPU's loop at KVM_EXIT_DIRTY_RING_FULL, on its thread. False: nobody empties them.
  bool handle_ring_full() const;

  // Interrupts.
  void create_irqchip();                          // KVM_CREATE_IRQCHIP
  kvm_irqchip get_irqchip(uint32_t chip) const;   // KVM_GET_IRQCHIP
  void set_irqchip(const kvm_irqchip& chip);      // KVM_SET_IRQCHIP
  void create_pit2(uint32_t flags = 0);           // KVM_CREATE_PIT2
  kvm_pit_state2 get_pit2() const;                // KVM_GET_PIT2
  void set_pit2(const kvm_pit_state2& state);     // KVM_SET_PIT2
  void irq_line(uint32_t irq, bool level);        // KVM_IRQ_LINE
  int irq_line_status(uint32_t irq, bool level);  // KVM_IRQ_LINE_STATUS: <0 masked, 0 coalesced, >0 delivered
  int signal_msi(const kvm_msi& msi);             // KVM_SIGNAL_MSI: >0 delivered, 0 blocked by the guest
  void set_gsi_routing(std::span<const kvm_irq_routing_entry> entries);  // KVM_SET_GSI_ROUTING
  // KVM_IRQFD; resample_fd < 0 for none.
  void assign_irqfd(int fd, uint32_t gsi, int resample_fd = -1);
  void deassign_irqfd(int fd, uint32_t gsi);
  void assign_ioeventfd(const IoEvent& event);    // KVM_IOEVENTFD
  void deassign_ioeventfd(const IoEvent& event);  // KVM_IOEVENTFD with KVM_IOEVENTFD_FLAG_DEASSIGN
  void reinject_control(bool reinject);           // KVM_REINJECT_CONTROL
  void set_boot_cpu_id(uint32_t id);              // KVM_SET_BOOT_CPU_ID, before the first vCPU

  // Time.
  kvm_clock_data get_clock() const;             // KVM_GET_CLOCK
  void set_clock(const kvm_clock_data& clock);  // KVM_SET_CLOCK
  uint32_t get_tsc_khz() const;                 // KVM_GET_TSC_KHZ (KVM_CAP_VM_TSC_CONTROL)
  void set_tsc_khz(uint32_t khz);               // KVM_SET_TSC_KHZ, default of vCPUs created later

  // Memory.
  void set_tss_addr(uint64_t address);           // KVM_SET_TSS_ADDR: 3 pages below 4 GiB, in no slot
  void set_identity_map_addr(uint64_t address);  // KVM_SET_IDENTITY_MAP_ADDR, before the first vCPU
  void set_nr_mmu_pages(uint32_t pages);         // KVM_SET_NR_MMU_PAGES
  uint32_t get_nr_mmu_pages() const;             // KVM_GET_NR_MMU_PAGES
  void register_coalesced(uint64_t address, uint32_t size, bool pio);    // KVM_REGISTER_COALESCED_MMIO
  void unregister_coalesced(uint64_t address, uint32_t size, bool pio);  // KVM_UNREGISTER_COALESCED_MMIO
  void encrypt_op(void* arg);  // KVM_MEMORY_ENCRYPT_OP; ENOTTY where the CPU has none
  void encrypt_register(uint64_t address, uint64_t size);    // KVM_MEMORY_ENCRYPT_REG_REGION (host address)
  void encrypt_unregister(uint64_t address, uint64_t size);  // KVM_MEMORY_ENCRYPT_UNREG_REGION

  // x86 policy. An empty range list with default_deny = false takes the filter away.
  void set_msr_filter(bool default_deny, std::span<const MsrFilterRange> ranges);  // KVM_X86_SET_MSR_FILTER
  void set_pmu_event_filter(uint32_t action, std::span<const uint64_t> events,
                            uint32_t fixed_counter_bitmap = 0);     // KVM_SET_PMU_EVENT_FILTER
  void xen_hvm_config(const kvm_xen_hvm_config& config);            // KVM_XEN_HVM_CONFIG
  void hyperv_eventfd(uint32_t connection, int fd, bool deassign);  // KVM_HYPERV_EVENTFD

  Stats stats() const;                    // KVM_GET_STATS_FD
  Device create_device(uint32_t type);    // KVM_CREATE_DEVICE
  bool test_device(uint32_t type) const;  // KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST
  // KVM_HAS/GET/SET_DEVICE_ATTR on the VM descriptor (KVM_CAP_VM_ATTRIBUTES); values of 64 bits.
  bool has_attr(uint32_t group, uint64_t attr) const;
  uint64_t get_attr(uint32_t group, uint64_t attr) const;
  void set_attr(uint32_t group, uint64_t attr, uint64_t value);

  int fd() const { return fd_.get(); }
  const std::shared_ptr<System>& system() const { return system_; }

 private:
  Fd fd_;
  std::shared_ptr<System> system_;
  mutable std::mutex mutex_;  // guards slots_, the order of the calls that change them, ring_full_
  std::map<uint32_t, Slot> slots_;
  std::atomic<uint32_t> dirty_ring_bytes_{0};
  std::function<void()> ring_full_;
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
  // that the registers are whole. Harmless when nothing is pending. kInterrupted: whole; kExit: the access
  // has a further part (a wide MMIO access), serve that exit and call again.
  RunResult complete_io();
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
  void smi();                       // KVM_SMI
  void set_guest_debug(const kvm_guest_debug& debug);
  void enable_cap(uint32_t cap, uint64_t arg0 = 0, uint64_t arg1 = 0);
  kvm_sregs2 get_sregs2() const;             // KVM_GET_SREGS2 (KVM_CAP_SREGS2)
  void set_sregs2(const kvm_sregs2& sregs);  // KVM_SET_SREGS2
  // KVM_GET_NESTED_STATE / KVM_SET_NESTED_STATE (KVM_CAP_NESTED_STATE): opaque bytes.
  std::vector<uint8_t> get_nested_state() const;
  void set_nested_state(std::span<const uint8_t> state);
  uint64_t get_one_reg(uint64_t id) const;  // KVM_GET_ONE_REG (64-bit registers; ENOTTY on older x86 kernels)
  void set_one_reg(uint64_t id, uint64_t value);
  std::vector<uint64_t> get_reg_list() const;                // KVM_GET_REG_LIST
  kvm_translation translate(uint64_t linear_address) const;  // KVM_TRANSLATE
  // KVM_SET_SIGNAL_MASK: the signals blocked inside KVM_RUN (bit n - 1 for signal n); nullopt takes it away.
  // The kick's signal stays deliverable whatever the mask says.
  void set_signal_mask(std::optional<uint64_t> mask);
  void setup_mce(uint64_t mcg_cap);                                        // KVM_X86_SETUP_MCE
  void set_mce(const kvm_x86_mce& mce);                                    // KVM_X86_SET_MCE
  void kvmclock_ctrl();                                                    // KVM_KVMCLOCK_CTRL
  kvm_tpr_access_ctl tpr_access_reporting(const kvm_tpr_access_ctl& ctl);  // KVM_TPR_ACCESS_REPORTING
  void set_vapic_addr(uint64_t address);                                   // KVM_SET_VAPIC_ADDR
  std::vector<kvm_cpuid_entry2> supported_hv_cpuid() const;      // KVM_GET_SUPPORTED_HV_CPUID of this vCPU
  Stats stats() const;                                           // KVM_GET_STATS_FD
  bool has_attr(uint32_t group, uint64_t attr) const;            // KVM_HAS_DEVICE_ATTR on the vCPU
  uint64_t get_attr(uint32_t group, uint64_t attr) const;        // KVM_GET_DEVICE_ATTR
  void set_attr(uint32_t group, uint64_t attr, uint64_t value);  // KVM_SET_DEVICE_ATTR
  // Hands over and consumes what KVM gathered in the coalesced MMIO and port-I/O ring; how many. The ring is
  // the VM's: one caller at a time.
  size_t drain_coalesced(const std::function<void(const kvm_coalesced_mmio&)>& each);

  // Whether a thread is inside run().
  bool running() const { return running_tid_.load(std::memory_order_acquire) != 0; }
  // The mapped dirty ring; empty when the VM has none. Read it with kvm::DirtyRing.
  const Mapping& dirty_ring() const { return ring_mapping_; }
  // Where the ring's reader stands; kvm::DirtyRing's alone. The kernel never starts over, so neither does a
  // reader that comes after another.
  uint32_t& dirty_ring_next() const { return ring_next_; }

  int fd() const { return fd_.get(); }
  uint32_t id() const { return id_; }
  const std::shared_ptr<Vm>& vm() const { return vm_; }

 private:
  Fd fd_;
  std::shared_ptr<Vm> vm_;
  uint32_t id_ = 0;
  Mapping run_mapping_;
  Mapping ring_mapping_;
  mutable uint32_t ring_next_ = 0;
  // A kick is: kicked_, immediate_exit, then a signal to running_tid_, all under kick_mutex_. run() takes
  // the mutex only when it sees kicked_, so a signal never outlives the run() that it was meant for.
  std::mutex kick_mutex_;
  std::atomic<bool> kicked_{false};
  std::atomic<int> running_tid_{0};
};

// The process-wide real-time signal that kick() sends: the highest one whose disposition was the default
// when the first vCPU ran. Its handler does nothing.
int kick_signal();

}  // namespace hypertwin::kvm
