#include "kvm_ops.h"

#include <algorithm>

#include "kvm/stats.h"

namespace hypertwin::addon {
namespace {

using kvm::System;
using kvm::Vcpu;
using kvm::VcpuRunner;
using kvm::Vm;

// The attribute calls do not say how long a value is, so the kernel gets a whole page to write into.
constexpr size_t kAttributeRoom = 4096;

Result nothing() { return std::monostate{}; }

// Statistics as bytes: for each its fields, name and values, little endian; lib/kvm/stats.ts reads them.
Result pack(const kvm::Stats& stats) {
  std::vector<uint8_t> out;
  auto put = [&](const void* from, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(from);
    out.insert(out.end(), bytes, bytes + size);
  };
  auto put_text = [&](const std::string& text) {
    uint32_t size = static_cast<uint32_t>(text.size());
    put(&size, sizeof size);
    put(text.data(), text.size());
  };
  put_text(stats.id());
  for (const kvm::Stat& stat : stats.read()) {
    const uint32_t fields[] = {stat.type,        stat.unit,
                               stat.base,        static_cast<uint32_t>(int32_t{stat.exponent}),
                               stat.bucket_size, static_cast<uint32_t>(stat.values.size())};
    put(fields, sizeof fields);
    put_text(stat.name);
    put(stat.values.data(), stat.values.size() * sizeof(uint64_t));
  }
  return out;
}

// --------------------------------------------------------------------------------------- ways to write an op

template <class T, auto method>
auto vm_read() {
  return [](const Args&) -> std::function<Result(VmState&)> {
    return [](VmState& state) { return as_bytes((state.open_vm().get()->*method)()); };
  };
}
template <class T, auto method>
auto vm_write() {
  return [](const Args& args) -> std::function<Result(VmState&)> {
    return [value = args.pod<T>(0)](VmState& state) {
      (state.open_vm().get()->*method)(value);
      return nothing();
    };
  };
}
template <auto method>
auto vcpu_read() {
  return [](const Args&) -> std::function<Result(VcpuRunner&)> {
    return [](VcpuRunner& runner) { return as_bytes((runner.vcpu().*method)()); };
  };
}
template <class T, auto method>
auto vcpu_write() {
  return [](const Args& args) -> std::function<Result(VcpuRunner&)> {
    return [value = args.pod<T>(0)](VcpuRunner& runner) {
      (runner.vcpu().*method)(value);
      return nothing();
    };
  };
}
template <class T, auto method>
auto vcpu_write_list() {
  return [](const Args& args) -> std::function<Result(VcpuRunner&)> {
    return [values = args.pods<T>(0)](VcpuRunner& runner) {
      (runner.vcpu().*method)(values);
      return nothing();
    };
  };
}

#define VM_OP(...)                                          \
  [](const Args& args) -> std::function<Result(VmState&)> { \
    (void)args;                                             \
    __VA_ARGS__                                             \
  }
#define VCPU_OP(...)                                           \
  [](const Args& args) -> std::function<Result(VcpuRunner&)> { \
    (void)args;                                                \
    __VA_ARGS__                                                \
  }
#define SYSTEM_OP(...)                                     \
  [](const Args& args) -> std::function<Result(System&)> { \
    (void)args;                                            \
    __VA_ARGS__                                            \
  }

kvm::IoEvent io_event(const Args& args) {
  kvm::IoEvent event;
  event.fd = args.fd(0);
  event.address = args.u64(1);
  event.length = args.u32(2);
  event.pio = args.boolean(3);
  if (args.has(4)) event.datamatch = args.u64(4);
  return event;
}

kvm::Device& device(VmState& state, uint32_t id) {
  auto found = state.devices().find(id);
  if (found == state.devices().end()) throw Error("CLOSED", "the device is closed");
  return found->second;
}

}  // namespace

const Ops<System>& system_ops() {
  static const Ops<System> ops = {
      {"apiVersion", SYSTEM_OP(return [](System& s) -> Result { return double(s.api_version()); };)},
      {"checkExtension", SYSTEM_OP(return [cap = args.u32(0)](System& s) -> Result {
         return double(s.check_extension(cap));
       };)},
      {"vcpuMmapSize", SYSTEM_OP(return [](System& s) -> Result { return double(s.vcpu_mmap_size()); };)},
      {"supportedCpuid", SYSTEM_OP(return [](System& s) { return as_bytes(s.supported_cpuid()); };)},
      {"emulatedCpuid", SYSTEM_OP(return [](System& s) { return as_bytes(s.emulated_cpuid()); };)},
      {"supportedHvCpuid", SYSTEM_OP(return [](System& s) { return as_bytes(s.supported_hv_cpuid()); };)},
      {"msrIndexList", SYSTEM_OP(return [](System& s) { return as_bytes(s.msr_index_list()); };)},
      {"msrFeatureIndexList",
       SYSTEM_OP(return [](System& s) { return as_bytes(s.msr_feature_index_list()); };)},
      {"getMsrs",
       SYSTEM_OP(return [list = args.pods<uint32_t>(0)](System& s) { return as_bytes(s.get_msrs(list)); };)},
      {"mceCapSupported", SYSTEM_OP(return [](System& s) -> Result { return s.mce_cap_supported(); };)},
      {"hasAttr", SYSTEM_OP(return [g = args.u32(0), a = args.u64(1)](System& s) -> Result {
         return s.has_attr(g, a);
       };)},
      {"getAttr", SYSTEM_OP(return [g = args.u32(0), a = args.u64(1)](System& s) -> Result {
         return s.get_attr(g, a);
       };)},
  };
  return ops;
}

const Ops<VmState>& vm_ops() {
  static const Ops<VmState> ops = {
      {"checkExtension", VM_OP(return [cap = args.u32(0)](VmState& s) -> Result {
         return double(s.open_vm()->check_extension(cap));
       };)},
      {"enableCap", VM_OP(uint64_t values[4] = {};
                          for (size_t i = 0; i < 4; ++i) if (args.has(i + 2)) values[i] = args.u64(i + 2);
                          return [cap = args.u32(0), flags = args.u32(1), a = values[0], b = values[1],
                                  c = values[2], d = values[3]](VmState& s) {
                            s.open_vm()->enable_cap(cap, a, b, c, d, flags);
                            return nothing();
                          };)},
      {"deleteSlot", VM_OP(return [slot = args.u32(0)](VmState& s) {
         kvm::Slot empty;
         empty.slot = slot;
         s.open_vm()->set_user_memory_region(empty);
         return nothing();
       };)},
      {"getDirtyLog", VM_OP(return [slot = args.u32(0)](VmState& s) -> Result {
         auto vm = s.open_vm();
         auto found = vm->slot(slot);
         std::vector<uint64_t> bitmap(found ? (found->size / 4096 + 63) / 64 : 0);
         vm->get_dirty_log(slot, bitmap);
         return as_bytes(bitmap);
       };)},
      {"clearDirtyLog", VM_OP(return [slot = args.u32(0), first = args.u64(1), count = args.u32(2),
                                      bitmap = args.pods<uint64_t>(3)](VmState& s) {
         s.open_vm()->clear_dirty_log(slot, first, count, bitmap);
         return nothing();
       };)},
      {"resetDirtyRings",
       VM_OP(return [](VmState& s) -> Result { return double(s.open_vm()->reset_dirty_rings()); };)},
      {"createIrqchip", VM_OP(return [](VmState& s) {
         s.open_vm()->create_irqchip();
         return nothing();
       };)},
      {"getIrqchip",
       VM_OP(return [chip = args.u32(0)](VmState& s) { return as_bytes(s.open_vm()->get_irqchip(chip)); };)},
      {"setIrqchip", vm_write<kvm_irqchip, &Vm::set_irqchip>()},
      {"createPit2", VM_OP(return [flags = args.u32(0)](VmState& s) {
         s.open_vm()->create_pit2(flags);
         return nothing();
       };)},
      {"getPit2", vm_read<kvm_pit_state2, &Vm::get_pit2>()},
      {"setPit2", vm_write<kvm_pit_state2, &Vm::set_pit2>()},
      {"irqLine", VM_OP(return [irq = args.u32(0), level = args.boolean(1)](VmState& s) {
         s.open_vm()->irq_line(irq, level);
         return nothing();
       };)},
      {"irqLineStatus", VM_OP(return [irq = args.u32(0), level = args.boolean(1)](VmState& s) -> Result {
         return double(s.open_vm()->irq_line_status(irq, level));
       };)},
      {"signalMsi", VM_OP(return [msi = args.pod<kvm_msi>(0)](VmState& s) -> Result {
         return double(s.open_vm()->signal_msi(msi));
       };)},
      {"setGsiRouting", VM_OP(return [routes = args.pods<kvm_irq_routing_entry>(0)](VmState& s) {
         s.open_vm()->set_gsi_routing(routes);
         return nothing();
       };)},
      {"assignIrqfd", VM_OP(int resample = args.has(2) ? args.fd(2) : -1;
                            return [fd = args.fd(0), gsi = args.u32(1), resample](VmState& s) {
                              s.open_vm()->assign_irqfd(fd, gsi, resample);
                              return nothing();
                            };)},
      {"deassignIrqfd", VM_OP(return [fd = args.fd(0), gsi = args.u32(1)](VmState& s) {
         s.open_vm()->deassign_irqfd(fd, gsi);
         return nothing();
       };)},
      {"assignIoeventfd", VM_OP(return [event = io_event(args)](VmState& s) {
         s.open_vm()->assign_ioeventfd(event);
         return nothing();
       };)},
      {"deassignIoeventfd", VM_OP(return [event = io_event(args)](VmState& s) {
         s.open_vm()->deassign_ioeventfd(event);
         return nothing();
       };)},
      {"reinjectControl", VM_OP(return [on = args.boolean(0)](VmState& s) {
         s.open_vm()->reinject_control(on);
         return nothing();
       };)},
      {"setBootCpuId", VM_OP(return [id = args.u32(0)](VmState& s) {
         s.open_vm()->set_boot_cpu_id(id);
         return nothing();
       };)},
      {"getClock", vm_read<kvm_clock_data, &Vm::get_clock>()},
      {"setClock", vm_write<kvm_clock_data, &Vm::set_clock>()},
      {"getTscKhz", VM_OP(return [](VmState& s) -> Result { return double(s.open_vm()->get_tsc_khz()); };)},
      {"setTscKhz", VM_OP(return [khz = args.u32(0)](VmState& s) {
         s.open_vm()->set_tsc_khz(khz);
         return nothing();
       };)},
      {"setTssAddr", VM_OP(return [at = args.u64(0)](VmState& s) {
         s.open_vm()->set_tss_addr(at);
         return nothing();
       };)},
      {"setIdentityMapAddr", VM_OP(return [at = args.u64(0)](VmState& s) {
         s.open_vm()->set_identity_map_addr(at);
         return nothing();
       };)},
      {"setNrMmuPages", VM_OP(return [pages = args.u32(0)](VmState& s) {
         s.open_vm()->set_nr_mmu_pages(pages);
         return nothing();
       };)},
      {"getNrMmuPages",
       VM_OP(return [](VmState& s) -> Result { return double(s.open_vm()->get_nr_mmu_pages()); };)},
      {"registerCoalesced",
       VM_OP(return [at = args.u64(0), size = args.u32(1), pio = args.boolean(2)](VmState& s) {
         s.open_vm()->register_coalesced(at, size, pio);
         return nothing();
       };)},
      {"unregisterCoalesced",
       VM_OP(return [at = args.u64(0), size = args.u32(1), pio = args.boolean(2)](VmState& s) {
         s.open_vm()->unregister_coalesced(at, size, pio);
         return nothing();
       };)},
      // default deny, then for each range: flags, base, count, bitmap.
      {"setMsrFilter", VM_OP(std::vector<kvm::MsrFilterRange> ranges;
                             for (size_t i = 1; args.has(i); i += 4) ranges.push_back(
                                 {args.u32(i), args.u32(i + 1), args.u32(i + 2), args.bytes(i + 3)});
                             return [deny = args.boolean(0), ranges](VmState& s) {
                               s.open_vm()->set_msr_filter(deny, ranges);
                               return nothing();
                             };)},
      {"setPmuEventFilter",
       VM_OP(return [action = args.u32(0), events = args.pods<uint64_t>(1), fixed = args.u32(2)](VmState& s) {
         s.open_vm()->set_pmu_event_filter(action, events, fixed);
         return nothing();
       };)},
      {"xenHvmConfig", vm_write<kvm_xen_hvm_config, &Vm::xen_hvm_config>()},
      {"hypervEventfd", VM_OP(return [id = args.u32(0), fd = args.fd(1), off = args.boolean(2)](VmState& s) {
         s.open_vm()->hyperv_eventfd(id, fd, off);
         return nothing();
       };)},
      {"stats", VM_OP(return [](VmState& s) { return pack(s.open_vm()->stats()); };)},
      {"testDevice",
       VM_OP(return [type = args.u32(0)](VmState& s) -> Result { return s.open_vm()->test_device(type); };)},
      {"createDevice", VM_OP(return [type = args.u32(0)](VmState& s) -> Result {
         auto& devices = s.devices();
         uint32_t id = devices.empty() ? 1 : devices.rbegin()->first + 1;
         devices.emplace(id, s.open_vm()->create_device(type));
         return double(id);
       };)},
      {"closeDevice", VM_OP(return [id = args.u32(0)](VmState& s) {
         s.devices().erase(id);
         return nothing();
       };)},
      {"deviceHasAttr", VM_OP(return [id = args.u32(0), g = args.u32(1), a = args.u64(2)](
                                         VmState& s) -> Result { return device(s, id).has_attr(g, a); };)},
      {"deviceGetAttr",
       VM_OP(uint32_t size = args.u32(3);
             if (size > kAttributeRoom) throw Error("ERANGE", "an attribute has at most 4096 bytes");
             return [id = args.u32(0), g = args.u32(1), a = args.u64(2), size](VmState& s) -> Result {
               std::vector<uint8_t> room(kAttributeRoom);
               device(s, id).get_attr(g, a, room.data());
               room.resize(size);
               return room;
             };)},
      {"deviceSetAttr", VM_OP(auto bytes = args.bytes(3); if (bytes.size() > kAttributeRoom) throw Error(
                                  "ERANGE", "an attribute has at most 4096 bytes");
                              bytes.resize(kAttributeRoom);
                              return [id = args.u32(0), g = args.u32(1), a = args.u64(2), bytes](VmState& s) {
                                device(s, id).set_attr(g, a, bytes.data());
                                return nothing();
                              };)},
      {"hasAttr", VM_OP(return [g = args.u32(0), a = args.u64(1)](VmState& s) -> Result {
         return s.open_vm()->has_attr(g, a);
       };)},
      {"getAttr", VM_OP(return [g = args.u32(0), a = args.u64(1)](VmState& s) -> Result {
         return s.open_vm()->get_attr(g, a);
       };)},
      {"setAttr", VM_OP(return [g = args.u32(0), a = args.u64(1), v = args.u64(2)](VmState& s) {
         s.open_vm()->set_attr(g, a, v);
         return nothing();
       };)},
  };
  return ops;
}

const Ops<VcpuRunner>& vcpu_ops() {
  static const Ops<VcpuRunner> ops = {
      {"getRegs", vcpu_read<&Vcpu::get_regs>()},
      {"setRegs", vcpu_write<kvm_regs, &Vcpu::set_regs>()},
      {"getSregs", vcpu_read<&Vcpu::get_sregs>()},
      {"setSregs", vcpu_write<kvm_sregs, &Vcpu::set_sregs>()},
      {"getSregs2", vcpu_read<&Vcpu::get_sregs2>()},
      {"setSregs2", vcpu_write<kvm_sregs2, &Vcpu::set_sregs2>()},
      {"getFpu", vcpu_read<&Vcpu::get_fpu>()},
      {"setFpu", vcpu_write<kvm_fpu, &Vcpu::set_fpu>()},
      {"getXsave", vcpu_read<&Vcpu::get_xsave>()},
      {"setXsave", vcpu_write_list<uint8_t, &Vcpu::set_xsave>()},
      {"getXcrs", vcpu_read<&Vcpu::get_xcrs>()},
      {"setXcrs", vcpu_write<kvm_xcrs, &Vcpu::set_xcrs>()},
      {"getMsrs", VCPU_OP(return [list = args.pods<uint32_t>(0)](VcpuRunner& r) {
         return as_bytes(r.vcpu().get_msrs(list));
       };)},
      {"setMsrs", vcpu_write_list<kvm_msr_entry, &Vcpu::set_msrs>()},
      {"getCpuid2", vcpu_read<&Vcpu::get_cpuid2>()},
      {"setCpuid2", vcpu_write_list<kvm_cpuid_entry2, &Vcpu::set_cpuid2>()},
      {"supportedHvCpuid", vcpu_read<&Vcpu::supported_hv_cpuid>()},
      {"getVcpuEvents", vcpu_read<&Vcpu::get_vcpu_events>()},
      {"setVcpuEvents", vcpu_write<kvm_vcpu_events, &Vcpu::set_vcpu_events>()},
      {"getDebugregs", vcpu_read<&Vcpu::get_debugregs>()},
      {"setDebugregs", vcpu_write<kvm_debugregs, &Vcpu::set_debugregs>()},
      {"getMpState", vcpu_read<&Vcpu::get_mp_state>()},
      {"setMpState", vcpu_write<kvm_mp_state, &Vcpu::set_mp_state>()},
      {"getLapic", vcpu_read<&Vcpu::get_lapic>()},
      {"setLapic", vcpu_write<kvm_lapic_state, &Vcpu::set_lapic>()},
      {"getTscKhz", VCPU_OP(return [](VcpuRunner& r) -> Result { return double(r.vcpu().get_tsc_khz()); };)},
      {"setTscKhz", VCPU_OP(return [khz = args.u32(0)](VcpuRunner& r) {
         r.vcpu().set_tsc_khz(khz);
         return nothing();
       };)},
      {"interrupt", VCPU_OP(return [vector = args.u32(0)](VcpuRunner& r) {
         r.vcpu().interrupt(vector);
         return nothing();
       };)},
      {"nmi", VCPU_OP(return [](VcpuRunner& r) {
         r.vcpu().nmi();
         return nothing();
       };)},
      {"smi", VCPU_OP(return [](VcpuRunner& r) {
         r.vcpu().smi();
         return nothing();
       };)},
      {"setGuestDebug", vcpu_write<kvm_guest_debug, &Vcpu::set_guest_debug>()},
      {"enableCap", VCPU_OP(uint64_t values[2] = {};
                            for (size_t i = 0; i < 2; ++i) if (args.has(i + 1)) values[i] = args.u64(i + 1);
                            return [cap = args.u32(0), a = values[0], b = values[1]](VcpuRunner& r) {
                              r.vcpu().enable_cap(cap, a, b);
                              return nothing();
                            };)},
      {"getNestedState", vcpu_read<&Vcpu::get_nested_state>()},
      {"setNestedState", vcpu_write_list<uint8_t, &Vcpu::set_nested_state>()},
      {"getOneReg",
       VCPU_OP(return [id = args.u64(0)](VcpuRunner& r) -> Result { return r.vcpu().get_one_reg(id); };)},
      {"setOneReg", VCPU_OP(return [id = args.u64(0), v = args.u64(1)](VcpuRunner& r) {
         r.vcpu().set_one_reg(id, v);
         return nothing();
       };)},
      {"getRegList", vcpu_read<&Vcpu::get_reg_list>()},
      {"translate",
       VCPU_OP(return [at = args.u64(0)](VcpuRunner& r) { return as_bytes(r.vcpu().translate(at)); };)},
      {"setSignalMask", VCPU_OP(std::optional<uint64_t> mask; if (args.has(0)) mask = args.u64(0);
                                return [mask](VcpuRunner& r) {
                                  r.vcpu().set_signal_mask(mask);
                                  return nothing();
                                };)},
      {"setupMce", VCPU_OP(return [cap = args.u64(0)](VcpuRunner& r) {
         r.vcpu().setup_mce(cap);
         return nothing();
       };)},
      {"setMce", vcpu_write<kvm_x86_mce, &Vcpu::set_mce>()},
      {"kvmclockCtrl", VCPU_OP(return [](VcpuRunner& r) {
         r.vcpu().kvmclock_ctrl();
         return nothing();
       };)},
      {"tprAccessReporting", VCPU_OP(return [ctl = args.pod<kvm_tpr_access_ctl>(0)](VcpuRunner& r) {
         return as_bytes(r.vcpu().tpr_access_reporting(ctl));
       };)},
      {"setVapicAddr", VCPU_OP(return [at = args.u64(0)](VcpuRunner& r) {
         r.vcpu().set_vapic_addr(at);
         return nothing();
       };)},
      {"stats", VCPU_OP(return [](VcpuRunner& r) { return pack(r.vcpu().stats()); };)},
      {"hasAttr", VCPU_OP(return [g = args.u32(0), a = args.u64(1)](VcpuRunner& r) -> Result {
         return r.vcpu().has_attr(g, a);
       };)},
      {"getAttr", VCPU_OP(return [g = args.u32(0), a = args.u64(1)](VcpuRunner& r) -> Result {
         return r.vcpu().get_attr(g, a);
       };)},
      {"setAttr", VCPU_OP(return [g = args.u32(0), a = args.u64(1), v = args.u64(2)](VcpuRunner& r) {
         r.vcpu().set_attr(g, a, v);
         return nothing();
       };)},
      {"drainCoalesced", VCPU_OP(return [](VcpuRunner& r) {
         std::vector<kvm_coalesced_mmio> all;
         r.vcpu().drain_coalesced([&](const kvm_coalesced_mmio& one) { all.push_back(one); });
         return as_bytes(all);
       };)},
      {"respond", VCPU_OP(return [bytes = args.bytes(0)](VcpuRunner& r) {
         r.respond(bytes);
         return nothing();
       };)},
      {"refuseMsr", VCPU_OP(return [](VcpuRunner& r) {
         r.refuse_msr();
         return nothing();
       };)},
      {"completeIo", VCPU_OP(return [](VcpuRunner& r) -> Result {
         return r.vcpu().complete_io() == kvm::RunResult::kInterrupted;
       };)},
      // Reads and writes kvm_run itself: what it holds besides the exit (window request, cr8, synced
      // registers).
      {"readRunPage", VCPU_OP(return [at = args.u64(0), size = args.u64(1)](VcpuRunner& r) -> Result {
         if (at > sizeof(kvm_run) || size > sizeof(kvm_run) - at)
           throw Error("ERANGE", "outside of struct kvm_run");
         const auto* from = reinterpret_cast<const uint8_t*>(r.vcpu().run_page()) + at;
         return std::vector<uint8_t>(from, from + size);
       };)},
      {"writeRunPage", VCPU_OP(return [at = args.u64(0), bytes = args.bytes(1)](VcpuRunner& r) {
         if (at > sizeof(kvm_run) || bytes.size() > sizeof(kvm_run) - at)
           throw Error("ERANGE", "outside of struct kvm_run");
         std::copy(bytes.begin(), bytes.end(), reinterpret_cast<uint8_t*>(r.vcpu().run_page()) + at);
         return nothing();
       };)},
      {"setHltPolicy", VCPU_OP(return [resume = args.boolean(0)](VcpuRunner& r) {
         r.set_hlt_policy(resume ? VcpuRunner::HltPolicy::kResume : VcpuRunner::HltPolicy::kExit);
         return nothing();
       };)},
  };
  return ops;
}

}  // namespace hypertwin::addon
