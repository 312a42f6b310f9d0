// The ioctls of a vCPU, and the kick that ends KVM_RUN from another thread. x86-64.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/hex.h"
#include "kvm/device.h"
#include "kvm/flexible.h"
#include "kvm/ioctl.h"
#include "kvm/kvm.h"
#include "kvm/stats.h"

namespace hypertwin::kvm {
namespace {

constexpr size_t kFirstTable = 128;
constexpr size_t kMaxTable = 16384;

// Takes the highest real-time signal that nobody uses. The handler restarts other calls (SA_RESTART):
// KVM_RUN returns EINTR regardless, and a late kick does not disturb a read or a write.
int install_kick_signal() {
  for (int number = SIGRTMAX; number > SIGRTMIN; --number) {
    struct sigaction current {};
    if (::sigaction(number, nullptr, &current) != 0 || (current.sa_flags & SA_SIGINFO) ||
        current.sa_handler != SIG_DFL)
      continue;
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (::sigaction(number, &action, nullptr) == 0) return number;
  }
  throw Error("ENOSIGNAL",
              "every real-time signal of this process is in use, none is left to stop a vCPU with");
}

// The calling thread's id, with the kick's signal let through once per thread.
int prepared_tid() {
  thread_local const int tid = [] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    return static_cast<int>(::syscall(SYS_gettid));
  }();
  return tid;
}

std::vector<kvm_cpuid_entry2> read_cpuid(int fd, unsigned long request, const char* name,
                                         std::string_view attempted) {
  for (size_t count = kFirstTable;; count *= 2) {
    Flexible<kvm_cpuid2, kvm_cpuid_entry2> table(count);
    table.header()->nent = static_cast<uint32_t>(count);
    if (try_ioctl(fd, request, table.header()) >= 0) return table.take(table.header()->nent);
    if (errno != E2BIG || count >= kMaxTable) throw_errno(name, attempted);
  }
}

template <typename T>
T get(int fd, unsigned long request, const char* name, std::string_view attempted) {
  T value{};
  do_ioctl(fd, request, name, &value, attempted);
  return value;
}

}  // namespace

int kick_signal() {
  static const int number = install_kick_signal();
  return number;
}

Vcpu::Vcpu(Fd fd, std::shared_ptr<Vm> vm, uint32_t id) : fd_(std::move(fd)), vm_(std::move(vm)), id_(id) {
  size_t size = vm_->system()->vcpu_mmap_size();
  if (size < sizeof(kvm_run)) throw Error("EPROTO", "KVM's run page is smaller than struct kvm_run");
  run_mapping_ = Mapping::map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0, "a vCPU's run page");
  if (uint32_t ring = vm_->dirty_ring_bytes())
    ring_mapping_ = Mapping::map(ring, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(),
                                 KVM_DIRTY_LOG_PAGE_OFFSET * ::sysconf(_SC_PAGESIZE), "a vCPU's dirty ring");
}

Vcpu::~Vcpu() = default;

kvm_run* Vcpu::run_page() const { return reinterpret_cast<kvm_run*>(run_mapping_.data()); }

RunResult Vcpu::run() {
  running_tid_.store(prepared_tid(), std::memory_order_seq_cst);
  // A kick that came before has set immediate_exit: KVM_RUN then completes pending I/O and returns EINTR.
  int result = ::ioctl(fd_.get(), KVM_RUN, 0);
  int err = errno;
  running_tid_.store(0, std::memory_order_seq_cst);
  if (kicked_.load(std::memory_order_seq_cst)) {
    // Waits for the kicker's signal to have been sent; consumes the kick if it ended this run.
    std::lock_guard lock(kick_mutex_);
    if (result < 0 && err == EINTR) {
      __atomic_store_n(&run_page()->immediate_exit, uint8_t{0}, __ATOMIC_RELAXED);
      kicked_.store(false, std::memory_order_relaxed);
    }
  }
  if (result >= 0) return RunResult::kExit;
  if (err == EINTR) return RunResult::kInterrupted;
  if (err == EAGAIN) return RunResult::kAgain;
  throw Error::system(err, "KVM_RUN", "running vCPU " + std::to_string(id_));
}

void Vcpu::kick() {
  std::lock_guard lock(kick_mutex_);
  kicked_.store(true, std::memory_order_seq_cst);
  __atomic_store_n(&run_page()->immediate_exit, uint8_t{1}, __ATOMIC_RELAXED);
  if (int tid = running_tid_.load(std::memory_order_seq_cst))
    ::syscall(SYS_tgkill, ::getpid(), tid, kick_signal());
}

RunResult Vcpu::complete_io() {
  {
    std::lock_guard lock(kick_mutex_);
    __atomic_store_n(&run_page()->immediate_exit, uint8_t{1}, __ATOMIC_RELAXED);
  }
  int result = ::ioctl(fd_.get(), KVM_RUN, 0);
  int err = errno;
  {
    std::lock_guard lock(kick_mutex_);
    __atomic_store_n(&run_page()->immediate_exit, uint8_t{kicked_.load(std::memory_order_relaxed)},
                     __ATOMIC_RELAXED);
  }
  if (result >= 0) return RunResult::kExit;
  if (err == EINTR || err == EAGAIN) return RunResult::kInterrupted;
  throw Error::system(err, "KVM_RUN", "completing an access of vCPU " + std::to_string(id_));
}

kvm_regs Vcpu::get_regs() const { return get<kvm_regs>(fd(), HT_KVM(KVM_GET_REGS), "reading registers"); }
void Vcpu::set_regs(const kvm_regs& regs) {
  do_ioctl(fd(), HT_KVM(KVM_SET_REGS), &regs, "setting registers");
}

kvm_sregs Vcpu::get_sregs() const {
  return get<kvm_sregs>(fd(), HT_KVM(KVM_GET_SREGS), "reading special registers");
}
void Vcpu::set_sregs(const kvm_sregs& sregs) {
  do_ioctl(fd(), HT_KVM(KVM_SET_SREGS), &sregs,
           "setting special registers (EINVAL: CR0, CR4, EFER and CS contradict each other)");
}

kvm_sregs2 Vcpu::get_sregs2() const {
  return get<kvm_sregs2>(fd(), HT_KVM(KVM_GET_SREGS2), "reading special registers with PDPTRs");
}
void Vcpu::set_sregs2(const kvm_sregs2& sregs) {
  do_ioctl(fd(), HT_KVM(KVM_SET_SREGS2), &sregs, "setting special registers with PDPTRs");
}

kvm_fpu Vcpu::get_fpu() const { return get<kvm_fpu>(fd(), HT_KVM(KVM_GET_FPU), "reading the FPU"); }
void Vcpu::set_fpu(const kvm_fpu& fpu) { do_ioctl(fd(), HT_KVM(KVM_SET_FPU), &fpu, "setting the FPU"); }

namespace {
size_t xsave_size(const Vm& vm) {
  int size = vm.check_extension(KVM_CAP_XSAVE2);
  return size > static_cast<int>(sizeof(kvm_xsave)) ? static_cast<size_t>(size) : sizeof(kvm_xsave);
}
}  // namespace

std::vector<uint8_t> Vcpu::get_xsave() const {
  size_t size = xsave_size(*vm_);
  std::vector<uint8_t> bytes(size);
  if (size > sizeof(kvm_xsave))
    do_ioctl(fd(), HT_KVM(KVM_GET_XSAVE2), bytes.data(), "reading the extended state");
  else
    do_ioctl(fd(), HT_KVM(KVM_GET_XSAVE), bytes.data(), "reading the extended state");
  return bytes;
}

void Vcpu::set_xsave(std::span<const uint8_t> xsave) {
  size_t size = xsave_size(*vm_);
  if (xsave.size() < sizeof(kvm_xsave) || xsave.size() > size)
    throw Error("ERANGE", "an extended state of " + std::to_string(xsave.size()) +
                              " bytes: this host takes " + std::to_string(sizeof(kvm_xsave)) + " to " +
                              std::to_string(size));
  std::vector<uint8_t> bytes(size);
  std::memcpy(bytes.data(), xsave.data(), xsave.size());
  do_ioctl(fd(), HT_KVM(KVM_SET_XSAVE), bytes.data(), "setting the extended state");
}

kvm_xcrs Vcpu::get_xcrs() const { return get<kvm_xcrs>(fd(), HT_KVM(KVM_GET_XCRS), "reading XCR0"); }
void Vcpu::set_xcrs(const kvm_xcrs& xcrs) {
  do_ioctl(fd(), HT_KVM(KVM_SET_XCRS), &xcrs, "setting XCR0 (EINVAL: features that CPUID does not offer)");
}

std::vector<kvm_msr_entry> Vcpu::get_msrs(std::span<const uint32_t> indices) const {
  Flexible<kvm_msrs, kvm_msr_entry> table(indices.size());
  table.header()->nmsrs = static_cast<uint32_t>(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) table.entries()[i].index = indices[i];
  int got = do_ioctl(fd(), HT_KVM(KVM_GET_MSRS), table.header(),
                     "reading " + std::to_string(indices.size()) + " MSRs");
  if (static_cast<size_t>(got) < indices.size())
    throw Error("EMSR",
                "KVM_GET_MSRS: KVM does not let MSR " + hex(indices[static_cast<size_t>(got)]) + " be read");
  return table.take(static_cast<size_t>(got));
}

void Vcpu::set_msrs(std::span<const kvm_msr_entry> msrs) {
  Flexible<kvm_msrs, kvm_msr_entry> table(msrs);
  table.header()->nmsrs = static_cast<uint32_t>(msrs.size());
  int set = do_ioctl(fd(), HT_KVM(KVM_SET_MSRS), table.header(),
                     "setting " + std::to_string(msrs.size()) + " MSRs");
  if (static_cast<size_t>(set) < msrs.size())
    throw Error("EMSR", "KVM_SET_MSRS: KVM refused to set MSR " + hex(msrs[static_cast<size_t>(set)].index) +
                            " to " + hex(msrs[static_cast<size_t>(set)].data) + "; those before it are set");
}

void Vcpu::set_cpuid2(std::span<const kvm_cpuid_entry2> entries) {
  Flexible<kvm_cpuid2, kvm_cpuid_entry2> table(entries);
  table.header()->nent = static_cast<uint32_t>(entries.size());
  do_ioctl(fd(), HT_KVM(KVM_SET_CPUID2), table.header(),
           "setting " + std::to_string(entries.size()) + " CPUID entries (before the vCPU's first run)");
}

std::vector<kvm_cpuid_entry2> Vcpu::get_cpuid2() const {
  return read_cpuid(fd(), HT_KVM(KVM_GET_CPUID2), "reading the vCPU's CPUID table");
}

std::vector<kvm_cpuid_entry2> Vcpu::supported_hv_cpuid() const {
  return read_cpuid(fd(), HT_KVM(KVM_GET_SUPPORTED_HV_CPUID), "reading the vCPU's Hyper-V CPUID table");
}

kvm_vcpu_events Vcpu::get_vcpu_events() const {
  return get<kvm_vcpu_events>(fd(), HT_KVM(KVM_GET_VCPU_EVENTS), "reading pending events");
}
void Vcpu::set_vcpu_events(const kvm_vcpu_events& events) {
  do_ioctl(fd(), HT_KVM(KVM_SET_VCPU_EVENTS), &events, "setting pending events");
}

kvm_debugregs Vcpu::get_debugregs() const {
  return get<kvm_debugregs>(fd(), HT_KVM(KVM_GET_DEBUGREGS), "reading debug registers");
}
void Vcpu::set_debugregs(const kvm_debugregs& regs) {
  do_ioctl(fd(), HT_KVM(KVM_SET_DEBUGREGS), &regs, "setting debug registers");
}

kvm_mp_state Vcpu::get_mp_state() const {
  return get<kvm_mp_state>(fd(), HT_KVM(KVM_GET_MP_STATE), "reading the multiprocessing state");
}
void Vcpu::set_mp_state(const kvm_mp_state& state) {
  do_ioctl(fd(), HT_KVM(KVM_SET_MP_STATE), &state,
           "setting the multiprocessing state to " + std::to_string(state.mp_state) +
               " (without the in-kernel irqchip only 0, runnable)");
}

kvm_lapic_state Vcpu::get_lapic() const {
  return get<kvm_lapic_state>(fd(), HT_KVM(KVM_GET_LAPIC),
                              "reading the local APIC (needs the in-kernel irqchip)");
}
void Vcpu::set_lapic(const kvm_lapic_state& state) {
  do_ioctl(fd(), HT_KVM(KVM_SET_LAPIC), &state, "setting the local APIC (needs the in-kernel irqchip)");
}

uint32_t Vcpu::get_tsc_khz() const {
  return static_cast<uint32_t>(
      do_ioctl(fd(), HT_KVM(KVM_GET_TSC_KHZ), 0, "reading the vCPU's TSC frequency"));
}
void Vcpu::set_tsc_khz(uint32_t khz) {
  do_ioctl(fd(), HT_KVM(KVM_SET_TSC_KHZ), static_cast<unsigned long>(khz),
           "setting the vCPU's TSC frequency to " + std::to_string(khz) + " kHz");
}

void Vcpu::interrupt(uint32_t vector) {
  kvm_interrupt data{vector};
  do_ioctl(fd(), HT_KVM(KVM_INTERRUPT), &data,
           "queueing interrupt vector " + std::to_string(vector) +
               " (0 to 255, not with an in-kernel irqchip; EEXIST: one is already queued)");
}
void Vcpu::nmi() { do_ioctl(fd(), HT_KVM(KVM_NMI), 0, "queueing an NMI"); }
void Vcpu::smi() { do_ioctl(fd(), HT_KVM(KVM_SMI), 0, "queueing an SMI (KVM_CAP_X86_SMM)"); }

void Vcpu::set_guest_debug(const kvm_guest_debug& debug) {
  do_ioctl(fd(), HT_KVM(KVM_SET_GUEST_DEBUG), &debug, "setting up guest debugging");
}

void Vcpu::enable_cap(uint32_t cap, uint64_t arg0, uint64_t arg1) {
  kvm_enable_cap enable{};
  enable.cap = cap;
  enable.args[0] = arg0;
  enable.args[1] = arg1;
  do_ioctl(fd(), HT_KVM(KVM_ENABLE_CAP), &enable,
           "enabling capability " + std::to_string(cap) + " of the vCPU with argument " + hex(arg0));
}

std::vector<uint8_t> Vcpu::get_nested_state() const {
  int size = vm_->check_extension(KVM_CAP_NESTED_STATE);
  if (size < static_cast<int>(sizeof(kvm_nested_state)))
    throw Error::system(ENOTTY, "KVM_GET_NESTED_STATE",
                        "reading nested state, which this host does not offer");
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  auto* state = reinterpret_cast<kvm_nested_state*>(bytes.data());
  state->size = static_cast<uint32_t>(size);
  do_ioctl(fd(), HT_KVM(KVM_GET_NESTED_STATE), state, "reading nested state");
  if (state->size < bytes.size()) bytes.resize(state->size);
  return bytes;
}

void Vcpu::set_nested_state(std::span<const uint8_t> state) {
  kvm_nested_state header;
  if (state.size() < sizeof header)
    throw Error("ERANGE",
                "a nested state of " + std::to_string(state.size()) + " bytes is shorter than its header");
  std::memcpy(&header, state.data(), sizeof header);
  if (header.size > state.size())
    throw Error("ERANGE", "a nested state that says " + std::to_string(header.size) + " bytes has only " +
                              std::to_string(state.size()));
  Flexible<kvm_nested_state, uint8_t> copy(state.size() - sizeof header);
  std::memcpy(copy.header(), state.data(), state.size());
  do_ioctl(fd(), HT_KVM(KVM_SET_NESTED_STATE), copy.header(), "setting nested state");
}

namespace {
void check_reg_size(uint64_t id) {
  if ((id & KVM_REG_SIZE_MASK) > KVM_REG_SIZE_U64)
    throw Error("ERANGE", "register " + hex(id) + " is wider than 64 bits");
}
}  // namespace

uint64_t Vcpu::get_one_reg(uint64_t id) const {
  check_reg_size(id);
  uint64_t value = 0;
  kvm_one_reg reg{id, reinterpret_cast<uint64_t>(&value)};
  do_ioctl(fd(), HT_KVM(KVM_GET_ONE_REG), &reg, "reading register " + hex(id));
  return value;
}

void Vcpu::set_one_reg(uint64_t id, uint64_t value) {
  check_reg_size(id);
  kvm_one_reg reg{id, reinterpret_cast<uint64_t>(&value)};
  do_ioctl(fd(), HT_KVM(KVM_SET_ONE_REG), &reg, "setting register " + hex(id));
}

std::vector<uint64_t> Vcpu::get_reg_list() const {
  for (size_t count = kFirstTable;; count *= 2) {
    Flexible<kvm_reg_list, uint64_t> table(count);
    table.header()->n = count;
    if (try_ioctl(fd(), KVM_GET_REG_LIST, table.header()) >= 0) return table.take(table.header()->n);
    if (errno != E2BIG || count >= kMaxTable) throw_errno("KVM_GET_REG_LIST", "listing registers");
  }
}

kvm_translation Vcpu::translate(uint64_t linear_address) const {
  kvm_translation data{};
  data.linear_address = linear_address;
  do_ioctl(fd(), HT_KVM(KVM_TRANSLATE), &data, "translating " + hex(linear_address));
  return data;
}

void Vcpu::set_signal_mask(std::optional<uint64_t> mask) {
  if (!mask) {
    do_ioctl(fd(), HT_KVM(KVM_SET_SIGNAL_MASK), nullptr, "taking the signal mask away");
    return;
  }
  // The kernel's sigset_t is 8 bytes on x86-64.
  uint64_t bits = *mask & ~(uint64_t{1} << (kick_signal() - 1));
  Flexible<kvm_signal_mask, uint8_t> data(sizeof bits);
  data.header()->len = sizeof bits;
  std::memcpy(data.entries().data(), &bits, sizeof bits);
  do_ioctl(fd(), HT_KVM(KVM_SET_SIGNAL_MASK), data.header(), "setting the signals blocked inside KVM_RUN");
}

void Vcpu::setup_mce(uint64_t mcg_cap) {
  do_ioctl(fd(), HT_KVM(KVM_X86_SETUP_MCE), &mcg_cap, "setting up machine checks with " + hex(mcg_cap));
}
void Vcpu::set_mce(const kvm_x86_mce& mce) {
  do_ioctl(fd(), HT_KVM(KVM_X86_SET_MCE), &mce, "injecting a machine check (set it up first)");
}
void Vcpu::kvmclock_ctrl() {
  do_ioctl(fd(), HT_KVM(KVM_KVMCLOCK_CTRL), 0,
           "telling the guest that it was paused (EINVAL: it does not use kvmclock)");
}
kvm_tpr_access_ctl Vcpu::tpr_access_reporting(const kvm_tpr_access_ctl& ctl) {
  kvm_tpr_access_ctl data = ctl;
  do_ioctl(fd(), HT_KVM(KVM_TPR_ACCESS_REPORTING), &data, "choosing exits on TPR accesses");
  return data;
}
void Vcpu::set_vapic_addr(uint64_t address) {
  kvm_vapic_addr data{address};
  do_ioctl(fd(), HT_KVM(KVM_SET_VAPIC_ADDR), &data, "placing the virtual APIC page at " + hex(address));
}

Stats Vcpu::stats() const {
  return Stats(Fd(do_ioctl(fd(), HT_KVM(KVM_GET_STATS_FD), 0, "opening the vCPU's statistics")));
}

bool Vcpu::has_attr(uint32_t group, uint64_t attr) const { return has_device_attr(fd(), group, attr); }
uint64_t Vcpu::get_attr(uint32_t group, uint64_t attr) const {
  uint64_t value = 0;
  get_device_attr(fd(), group, attr, &value);
  return value;
}
void Vcpu::set_attr(uint32_t group, uint64_t attr, uint64_t value) {
  set_device_attr(fd(), group, attr, &value);
}

size_t Vcpu::drain_coalesced(const std::function<void(const kvm_coalesced_mmio&)>& each) {
  size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t offset = KVM_COALESCED_MMIO_PAGE_OFFSET * page;
  if (run_mapping_.size() < offset + page) return 0;
  auto* ring = reinterpret_cast<kvm_coalesced_mmio_ring*>(run_mapping_.data() + offset);
  const uint32_t max =
      static_cast<uint32_t>((page - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio));
  size_t drained = 0;
  uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_RELAXED) % max;
  while (first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) % max) {
    each(ring->coalesced_mmio[first]);
    first = (first + 1) % max;
    __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
    ++drained;
  }
  return drained;
}

}  // namespace hypertwin::kvm
