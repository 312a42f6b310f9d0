// What differs between KVM implementations and shows in a log: found out by doing, once a process.
#pragma once

#include <memory>
#include <string>

#include "kvm/kvm.h"

namespace hypertwin::machine {

struct Quirks {
  // At a port-I/O exit the registers stand past the instruction (else on it).
  bool rip_past_port_io = false;
  // KVM_EXIT_IRQ_WINDOW_OPEN comes at the very instruction before which an interrupt could be taken first.
  // Where it does not (instructions emulated in batches), it may come anywhere later: not replayable, and the
  // deterministic board then injects at the guest's other exits only.
  bool exact_irq_window = false;

  // As a log's header holds it.
  std::string text() const;
};

// Whether a debugger gets the guest's int3 (KVM_EXIT_DEBUG); else it stays with the guest.
bool breakpoints_exit(const std::shared_ptr<kvm::System>& system);

Quirks kvm_quirks(const std::shared_ptr<kvm::System>& system);

}  // namespace hypertwin::machine
