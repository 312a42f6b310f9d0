// Exits of KVM_RUN that are answered alike on every board.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

// KVM_EXIT_DIRTY_RING_FULL. Throws Error("RING_FULL") when nobody harvests.
void serve_ring_full(const kvm::Vm& vm);
// An exit that no board can go on from: throws Error FAIL_ENTRY, KVM_INTERNAL or UNEXPECTED_EXIT.
[[noreturn]] void throw_fatal_exit(const kvm::Vcpu& vcpu);

// Where a port exit's data lie. Throws Error("KVM_INTERNAL") unless all of it is in the run page.
inline uint8_t* port_data(const kvm::Vcpu& vcpu) {
  kvm_run& run = *vcpu.run_page();
  if (run.io.data_offset + uint64_t{run.io.size} * run.io.count > vcpu.run_page_size())
    throw Error("KVM_INTERNAL", "port data out of range");
  return reinterpret_cast<uint8_t*>(&run) + run.io.data_offset;
}

// KVM_EXIT_IO and KVM_EXIT_MMIO, from a board's registers.
template <class Board>
void serve_port(const kvm::Vcpu& vcpu, Board& board) {
  const kvm_run& run = *vcpu.run_page();
  const unsigned size = run.io.size;
  uint8_t* data = port_data(vcpu);
  for (uint32_t i = 0; i < run.io.count; ++i, data += size) {
    uint32_t value = 0;
    if (run.io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, size);
      board.port_write(run.io.port, size, value);
    } else {
      value = board.port_read(run.io.port, size);
      std::memcpy(data, &value, size);
    }
  }
}

template <class Board>
void serve_mmio(const kvm::Vcpu& vcpu, Board& board) {
  kvm_run& run = *vcpu.run_page();
  uint64_t value = 0;
  const unsigned size = std::min<uint32_t>(run.mmio.len, sizeof(value));
  if (run.mmio.is_write) {
    std::memcpy(&value, run.mmio.data, size);
    board.mmio_write(run.mmio.phys_addr, size, value);
  } else {
    value = board.mmio_read(run.mmio.phys_addr, size);
    std::memcpy(run.mmio.data, &value, size);
  }
}

}  // namespace hypertwin::machine
