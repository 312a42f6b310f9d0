// The ioctls of /dev/kvm and of a VM. x86-64.
#include "kvm/kvm.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/hex.h"
#include "kvm/device.h"
#include "kvm/flexible.h"
#include "kvm/ioctl.h"
#include "kvm/stats.h"

namespace hypertwin::kvm {
namespace {

// A CPUID or MSR table of a size only the kernel knows: grows until it fits.
constexpr size_t kFirstTable = 128;
constexpr size_t kMaxTable = 16384;

std::vector<kvm_cpuid_entry2> read_cpuid(int fd, unsigned long request, const char* name,
                                         std::string_view attempted) {
  for (size_t count = kFirstTable;; count *= 2) {
    Flexible<kvm_cpuid2, kvm_cpuid_entry2> table(count);
    table.header()->nent = static_cast<uint32_t>(count);
    if (try_ioctl(fd, request, table.header()) >= 0) return table.take(table.header()->nent);
    if (errno != E2BIG || count >= kMaxTable) throw_errno(name, attempted);
  }
}

std::vector<uint32_t> read_msr_list(int fd, unsigned long request, const char* name,
                                    std::string_view attempted) {
  for (size_t count = kFirstTable;; count *= 2) {
    Flexible<kvm_msr_list, uint32_t> table(count);
    table.header()->nmsrs = static_cast<uint32_t>(count);
    if (try_ioctl(fd, request, table.header()) >= 0) return table.take(table.header()->nmsrs);
    if (errno != E2BIG || count >= kMaxTable) throw_errno(name, attempted);
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------------- System

std::shared_ptr<System> System::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) {
    const char* mend = errno == ENOENT || errno == ENXIO || errno == ENODEV
                           ? " (is kvm_intel or kvm_amd loaded, and virtualisation enabled in the firmware?)"
                       : errno == EACCES || errno == EPERM
                           ? " (add your user to the group that owns it: sudo usermod -aG kvm $USER)"
                           : "";
    throw_errno("open", "opening " + path + mend);
  }
  std::shared_ptr<System> system(new System(std::move(fd)));
  int version = system->api_version();
  if (version != KVM_API_VERSION)
    throw Error("EVERSION", path + " speaks KVM API version " + std::to_string(version) +
                                ", hypertwin needs " + std::to_string(KVM_API_VERSION));
  return system;
}

int System::api_version() const {
  return do_ioctl(fd(), HT_KVM(KVM_GET_API_VERSION), 0, "asking for the API version");
}

int System::check_extension(uint32_t cap) const {
  return do_ioctl(fd(), HT_KVM(KVM_CHECK_EXTENSION), cap, "asking for capability " + std::to_string(cap));
}

size_t System::vcpu_mmap_size() const {
  return static_cast<size_t>(
      do_ioctl(fd(), HT_KVM(KVM_GET_VCPU_MMAP_SIZE), 0, "asking for the size of kvm_run"));
}

std::vector<kvm_cpuid_entry2> System::supported_cpuid() const {
  return read_cpuid(fd(), HT_KVM(KVM_GET_SUPPORTED_CPUID), "reading the CPUID table that KVM supports");
}

std::vector<kvm_cpuid_entry2> System::emulated_cpuid() const {
  return read_cpuid(fd(), HT_KVM(KVM_GET_EMULATED_CPUID), "reading the CPUID features that KVM emulates");
}

std::vector<kvm_cpuid_entry2> System::supported_hv_cpuid() const {
  return read_cpuid(fd(), HT_KVM(KVM_GET_SUPPORTED_HV_CPUID),
                    "reading the Hyper-V CPUID table that KVM supports");
}

std::vector<uint32_t> System::msr_index_list() const {
  return read_msr_list(fd(), HT_KVM(KVM_GET_MSR_INDEX_LIST), "reading the list of MSRs to save");
}

std::vector<uint32_t> System::msr_feature_index_list() const {
  return read_msr_list(fd(), HT_KVM(KVM_GET_MSR_FEATURE_INDEX_LIST), "reading the list of feature MSRs");
}

std::vector<kvm_msr_entry> System::get_msrs(std::span<const uint32_t> indices) const {
  Flexible<kvm_msrs, kvm_msr_entry> table(indices.size());
  table.header()->nmsrs = static_cast<uint32_t>(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) table.entries()[i].index = indices[i];
  int got = do_ioctl(fd(), HT_KVM(KVM_GET_MSRS), table.header(),
                     "reading " + std::to_string(indices.size()) + " feature MSRs");
  if (static_cast<size_t>(got) < indices.size())
    throw Error("EMSR",
                "KVM_GET_MSRS: no feature MSR " + hex(indices[static_cast<size_t>(got)]) + " on this host");
  return table.take(static_cast<size_t>(got));
}

uint64_t System::mce_cap_supported() const {
  uint64_t cap = 0;
  do_ioctl(fd(), HT_KVM(KVM_X86_GET_MCE_CAP_SUPPORTED), &cap,
           "asking which machine check features KVM supports");
  return cap;
}

bool System::has_attr(uint32_t group, uint64_t attr) const { return has_device_attr(fd(), group, attr); }

uint64_t System::get_attr(uint32_t group, uint64_t attr) const {
  uint64_t value = 0;
  get_device_attr(fd(), group, attr, &value);
  return value;
}

std::shared_ptr<Vm> System::create_vm(uint64_t type) {
  Fd vm(do_ioctl(fd(), HT_KVM(KVM_CREATE_VM), type, "creating a VM of type " + std::to_string(type)));
  return std::make_shared<Vm>(std::move(vm), shared_from_this());
}

// -------------------------------------------------------------------------------------------------- Vm

Vm::Vm(Fd fd, std::shared_ptr<System> system) : fd_(std::move(fd)), system_(std::move(system)) {}

int Vm::check_extension(uint32_t cap) const {
  return do_ioctl(fd(), HT_KVM(KVM_CHECK_EXTENSION), cap, "asking for capability " + std::to_string(cap));
}

void Vm::set_user_memory_region(const Slot& slot) {
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::string what = "slot " + std::to_string(slot.slot);
  int limit = check_extension(KVM_CAP_NR_MEMSLOTS);
  if (limit > 0 && (slot.slot & 0xffff) >= static_cast<uint32_t>(limit))
    throw Error("EBADSLOT",
                what + " is out of range: this host offers slots 0 to " + std::to_string(limit - 1));
  int spaces = std::max(1, check_extension(KVM_CAP_MULTI_ADDRESS_SPACE));
  if ((slot.slot >> 16) >= static_cast<uint32_t>(spaces))
    throw Error("EBADSLOT", what + " names address space " + std::to_string(slot.slot >> 16) + " of " +
                                std::to_string(spaces));
  if (slot.guest_address % page || slot.size % page || slot.offset % page)
    throw Error("EALIGN", what + ": guest address " + hex(slot.guest_address) + ", size " + hex(slot.size) +
                              " and offset " + hex(slot.offset) + " must be multiples of " +
                              std::to_string(page));

  std::lock_guard lock(mutex_);
  auto old = slots_.find(slot.slot);
  kvm_userspace_memory_region region{};
  region.slot = slot.slot;
  if (slot.size == 0) {
    if (old == slots_.end()) throw Error("EBADSLOT", what + " is not set, so it cannot be deleted");
    do_ioctl(fd(), HT_KVM(KVM_SET_USER_MEMORY_REGION), &region, "deleting " + what);
    slots_.erase(old);
    return;
  }
  if (!slot.memory) throw Error("EINVAL", what + " has a size but no memory");
  if (slot.offset > slot.memory->size() || slot.size > slot.memory->size() - slot.offset)
    throw Error("ERANGE", what + ": " + hex(slot.size) + " bytes at offset " + hex(slot.offset) +
                              " reach beyond the guest memory of " + hex(slot.memory->size()) + " bytes");
  if (slot.guest_address + slot.size < slot.guest_address)
    throw Error("ERANGE", what + ": " + hex(slot.size) + " bytes at guest address " +
                              hex(slot.guest_address) + " wrap around the address space");
  if (old != slots_.end() && (old->second.size != slot.size || old->second.memory != slot.memory ||
                              old->second.offset != slot.offset))
    throw Error("EBADSLOT", what +
                                " is in use with another size or memory: delete it first (size 0); only its "
                                "guest address and flags can be changed in place");
  for (const auto& [id, other] : slots_) {
    if (id == slot.slot || (id >> 16) != (slot.slot >> 16)) continue;
    if (slot.guest_address < other.guest_address + other.size &&
        other.guest_address < slot.guest_address + slot.size)
      throw Error("EOVERLAP", what + " (" + hex(slot.guest_address) + " to " +
                                  hex(slot.guest_address + slot.size - 1) + ") overlaps slot " +
                                  std::to_string(id) + " (" + hex(other.guest_address) + " to " +
                                  hex(other.guest_address + other.size - 1) + ")");
  }
  region.flags = slot.flags;
  region.guest_phys_addr = slot.guest_address;
  region.memory_size = slot.size;
  region.userspace_addr = reinterpret_cast<uint64_t>(slot.memory->data() + slot.offset);
  do_ioctl(fd(), HT_KVM(KVM_SET_USER_MEMORY_REGION), &region,
           "mapping " + what + ", " + hex(slot.size) + " bytes at guest address " + hex(slot.guest_address) +
               " with flags " + hex(slot.flags));
  slots_[slot.slot] = slot;
}

std::vector<Slot> Vm::slots() const {
  std::lock_guard lock(mutex_);
  std::vector<Slot> out;
  for (const auto& [id, slot] : slots_) out.push_back(slot);
  return out;
}

std::optional<Slot> Vm::slot(uint32_t slot) const {
  std::lock_guard lock(mutex_);
  auto found = slots_.find(slot);
  if (found == slots_.end()) return std::nullopt;
  return found->second;
}

std::shared_ptr<Vcpu> Vm::create_vcpu(uint32_t id) {
  Fd vcpu(do_ioctl(fd(), HT_KVM(KVM_CREATE_VCPU), static_cast<unsigned long>(id),
                   "creating vCPU " + std::to_string(id) + " (each id once, below KVM_CAP_MAX_VCPU_ID)"));
  return std::make_shared<Vcpu>(std::move(vcpu), shared_from_this(), id);
}

void Vm::get_dirty_log(uint32_t slot, std::span<uint64_t> bitmap) const {
  // Held over the call: a larger slot in this one's place would overrun the bitmap. No message is made before
  // it is needed, here and below: it would cost more than a small slot's log.
  std::lock_guard lock(mutex_);
  auto found = slots_.find(slot);
  if (found == slots_.end())
    throw Error("EBADSLOT", "no slot " + std::to_string(slot) + " to read a dirty log from");
  uint64_t words = (found->second.size / static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + 63) / 64;
  if (bitmap.size() < words)
    throw Error("ERANGE", "a bitmap of " + std::to_string(bitmap.size()) + " words is too small for slot " +
                              std::to_string(slot) + ", which needs " + std::to_string(words));
  kvm_dirty_log log{};
  log.slot = slot;
  log.dirty_bitmap = bitmap.data();
  if (try_ioctl(fd(), KVM_GET_DIRTY_LOG, &log) < 0)
    throw_errno("KVM_GET_DIRTY_LOG",
                "reading the dirty log of slot " + std::to_string(slot) +
                    " (ENOENT: the slot lacks KVM_MEM_LOG_DIRTY_PAGES; ENXIO: the VM uses the dirty ring)");
}

void Vm::clear_dirty_log(uint32_t slot, uint64_t first_page, uint32_t num_pages,
                         std::span<const uint64_t> bitmap) const {
  std::lock_guard lock(mutex_);
  auto found = slots_.find(slot);
  if (found == slots_.end())
    throw Error("EBADSLOT", "no slot " + std::to_string(slot) + " to clear a dirty log of");
  uint64_t pages = found->second.size / static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (first_page % 64 != 0)
    throw Error("EALIGN", "first page " + std::to_string(first_page) + " is not a multiple of 64");
  if (first_page > pages || num_pages > pages - first_page)
    throw Error("ERANGE", "pages " + std::to_string(first_page) + " + " + std::to_string(num_pages) +
                              " reach beyond slot " + std::to_string(slot) + " of " + std::to_string(pages) +
                              " pages");
  if (num_pages % 64 != 0 && first_page + num_pages != pages)
    throw Error("EALIGN", "a number of pages that does not reach the slot's end must be a multiple of 64");
  if (bitmap.size() < (uint64_t{num_pages} + 63) / 64)
    throw Error("ERANGE", "the bitmap is shorter than the pages to clear");
  kvm_clear_dirty_log log{};
  log.slot = slot;
  log.num_pages = num_pages;
  log.first_page = first_page;
  log.dirty_bitmap = const_cast<uint64_t*>(bitmap.data());
  if (try_ioctl(fd(), KVM_CLEAR_DIRTY_LOG, &log) < 0)
    throw_errno("KVM_CLEAR_DIRTY_LOG", "clearing " + std::to_string(num_pages) +
                                           " pages of the dirty log of slot " + std::to_string(slot) +
                                           " (needs KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)");
}

uint64_t Vm::reset_dirty_rings() const {
  return static_cast<uint64_t>(do_ioctl(fd(), HT_KVM(KVM_RESET_DIRTY_RINGS), 0, "resetting the dirty rings"));
}

void Vm::set_ring_full_handler(std::function<void()> handler) {
  std::lock_guard lock(mutex_);
  ring_full_ = std::move(handler);
}

bool Vm::handle_ring_full() const {
  std::function<void()> handler;
  {
    std::lock_guard lock(mutex_);
    handler = ring_full_;
  }
  if (!handler) return false;
  handler();
  return true;
}

void Vm::enable_cap(uint32_t cap, uint64_t arg0, uint64_t arg1, uint64_t arg2, uint64_t arg3,
                    uint32_t flags) {
  kvm_enable_cap enable{};
  enable.cap = cap;
  enable.flags = flags;
  enable.args[0] = arg0;
  enable.args[1] = arg1;
  enable.args[2] = arg2;
  enable.args[3] = arg3;
  do_ioctl(fd(), HT_KVM(KVM_ENABLE_CAP), &enable,
           "enabling capability " + std::to_string(cap) + " of the VM with argument " + hex(arg0));
  if (cap == KVM_CAP_DIRTY_LOG_RING || cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
    dirty_ring_bytes_ = static_cast<uint32_t>(arg0);
}

void Vm::create_irqchip() {
  do_ioctl(fd(), HT_KVM(KVM_CREATE_IRQCHIP), 0,
           "creating the in-kernel interrupt controllers (once, before the first vCPU)");
}

kvm_irqchip Vm::get_irqchip(uint32_t chip) const {
  kvm_irqchip state{};
  state.chip_id = chip;
  do_ioctl(
      fd(), HT_KVM(KVM_GET_IRQCHIP), &state,
      "reading interrupt controller " + std::to_string(chip) + " (0 and 1 PIC, 2 IOAPIC; create it first)");
  return state;
}

void Vm::set_irqchip(const kvm_irqchip& chip) {
  do_ioctl(fd(), HT_KVM(KVM_SET_IRQCHIP), &chip,
           "setting interrupt controller " + std::to_string(chip.chip_id) + " (0 and 1 PIC, 2 IOAPIC)");
}

void Vm::create_pit2(uint32_t flags) {
  kvm_pit_config config{};
  config.flags = flags;
  do_ioctl(fd(), HT_KVM(KVM_CREATE_PIT2), &config, "creating the in-kernel PIT (once, after the irqchip)");
}

kvm_pit_state2 Vm::get_pit2() const {
  kvm_pit_state2 state{};
  do_ioctl(fd(), HT_KVM(KVM_GET_PIT2), &state, "reading the PIT (create it first)");
  return state;
}

void Vm::set_pit2(const kvm_pit_state2& state) {
  do_ioctl(fd(), HT_KVM(KVM_SET_PIT2), &state, "setting the PIT (create it first)");
}

void Vm::irq_line(uint32_t irq, bool level) {
  kvm_irq_level line{};
  line.irq = irq;
  line.level = level;
  do_ioctl(fd(), HT_KVM(KVM_IRQ_LINE), &line,
           "setting interrupt line " + std::to_string(irq) + " (needs the in-kernel irqchip)");
}

int Vm::irq_line_status(uint32_t irq, bool level) {
  kvm_irq_level line{};
  line.irq = irq;
  line.level = level;
  do_ioctl(fd(), HT_KVM(KVM_IRQ_LINE_STATUS), &line,
           "setting interrupt line " + std::to_string(irq) + " (needs the in-kernel irqchip)");
  return line.status;
}

int Vm::signal_msi(const kvm_msi& msi) {
  return do_ioctl(fd(), HT_KVM(KVM_SIGNAL_MSI), &msi,
                  "sending a message-signalled interrupt (needs the in-kernel LAPIC)");
}

void Vm::set_gsi_routing(std::span<const kvm_irq_routing_entry> entries) {
  Flexible<kvm_irq_routing, kvm_irq_routing_entry> table(entries);
  table.header()->nr = static_cast<uint32_t>(entries.size());
  do_ioctl(fd(), HT_KVM(KVM_SET_GSI_ROUTING), table.header(),
           "setting " + std::to_string(entries.size()) + " interrupt routes (needs the in-kernel irqchip)");
}

void Vm::assign_irqfd(int event, uint32_t gsi, int resample_fd) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(event);
  irqfd.gsi = gsi;
  if (resample_fd >= 0) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(resample_fd);
  }
  do_ioctl(fd(), HT_KVM(KVM_IRQFD), &irqfd,
           "binding an eventfd to GSI " + std::to_string(gsi) + " (needs the in-kernel irqchip)");
}

void Vm::deassign_irqfd(int event, uint32_t gsi) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(event);
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  do_ioctl(fd(), HT_KVM(KVM_IRQFD), &irqfd, "unbinding an eventfd from GSI " + std::to_string(gsi));
}

namespace {

void ioeventfd(int fd, const IoEvent& event, bool deassign) {
  kvm_ioeventfd io{};
  io.addr = event.address;
  io.len = event.length;
  io.fd = event.fd;
  if (event.pio) io.flags |= KVM_IOEVENTFD_FLAG_PIO;
  if (event.datamatch) {
    io.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    io.datamatch = *event.datamatch;
  }
  if (deassign) io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
  do_ioctl(fd, HT_KVM(KVM_IOEVENTFD), &io,
           std::string(deassign ? "unbinding" : "binding") + " an eventfd " + (deassign ? "from " : "to ") +
               (event.pio ? "port " : "address ") + hex(event.address) + ", " + std::to_string(event.length) +
               " bytes");
}

void coalesced(int fd, unsigned long request, const char* name, uint64_t address, uint32_t size, bool pio) {
  kvm_coalesced_mmio_zone zone{};
  zone.addr = address;
  zone.size = size;
  zone.pio = pio;
  do_ioctl(fd, request, name, &zone,
           std::string("for ") + (pio ? "ports" : "addresses") + " from " + hex(address));
}

}  // namespace

void Vm::assign_ioeventfd(const IoEvent& event) { ioeventfd(fd(), event, false); }
void Vm::deassign_ioeventfd(const IoEvent& event) { ioeventfd(fd(), event, true); }

void Vm::reinject_control(bool reinject) {
  kvm_reinject_control control{};
  control.pit_reinject = reinject;
  do_ioctl(fd(), HT_KVM(KVM_REINJECT_CONTROL), &control, "choosing whether missed PIT ticks are made up for");
}

void Vm::set_boot_cpu_id(uint32_t id) {
  do_ioctl(fd(), HT_KVM(KVM_SET_BOOT_CPU_ID), static_cast<unsigned long>(id),
           "naming vCPU " + std::to_string(id) + " the boot CPU (before the first vCPU)");
}

kvm_clock_data Vm::get_clock() const {
  kvm_clock_data clock{};
  do_ioctl(fd(), HT_KVM(KVM_GET_CLOCK), &clock, "reading the VM's clock");
  return clock;
}

void Vm::set_clock(const kvm_clock_data& clock) {
  do_ioctl(fd(), HT_KVM(KVM_SET_CLOCK), &clock, "setting the VM's clock");
}

uint32_t Vm::get_tsc_khz() const {
  return static_cast<uint32_t>(
      do_ioctl(fd(), HT_KVM(KVM_GET_TSC_KHZ), 0, "reading the VM's TSC frequency (KVM_CAP_VM_TSC_CONTROL)"));
}

void Vm::set_tsc_khz(uint32_t khz) {
  do_ioctl(fd(), HT_KVM(KVM_SET_TSC_KHZ), static_cast<unsigned long>(khz),
           "setting the VM's TSC frequency to " + std::to_string(khz) + " kHz (KVM_CAP_VM_TSC_CONTROL)");
}

void Vm::set_tss_addr(uint64_t address) {
  do_ioctl(fd(), HT_KVM(KVM_SET_TSS_ADDR), static_cast<unsigned long>(address),
           "placing the TSS at " + hex(address));
}

void Vm::set_identity_map_addr(uint64_t address) {
  do_ioctl(fd(), HT_KVM(KVM_SET_IDENTITY_MAP_ADDR), &address,
           "placing the identity map at " + hex(address) + " (before the first vCPU)");
}

void Vm::set_nr_mmu_pages(uint32_t pages) {
  do_ioctl(fd(), HT_KVM(KVM_SET_NR_MMU_PAGES), static_cast<unsigned long>(pages),
           "limiting shadow pages to " + std::to_string(pages));
}

uint32_t Vm::get_nr_mmu_pages() const {
  return static_cast<uint32_t>(
      do_ioctl(fd(), HT_KVM(KVM_GET_NR_MMU_PAGES), 0, "reading the limit of shadow pages"));
}

void Vm::register_coalesced(uint64_t address, uint32_t size, bool pio) {
  coalesced(fd(), HT_KVM(KVM_REGISTER_COALESCED_MMIO), address, size, pio);
}

void Vm::unregister_coalesced(uint64_t address, uint32_t size, bool pio) {
  coalesced(fd(), HT_KVM(KVM_UNREGISTER_COALESCED_MMIO), address, size, pio);
}

void Vm::encrypt_op(void* arg) {
  do_ioctl(fd(), HT_KVM(KVM_MEMORY_ENCRYPT_OP), arg, "calling the memory encryption of the CPU");
}

void Vm::encrypt_register(uint64_t address, uint64_t size) {
  kvm_enc_region region{address, size};
  do_ioctl(fd(), HT_KVM(KVM_MEMORY_ENCRYPT_REG_REGION), &region, "registering encrypted memory");
}

void Vm::encrypt_unregister(uint64_t address, uint64_t size) {
  kvm_enc_region region{address, size};
  do_ioctl(fd(), HT_KVM(KVM_MEMORY_ENCRYPT_UNREG_REGION), &region, "unregistering encrypted memory");
}

void Vm::set_msr_filter(bool default_deny, std::span<const MsrFilterRange> ranges) {
  if (ranges.size() > KVM_MSR_FILTER_MAX_RANGES)
    throw Error("ERANGE",
                "an MSR filter has at most " + std::to_string(KVM_MSR_FILTER_MAX_RANGES) + " ranges");
  kvm_msr_filter filter{};
  filter.flags = default_deny ? KVM_MSR_FILTER_DEFAULT_DENY : KVM_MSR_FILTER_DEFAULT_ALLOW;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const MsrFilterRange& range = ranges[i];
    if (range.count == 0 || (uint64_t{range.count} + 7) / 8 > KVM_MSR_FILTER_MAX_BITMAP_SIZE ||
        range.bitmap.size() < (uint64_t{range.count} + 7) / 8)
      throw Error("ERANGE", "MSR filter range " + std::to_string(i) + " needs 1 to " +
                                std::to_string(KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8) +
                                " MSRs and a bitmap of one bit for each");
    filter.ranges[i].flags = range.flags;
    filter.ranges[i].nmsrs = range.count;
    filter.ranges[i].base = range.base;
    filter.ranges[i].bitmap = const_cast<uint8_t*>(range.bitmap.data());
  }
  do_ioctl(fd(), HT_KVM(KVM_X86_SET_MSR_FILTER), &filter, "setting the MSR filter");
}

void Vm::set_pmu_event_filter(uint32_t action, std::span<const uint64_t> events,
                              uint32_t fixed_counter_bitmap) {
  Flexible<kvm_pmu_event_filter, uint64_t> table(events);
  table.header()->action = action;
  table.header()->nevents = static_cast<uint32_t>(events.size());
  table.header()->fixed_counter_bitmap = fixed_counter_bitmap;
  do_ioctl(fd(), HT_KVM(KVM_SET_PMU_EVENT_FILTER), table.header(), "setting the performance event filter");
}

void Vm::xen_hvm_config(const kvm_xen_hvm_config& config) {
  do_ioctl(fd(), HT_KVM(KVM_XEN_HVM_CONFIG), &config, "configuring Xen emulation");
}

void Vm::hyperv_eventfd(uint32_t connection, int event, bool deassign) {
  kvm_hyperv_eventfd data{};
  data.conn_id = connection;
  data.fd = event;
  data.flags = deassign ? KVM_HYPERV_EVENTFD_DEASSIGN : 0;
  do_ioctl(fd(), HT_KVM(KVM_HYPERV_EVENTFD), &data, "binding an eventfd to a Hyper-V connection");
}

Stats Vm::stats() const {
  return Stats(Fd(do_ioctl(fd(), HT_KVM(KVM_GET_STATS_FD), 0, "opening the VM's statistics")));
}

Device Vm::create_device(uint32_t type) {
  kvm_create_device create{};
  create.type = type;
  do_ioctl(
      fd(), HT_KVM(KVM_CREATE_DEVICE), &create,
      "creating a device of type " + std::to_string(type) + " (ENODEV: this host has none of that type)");
  return Device(Fd(static_cast<int>(create.fd)), type);
}

bool Vm::test_device(uint32_t type) const {
  kvm_create_device create{};
  create.type = type;
  create.flags = KVM_CREATE_DEVICE_TEST;
  return try_ioctl(fd(), KVM_CREATE_DEVICE, &create) == 0;
}

bool Vm::has_attr(uint32_t group, uint64_t attr) const { return has_device_attr(fd(), group, attr); }

uint64_t Vm::get_attr(uint32_t group, uint64_t attr) const {
  uint64_t value = 0;
  get_device_attr(fd(), group, attr, &value);
  return value;
}

void Vm::set_attr(uint32_t group, uint64_t attr, uint64_t value) {
  set_device_attr(fd(), group, attr, &value);
}

// ------------------------------------------------------------------------------------ device attributes

bool has_device_attr(int fd, uint32_t group, uint64_t attr) {
  kvm_device_attr data{};
  data.group = group;
  data.attr = attr;
  return try_ioctl(fd, KVM_HAS_DEVICE_ATTR, &data) == 0;
}

void get_device_attr(int fd, uint32_t group, uint64_t attr, void* into) {
  kvm_device_attr data{};
  data.group = group;
  data.attr = attr;
  data.addr = reinterpret_cast<uint64_t>(into);
  do_ioctl(fd, HT_KVM(KVM_GET_DEVICE_ATTR), &data,
           "reading attribute " + std::to_string(attr) + " of group " + std::to_string(group));
}

void set_device_attr(int fd, uint32_t group, uint64_t attr, const void* from) {
  kvm_device_attr data{};
  data.group = group;
  data.attr = attr;
  data.addr = reinterpret_cast<uint64_t>(from);
  do_ioctl(fd, HT_KVM(KVM_SET_DEVICE_ATTR), &data,
           "setting attribute " + std::to_string(attr) + " of group " + std::to_string(group));
}

}  // namespace hypertwin::kvm
