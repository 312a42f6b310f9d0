// One vCPU's dirty ring: an array of kvm_dirty_gfn shared with the kernel (Documentation/virt/kvm/api.rst
// 8.29). This only takes entries out of it; Vm::reset_dirty_rings gives them back to the kernel.
#pragma once

#include "kvm/linux_kvm.h"

#include <cstdint>
#include <memory>

#include "base/error.h"
#include "kvm/kvm.h"

namespace hypertwin::kvm {

class DirtyRing {
 public:
  // Throws Error("ENORING") when the VM had no ring enabled before the vCPU was created.
  explicit DirtyRing(std::shared_ptr<const Vcpu> vcpu) : vcpu_(std::move(vcpu)) {
    const Mapping& mapping = vcpu_->dirty_ring();
    if (!mapping)
      throw Error("ENORING",
                  "vCPU " + std::to_string(vcpu_->id()) +
                      " has no dirty ring: enable KVM_CAP_DIRTY_LOG_RING on the VM before its first vCPU");
    entries_ = reinterpret_cast<kvm_dirty_gfn*>(mapping.data());
    count_ = static_cast<uint32_t>(mapping.size() / sizeof(kvm_dirty_gfn));
  }

  // Calls each(slot, offset) for every dirty entry in order, where `slot` has the address space in its
  // upper half and `offset` is the page within the slot; marks them harvested. Returns how many. One caller
  // at a time; the vCPU may run meanwhile. An entry that names no page of a slot is the caller's to reject.
  template <typename Each>
  uint32_t harvest(Each&& each) {
    uint32_t harvested = 0;
    // Counts up; the ring's size is a power of two, so wrapping is harmless.
    uint32_t& next = vcpu_->dirty_ring_next();
    while (harvested < count_) {
      kvm_dirty_gfn& entry = entries_[next % count_];
      // Acquire: slot and offset were written before the flag. Anything but "dirty, not harvested" ends.
      if (__atomic_load_n(&entry.flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY) break;
      each(entry.slot, entry.offset);
      // Release: the entry was read before the kernel may use it again.
      __atomic_store_n(&entry.flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
      ++next;
      ++harvested;
    }
    return harvested;
  }

  uint32_t capacity() const { return count_; }

 private:
  std::shared_ptr<const Vcpu> vcpu_;
  kvm_dirty_gfn* entries_ = nullptr;
  uint32_t count_ = 0;
};

}  // namespace hypertwin::kvm
