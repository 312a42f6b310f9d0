#include "dirty/tiny_guest.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace hypertwin::dirty {

namespace {

constexpr uint64_t kLowSize = 64 * 1024;
constexpr uint64_t kPml4 = 0x1000;
constexpr uint64_t kPdpt = 0x2000;
constexpr uint64_t kPageDirectories = 0x3000;  // four: 4 GiB
constexpr uint64_t kTss = 0x9000;              // and its I/O bitmap
constexpr uint64_t kCode = 0xd000;
constexpr uint16_t kPort = 0x10;
constexpr uint64_t kHugePage = 2 << 20;

// Present, writable, user, accessed, dirty: set beforehand, so that a walk writes nothing.
constexpr uint64_t kTable = 0x27;
constexpr uint64_t kLeaf = 0xe7;

constexpr uint8_t kProgram[] = {
    0xe6, kPort,              // entry: out %al, $port     (the host sets the registers here)
    0x48, 0x85,  0xd2,        //   test %rdx, %rdx
    0x75, 0x0d,               //   jnz scatter
    0x48, 0x89,  0x07,        // fill: mov %rax, (%rdi)
    0x48, 0x01,  0xf7,        //   add %rsi, %rdi
    0x48, 0xff,  0xc9,        //   dec %rcx
    0x75, 0xf5,               //   jnz fill
    0xeb, 0xec,               //   jmp entry
    0x49, 0x89,  0xda,        // scatter: rbx = xorshift64(rbx)
    0x49, 0xc1,  0xe2, 0x0d,  //   shl $13, %r10
    0x4c, 0x31,  0xd3,        //   xor %r10, %rbx
    0x49, 0x89,  0xda,        //   mov %rbx, %r10
    0x49, 0xc1,  0xea, 0x07,  //   shr $7, %r10
    0x4c, 0x31,  0xd3,        //   xor %r10, %rbx
    0x49, 0x89,  0xda,        //   mov %rbx, %r10
    0x49, 0xc1,  0xe2, 0x11,  //   shl $17, %r10
    0x4c, 0x31,  0xd3,        //   xor %r10, %rbx
    0x49, 0x89,  0xda,        //   mov %rbx, %r10
    0x4d, 0x21,  0xca,        //   and %r9, %r10
    0x4b, 0x89,  0x04, 0x10,  //   mov %rax, (%r8,%r10)
    0x48, 0xff,  0xc0,        //   inc %rax
    0x48, 0xff,  0xc9,        //   dec %rcx
    0x75, 0xd0,               //   jnz scatter
    0xeb, 0xba,               //   jmp entry
};

void put(uint8_t* memory, uint64_t address, uint64_t value) { std::memcpy(memory + address, &value, 8); }

kvm_segment segment(uint16_t selector, uint8_t type, bool user, bool code) {
  kvm_segment out{};
  out.limit = 0xffffffff;
  out.selector = static_cast<uint16_t>(selector | (user ? 3 : 0));
  out.type = type;
  out.present = 1;
  out.dpl = user ? 3 : 0;
  out.s = 1;
  out.g = 1;
  out.l = code;
  out.db = !code;
  return out;
}

}  // namespace

TinyGuest::TinyGuest(const std::shared_ptr<kvm::System>& system, const Options& options)
    : user_(options.user) {
  if (options.data_size == 0 || options.data_size % devices::kPageSize ||
      options.data_size > uint64_t{3} << 30)
    throw Error("EINVAL", "data_size must be whole pages, up to 3 GiB");
  low_ = kvm::GuestMemory::allocate(kLowSize, {});
  data_ = kvm::GuestMemory::allocate(options.data_size, {.backing = options.backing});
  target_.vm = system->create_vm();
  if (options.ring_bytes) enable_ring(*target_.vm, options.ring_bytes);
  target_.vm->set_user_memory_region({kSystemSlot, 0, kLowSize, 0, 0, low_});
  target_.vm->set_user_memory_region({kDataSlot, kDataAddress, options.data_size, 0, 0, data_});
  target_.ram = std::make_shared<devices::GuestRam>(std::vector<devices::GuestRam::Region>{
      {0, kLowSize, low_->data(), kSystemSlot}, {kDataAddress, options.data_size, data_->data(), kDataSlot}});
  vcpu_ = target_.vm->create_vcpu(0);
  target_.vcpus = {vcpu_};
  vcpu_->set_cpuid2(system->supported_cpuid());
  set_up();
}

void TinyGuest::set_up() {
  uint8_t* low = low_->data();
  put(low, kPml4, kPdpt | kTable);
  for (uint64_t gib = 0; gib < 4; ++gib) {
    uint64_t directory = kPageDirectories + gib * 0x1000;
    put(low, kPdpt + gib * 8, directory | kTable);
    for (uint64_t i = 0; i < 512; ++i) put(low, directory + i * 8, (gib << 30) + i * kHugePage + kLeaf);
  }
  // I/O from CPL 3: by IOPL on some hosts, by the bitmap (all zero: all ports) on others.
  low[kTss + 0x66] = 0x68;
  low[kTss + 0x68 + 8192] = 0xff;
  std::memcpy(low + kCode, kProgram, sizeof kProgram);

  kvm_sregs sregs = vcpu_->get_sregs();
  sregs.cs = segment(0x8, 11, user_, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0x10, 3, user_, false);
  sregs.tr = {};
  sregs.tr.base = kTss;
  sregs.tr.limit = 0x68 + 8192;
  sregs.tr.selector = 0x18;
  sregs.tr.type = 11;
  sregs.tr.present = 1;
  sregs.gdt = {};
  sregs.idt = {};
  sregs.cr3 = kPml4;
  sregs.cr4 = 0x20;        // PAE
  sregs.cr0 = 0x80010031;  // PG, WP, NE, ET, PE
  sregs.efer = 0x500;      // LME, LMA
  vcpu_->set_sregs(sregs);
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rsp = kLowSize;
  regs.rflags = 0x3002;  // IOPL 3
  vcpu_->set_regs(regs);
  if (!run()) throw Error("GUEST", "the guest did not reach its first exit");
}

bool TinyGuest::run() {
  for (;;) {
    kvm::RunResult result = vcpu_->run();
    if (result == kvm::RunResult::kInterrupted) {
      if (stop_.exchange(false)) return false;
      continue;
    }
    if (result == kvm::RunResult::kAgain) continue;
    const kvm_run* page = vcpu_->run_page();
    if (page->exit_reason == KVM_EXIT_IO && page->io.port == kPort) {
      vcpu_->complete_io();
      return !stop_.exchange(false);
    }
    if (page->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
      ++ring_full_exits_;
      if (ring_full_) {
        ring_full_();
      } else if (!target_.vm->handle_ring_full()) {
        throw Error("GUEST", "the dirty ring is full and nobody empties it");
      }
      continue;
    }
    if (page->exit_reason == KVM_EXIT_INTR) continue;
    throw Error("GUEST", "the guest ended with exit reason " + std::to_string(page->exit_reason) +
                             " at RIP " + std::to_string(vcpu_->get_regs().rip));
  }
}

bool TinyGuest::fill(uint64_t offset, uint64_t stride, uint64_t count, uint64_t value) {
  if (count == 0) return true;
  if (offset > data_size() - 8 || (count > 1 && stride > (data_size() - 8 - offset) / (count - 1)))
    throw Error("ERANGE", "the writes would leave the data");
  kvm_regs regs = vcpu_->get_regs();
  regs.rax = value;
  regs.rcx = count;
  regs.rdx = 0;
  regs.rsi = stride;
  regs.rdi = kDataAddress + offset;
  vcpu_->set_regs(regs);
  return run();
}

bool TinyGuest::scatter(uint64_t seed, uint64_t count, uint64_t value) {
  if (count == 0) return true;
  if (seed == 0 || (data_size() & (data_size() - 1)))
    throw Error("EINVAL", "a seed of 0, or a size of no power of two");
  kvm_regs regs = vcpu_->get_regs();
  regs.rax = value;
  regs.rbx = seed;
  regs.rcx = count;
  regs.rdx = 1;
  regs.r8 = kDataAddress;
  regs.r9 = (data_size() - 1) & ~uint64_t{7};
  vcpu_->set_regs(regs);
  return run();
}

void TinyGuest::stop() {
  stop_ = true;
  vcpu_->kick();
}

}  // namespace hypertwin::dirty

#endif
