// The standard board's ways to interrupt: pins of the kernel's interrupt controllers, shared by level, and
// messages (MSI-X) by irqfd.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "devices/device.h"
#include "devices/msix.h"
#include "kvm/kvm.h"

namespace hypertwin::machine {

// A pin is high while one of its sources is. Any thread.
class IrqPins {
 public:
  // Where the kernel's timer comes.
  static constexpr unsigned kTimerOfPic = 0, kTimerOfIoApic = 2;

  explicit IrqPins(std::shared_ptr<kvm::Vm> vm) : vm_(std::move(vm)) {}
  // Lives as long as this.
  devices::IrqLine& new_source(uint8_t pin);
  // Of each source, in the order in which they were made.
  void save(ByteWriter& out) const;
  void load(ByteReader& in);

 private:
  class Source final : public devices::IrqLine {
   public:
    Source(IrqPins& pins, uint8_t pin) : pins_(pins), pin_(pin) {}
    void set(bool level) override { pins_.set(pin_, level_, level); }
    bool level() const { return level_; }

   private:
    IrqPins& pins_;
    uint8_t pin_;
    bool level_ = false;
  };
  void set(uint8_t pin, bool& was, bool level);

  static constexpr unsigned kPins = 24;
  std::shared_ptr<kvm::Vm> vm_;
  std::mutex mutex_;
  std::array<unsigned, kPins> high_{};
  std::vector<std::unique_ptr<Source>> sources_;
};

// The table of all routes: the kernel takes it as a whole. Any thread.
class MessageRoutes {
 public:
  explicit MessageRoutes(std::shared_ptr<kvm::Vm> vm);
  // One function's vectors; lives as long as this.
  devices::MessageSink& new_function(unsigned vectors);
  uint64_t signalled() const { return signalled_.load(std::memory_order_relaxed); }

 private:
  class Function final : public devices::MessageSink {
   public:
    Function(MessageRoutes& routes, uint32_t first_gsi, unsigned vectors);
    void set_message(unsigned vector, const devices::Message& message) override;
    void signal(unsigned vector) override;
    int event(unsigned vector) override { return events_[vector].get(); }

   private:
    MessageRoutes& routes_;
    uint32_t first_gsi_;
    std::vector<Fd> events_;
  };
  void set(uint32_t gsi, const devices::Message& message);

  static constexpr uint32_t kFirstGsi = 24;
  std::shared_ptr<kvm::Vm> vm_;
  std::mutex mutex_;
  std::vector<kvm_irq_routing_entry> entries_;
  uint32_t next_gsi_ = kFirstGsi;
  std::atomic<uint64_t> signalled_{0};
  std::vector<std::unique_ptr<Function>> functions_;
};

}  // namespace hypertwin::machine
