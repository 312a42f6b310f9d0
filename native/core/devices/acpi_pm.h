// ACPI's fixed hardware: the power-button event, S5, and the timer of 3.579545 MHz.
#pragma once

#include <cstdint>

#include "devices/device.h"

namespace hypertwin::devices {

class AcpiPm final : public Device, public PortDevice {
 public:
  static constexpr uint16_t kEvents = 0x600, kControl = 0x604, kTimer = 0x608;
  static constexpr PortRange kPorts[] = {{0x600, 12}};
  static constexpr uint8_t kPowerOffType = 0;  // what S5 is in the tables
  static constexpr uint64_t kFrequency = 3579545;

  // `sci`: ACPI's interrupt, level-triggered.
  AcpiPm(Host& host, IrqLine& sci) : host_(host), sci_(sci) {}

  // The button is pressed. False when the guest does not listen to it.
  bool press_power_button();

  std::string_view name() const override { return "acpi"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  void drive() { sci_.set((status_ & enabled_) != 0); }

  Host& host_;
  IrqLine& sci_;
  uint16_t status_ = 0;
  uint16_t enabled_ = 0;
  uint16_t control_ = 1;  // SCI_EN: never in legacy mode
};

}  // namespace hypertwin::devices
