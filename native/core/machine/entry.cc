#include "machine/entry.h"

namespace hypertwin::machine {

// 32-bit protected mode, paging off, flat segments.
void set_entry(kvm::Vcpu& vcpu, const boot::Entry& entry) {
  kvm_sregs sregs = vcpu.get_sregs();
  kvm_segment data{};
  data.limit = 0xffffffff;
  data.selector = entry.gdt ? 0x18 : 0x10;
  data.type = 3;
  data.present = data.db = data.s = data.g = 1;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.cs = data;
  sregs.cs.selector = entry.gdt ? 0x10 : 0x08;
  sregs.cs.type = 11;
  kvm_segment tss{};
  tss.limit = 0x67;
  tss.selector = 0x18;
  tss.type = 11;
  tss.present = 1;
  sregs.tr = tss;
  if (entry.gdt) {
    sregs.gdt.base = entry.gdt;
    sregs.gdt.limit = entry.gdt_limit;
  }
  sregs.cr0 = 1;
  sregs.cr4 = 0;
  sregs.efer = 0;
  vcpu.set_sregs(sregs);
  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rbx = entry.rbx;
  regs.rsi = entry.rsi;
  regs.rflags = 2;
  vcpu.set_regs(regs);
}

}  // namespace hypertwin::machine
