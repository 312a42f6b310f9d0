// Which pages of a guest's memory hold anything, and their digest. Pages never touched are not touched here.
#pragma once

#include <cstdint>
#include <functional>

#include "base/digest.h"
#include "devices/guest_ram.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

// Calls `run` with [first page, pages) of each run of pages that are not all zero, in ascending order.
void for_each_run(const kvm::GuestMemory& memory, const std::function<void(uint64_t, uint64_t)>& run);

// Covers the address and content of each page that is not all zero.
Digest128 memory_digest(const kvm::GuestMemory& memory);

}  // namespace hypertwin::machine
