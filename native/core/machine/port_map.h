// Which device answers which I/O port; what none does, PCI's windows may.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "devices/device.h"
#include "devices/pci.h"

namespace hypertwin::machine {

class PortMap {
 public:
  explicit PortMap(devices::PciRoot& pci) : pci_(pci) {}

  // A later device takes ports from an earlier one. Neither is owned.
  template <class D>
  void add(D& device) {
    ports_.push_back(&device);
    for (const auto& range : D::kPorts)
      for (unsigned i = 0; i < range.count; ++i)
        map_[range.first + i] = static_cast<uint8_t>(ports_.size() - 1);
  }

  // Whether PCI answers: its configuration, or what may be a window.
  bool of_pci(uint16_t port) const {
    const auto* device = ports_[map_[port]];
    return !device || device == &pci_;
  }
  // Size 1, 2 or 4. What nobody answers reads as all ones.
  uint32_t read(uint16_t port, unsigned size) const {
    uint32_t value = 0;
    if (auto* device = ports_[map_[port]])
      value = device->port_read(port, size);
    else if (!pci_.port_access(port, size, false, value))
      value = ~uint32_t{0};
    return size >= 4 ? value : value & ((uint32_t{1} << (8 * size)) - 1);
  }

  void write(uint16_t port, unsigned size, uint32_t value) const {
    if (auto* device = ports_[map_[port]]) return device->port_write(port, size, value);
    pci_.port_access(port, size, true, value);
  }

 private:
  devices::PciRoot& pci_;
  std::vector<devices::PortDevice*> ports_{nullptr};  // 0: nobody
  std::array<uint8_t, 65536> map_{};                  // port -> index in ports_
};

}  // namespace hypertwin::machine
