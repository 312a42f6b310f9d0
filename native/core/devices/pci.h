// PCI bus 0 behind configuration mechanism 1: a host bridge at 00:00.0, and devices that decode their own
// I/O and memory windows. Windows and interrupt lines are assigned when a device is added, as firmware would.
// Accesses of the guest come one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/device.h"

namespace hypertwin::devices {

class PciDevice : public Device {
 public:
  static constexpr unsigned kBars = 6;
  static constexpr uint16_t kCommandIo = 1, kCommandMemory = 2, kCommandMaster = 4, kCommandNoIntx = 1 << 10;

  struct Identity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint32_t class_code = 0;  // 24 bits: class, subclass, interface
    uint8_t revision = 0;
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
  };

  // What lies at `offset`, with size 1, 2 or 4; a subclass may override for registers that act.
  virtual uint32_t config_read(uint8_t offset, unsigned size);
  virtual void config_write(uint8_t offset, unsigned size, uint32_t value);

  // The window accesses; offset + size lies within the bar. size is 1, 2 or 4.
  virtual uint32_t bar_read(unsigned bar, uint32_t offset, unsigned size) = 0;
  virtual void bar_write(unsigned bar, uint32_t offset, unsigned size, uint32_t value) = 0;

  // Where a window lies, unless it is disabled.
  std::optional<uint32_t> window_base(unsigned bar) const;
  // Held during each access by the guest, for a device that other threads call too. Must outlive the
  // accesses.
  void guard(std::mutex& mutex) { guard_ = &mutex; }
  // Called, under the guard, when the guest may have moved, enabled or disabled a window.
  void watch_windows(std::function<void()> watcher) { windows_changed_ = std::move(watcher); }

  // False when no enabled window of this device holds the whole access.
  bool port_access(uint16_t port, unsigned size, bool write, uint32_t& value);
  bool mmio_access(uint64_t address, unsigned size, bool write, uint64_t& value);

 protected:
  PciDevice(const Identity& identity, IrqLine* intx);
  // `size` is a power of two, >= 16 (memory) or >= 4 (I/O).
  void add_bar(unsigned bar, uint32_t size, bool io);
  // Appends a capability (its id and next pointer are filled in); returns its offset.
  uint8_t add_capability(uint8_t id, std::span<const uint8_t> body);
  void allow_write(uint8_t offset, std::span<const uint8_t> mask);
  // The guest has taken Bus Master away: no more of its memory may be touched. Without firmware nobody gives
  // it at first, so a device that never had it works.
  virtual void on_master_cleared() {}
  // Drives INTx, unless the guest disabled it.
  void set_interrupt(bool level);
  uint16_t command() const;
  uint32_t bar_size(unsigned bar) const { return bars_[bar].size; }
  const std::array<uint8_t, 256>& config() const { return config_; }
  void save_config(ByteWriter& out) const;
  void load_config(ByteReader& in);

 private:
  friend class PciRoot;
  struct Bar {
    uint32_t size = 0;  // 0: not there
    bool io = false;
  };
  uint32_t bar_base(unsigned bar) const;
  void assign(uint32_t& next_io, uint32_t& next_memory, uint8_t irq);
  void drive();
  std::unique_lock<std::mutex> guarded() const {
    return guard_ ? std::unique_lock(*guard_) : std::unique_lock<std::mutex>();
  }

  std::array<uint8_t, 256> config_{};
  std::array<uint8_t, 256> writable_{};
  std::array<Bar, kBars> bars_{};
  IrqLine* intx_;
  uint8_t last_capability_ = 0;
  uint16_t capability_end_ = 0x40;
  bool interrupt_ = false;
  std::mutex* guard_ = nullptr;
  std::function<void()> windows_changed_;
};

class PciRoot final : public Device, public PortDevice {
 public:
  // 0xcf9..0xcfb are not ours: mechanism 1 takes only 4-byte accesses of 0xcf8.
  static constexpr PortRange kPorts[] = {{0xcf8, 1}, {0xcfc, 4}};
  static constexpr uint32_t kIoBase = 0xc000, kIoEnd = 0x10000;
  static constexpr uint32_t kMemoryBase = 0xe0000000, kMemoryEnd = 0xfec00000;
  static constexpr unsigned kMaxDevices = 31;

  PciRoot();
  ~PciRoot() override;

  // Puts a device in the next slot (1, 2, ...), assigns its windows, and writes `irq` in its Interrupt Line.
  // The device is not owned and must outlive the accesses. Throws Error("ENOSPC") when there is no room.
  void add(PciDevice& device, uint8_t irq);

  // For accesses that no fixed device takes: false when no device's window holds it.
  bool port_access(uint16_t port, unsigned size, bool write, uint32_t& value);
  bool mmio_access(uint64_t address, unsigned size, bool write, uint64_t& value);

  std::string_view name() const override { return "pci"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  class HostBridge;
  PciDevice* selected() const;

  std::unique_ptr<HostBridge> bridge_;
  std::vector<PciDevice*> devices_;  // by slot; 0 is the bridge
  uint32_t address_ = 0;
  uint32_t next_io_ = kIoBase;
  uint32_t next_memory_ = kMemoryBase;
};

}  // namespace hypertwin::devices
