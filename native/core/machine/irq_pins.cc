#include "machine/irq_pins.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/event.h"

namespace hypertwin::machine {

devices::IrqLine& IrqPins::new_source(uint8_t pin) {
  sources_.push_back(std::make_unique<Source>(*this, pin));
  return *sources_.back();
}

void IrqPins::set(uint8_t pin, bool& was, bool level) {
  std::lock_guard lock(mutex_);
  if (was == level) return;
  was = level;
  unsigned& high = high_[pin];
  high += level ? 1 : -1;
  if (high == (level ? 1u : 0u)) vm_->irq_line(pin, level);
}

void IrqPins::save(ByteWriter& out) const {
  out.varint(sources_.size());
  for (const auto& source : sources_) out.u8(source->level());
}

void IrqPins::load(ByteReader& in) {
  if (in.varint() != sources_.size()) in.corrupt("another number of interrupt sources than this machine has");
  for (auto& source : sources_) source->set(in.u8() != 0);
}

// What the kernel has by itself after KVM_CREATE_IRQCHIP, since a table replaces all of it.
MessageRoutes::MessageRoutes(std::shared_ptr<kvm::Vm> vm) : vm_(std::move(vm)) {
  auto chip = [this](uint32_t gsi, uint32_t irqchip, uint32_t pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entries_.push_back(entry);
  };
  for (uint32_t gsi = 0; gsi < kFirstGsi; ++gsi) {
    // The timer's interrupt is at the I/O APIC where the second 8259 would be.
    if (gsi != IrqPins::kTimerOfIoApic)
      chip(gsi, KVM_IRQCHIP_IOAPIC, gsi == IrqPins::kTimerOfPic ? IrqPins::kTimerOfIoApic : gsi);
    if (gsi < 8) chip(gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
    if (gsi >= 8 && gsi < 16) chip(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8);
  }
}

devices::MessageSink& MessageRoutes::new_function(unsigned vectors) {
  functions_.push_back(std::make_unique<Function>(*this, next_gsi_, vectors));
  next_gsi_ += vectors;
  return *functions_.back();
}

void MessageRoutes::set(uint32_t gsi, const devices::Message& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32);
  entry.u.msi.data = message.data;
  std::lock_guard lock(mutex_);
  auto it = std::find_if(entries_.begin(), entries_.end(), [&](const auto& e) { return e.gsi == gsi; });
  if (it == entries_.end())
    entries_.push_back(entry);
  else
    *it = entry;
  vm_->set_gsi_routing(entries_);
}

MessageRoutes::Function::Function(MessageRoutes& routes, uint32_t first_gsi, unsigned vectors)
    : routes_(routes), first_gsi_(first_gsi) {
  for (unsigned i = 0; i < vectors; ++i) {
    events_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!events_.back()) throw_errno("eventfd", "for an interrupt");
    routes_.vm_->assign_irqfd(events_.back().get(), first_gsi_ + i);
  }
}

void MessageRoutes::Function::set_message(unsigned vector, const devices::Message& message) {
  routes_.set(first_gsi_ + vector, message);
}

void MessageRoutes::Function::signal(unsigned vector) {
  routes_.signalled_.fetch_add(1, std::memory_order_relaxed);
  ring(events_[vector].get());
}

}  // namespace hypertwin::machine
