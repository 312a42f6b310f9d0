// Two small port devices: the guest's ways to end itself, and the marker port by which our own
// guests tell tests and benchmarks where they are.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "devices/device.h"

namespace hypertwin::devices {

// 0x604: a 16-bit write with SLP_EN (bit 13) powers off. 0x64: reads 0xff (no keyboard controller), and the
// write of 0xfe resets. 0xcf9: a write with bit 2 resets.
class PowerPort final : public Device, public PortDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x64, 1}, {0x604, 2}, {0xcf9, 1}};

  explicit PowerPort(Host& host) : host_(host) {}

  std::string_view name() const override { return "power"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  Host& host_;
};

// 0x5000: a 4-byte write is a marker, a 4-byte read gives the last one. 0x5004: a 4-byte read gives how many
// there were. Byte writes to 0x5001 and 0x5008 go nowhere: for measuring what an exit costs.
class DebugPort final : public Device, public PortDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x5000, 16}};

  explicit DebugPort(std::function<void(uint32_t)> on_marker = {}) : on_marker_(std::move(on_marker)) {}
  uint32_t last() const { return last_; }
  uint64_t count() const { return count_; }

  std::string_view name() const override { return "debug"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  std::function<void(uint32_t)> on_marker_;
  uint32_t last_ = 0;
  uint64_t count_ = 0;
};

}  // namespace hypertwin::devices
