#include "devices/acpi_pm.h"

#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr uint16_t kPowerButton = 1 << 8, kWake = 1 << 15;
constexpr uint16_t kEnableBits = 1 << 0 | 1 << 5 | kPowerButton | 1 << 10;
constexpr uint16_t kSciEnable = 1, kSleepType = 7 << 10, kSleepEnable = 1 << 13;
}  // namespace

bool AcpiPm::press_power_button() {
  if (!(enabled_ & kPowerButton)) return false;
  status_ |= kPowerButton;
  drive();
  return true;
}

uint32_t AcpiPm::port_read(uint16_t port, unsigned size) {
  if (port >= kTimer) {
    const auto ticks = static_cast<uint32_t>(scale(host_.now(), kFrequency, 1000000000));
    return (ticks & 0xffffff) >> (8 * (port - kTimer));
  }
  const uint64_t registers = uint64_t{status_} | uint64_t{enabled_} << 16 | uint64_t{control_} << 32;
  const uint64_t value = registers >> (8 * (port - kEvents));
  return static_cast<uint32_t>(size >= 4 ? value : value & ((1u << (8 * size)) - 1));
}

void AcpiPm::port_write(uint16_t port, unsigned size, uint32_t value) {
  for (unsigned i = 0; i < size; ++i) {
    const unsigned at = port - kEvents + i;
    const auto byte = static_cast<uint16_t>(value >> (8 * i) & 0xff);
    const unsigned shift = 8 * (at & 1);
    const auto part = static_cast<uint16_t>(byte << shift);
    const auto rest = static_cast<uint16_t>(~(0xff << shift));
    if (at < 2)
      status_ &= static_cast<uint16_t>(~part);  // writing 1 clears
    else if (at < 4)
      enabled_ = static_cast<uint16_t>(((enabled_ & rest) | part) & kEnableBits);
    else if (at < 6)
      control_ = static_cast<uint16_t>((control_ & rest) | part | kSciEnable);
  }
  if (control_ & kSleepEnable) {
    const bool off = (control_ & kSleepType) >> 10 == kPowerOffType;
    control_ &= static_cast<uint16_t>(~kSleepEnable);
    if (off)
      host_.power(PowerEvent::kPowerOff);
    else
      status_ |= kWake;  // no other sleep: awake at once
  }
  drive();
}

void AcpiPm::save(ByteWriter& out) const {
  out.u8(1);
  out.u16(status_);
  out.u16(enabled_);
  out.u16(control_);
}

void AcpiPm::load(ByteReader& in) {
  load_version(in, 1);
  status_ = in.u16();
  enabled_ = in.u16();
  control_ = in.u16();
}

}  // namespace hypertwin::devices
