// A virtio device on PCI, "modern" only (virtio 1.2, section 4.1). The same registers are offered twice: BAR
// 0, memory, 16 KiB (its capabilities come first), and BAR 2, I/O ports, 256 bytes, for guests that cannot
// use memory-mapped registers cheaply. Interrupts are INTx and, where the board has a way for messages, MSI-X
// with a vector for each queue and one for the configuration (BAR 4); else every MSI-X vector register reads
// "none".
//
//            BAR 0 (memory)                 BAR 2 (I/O)
//   common   0x0000                         0x00
//   notify   0x3000, 4 bytes a queue        0x40, one for all queues: write the queue's index
//   ISR      0x1000                         0x48
//   device   0x2000                         0x80
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "devices/msix.h"
#include "devices/pci.h"
#include "devices/virtio.h"

namespace hypertwin::devices {

class VirtioPci final : public PciDevice, public VirtioTransport {
 public:
  static constexpr uint16_t kNoVector = 0xffff;
  static constexpr unsigned kMemoryBar = 0, kIoBar = 2, kMessageBar = 4;
  static constexpr uint32_t kMemorySize = 0x4000, kIoSize = 0x100;
  static constexpr uint32_t kMemoryCommon = 0, kMemoryIsr = 0x1000, kMemoryDevice = 0x2000,
                            kMemoryNotify = 0x3000;
  static constexpr uint32_t kIoCommon = 0, kIoNotify = 0x40, kIoIsr = 0x48, kIoDevice = 0x80;

  // None is owned; all must outlive this. `messages`: nullptr for a board that has INTx alone.
  VirtioPci(VirtioDevice& device, IrqLine& intx, MessageSink* messages = nullptr);
  ~VirtioPci() override;

  std::string_view name() const override { return device_.name(); }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t config_read(uint8_t offset, unsigned size) override;
  void config_write(uint8_t offset, unsigned size, uint32_t value) override;
  uint32_t bar_read(unsigned bar, uint32_t offset, unsigned size) override;
  void bar_write(unsigned bar, uint32_t offset, unsigned size, uint32_t value) override;
  void queue_interrupt(unsigned queue) override;
  // An eventfd that does the same, until interrupts change; -1 where none does.
  int queue_event(unsigned queue) const;
  // Called, under the guard, when the guest may have changed where interrupts go.
  void watch_interrupts(std::function<void()> watcher) { interrupts_changed_ = std::move(watcher); }
  void config_interrupt() override;
  void queue_again(unsigned queue) override {
    if (serve_) serve_(queue);
  }
  // Who serves a queue that the guest has notified by an access, or that may hold more than a turn took.
  // Called under the guard. Without it the access itself is the device's turn, and takes all: the guest
  // stands still meanwhile.
  void serve_elsewhere(std::function<void(unsigned queue)> serve) { serve_ = std::move(serve); }

 private:
  enum class Area : uint8_t { kNone, kCommon, kNotify, kIsr, kDevice };
  struct Place {
    Area area;
    uint32_t offset;
  };
  static Place locate(unsigned bar, uint32_t offset);
  // As by the driver, which has to set the device up anew.
  void reset();
  void on_master_cleared() override { reset(); }
  void add_capabilities(unsigned bar);
  void add_msix(MessageSink& sink);
  uint16_t vector(uint32_t value) const;
  void notify(uint32_t queue);
  void interrupts_changed() const {
    if (interrupts_changed_) interrupts_changed_();
  }
  void reset_vectors();
  void interrupt(uint8_t isr, uint16_t vector);
  uint32_t common_read(uint32_t offset, unsigned size) const;
  void common_write(uint32_t offset, unsigned size, uint32_t value);
  bool window(unsigned& bar, uint32_t& offset, unsigned& size) const;
  VirtQueue* selected() const;

  VirtioDevice& device_;
  uint8_t isr_ = 0;
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint16_t queue_select_ = 0;
  uint8_t window_capability_ = 0;
  std::optional<Msix> msix_;
  uint8_t msix_capability_ = 0;
  uint16_t config_vector_ = kNoVector;
  std::vector<uint16_t> queue_vectors_;
  std::function<void()> interrupts_changed_;
  std::function<void(unsigned)> serve_;
};

}  // namespace hypertwin::devices
