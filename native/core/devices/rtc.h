// An MC146818 clock with its CMOS memory. Wall time is the start time given at construction plus virtual
// time; it never asks the host's clock.
#pragma once

#include <array>
#include <cstdint>

#include "devices/device.h"

namespace hypertwin::devices {

class Rtc final : public Device, public PortDevice, public TimedDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x70, 2}};

  // start_time: seconds since 1970 (UTC) at virtual time 0. ram_bytes goes to the memory size bytes.
  Rtc(Host& host, IrqLine& irq8, int64_t start_time, uint64_t ram_bytes);

  std::string_view name() const override { return "rtc"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;
  std::optional<uint64_t> deadline() const override;
  void advance(uint64_t now) override;

 private:
  int64_t wall(uint64_t now) const { return static_cast<int64_t>(now) + base_; }
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  uint8_t encode_hour(unsigned hour) const;
  unsigned decode_hour(uint8_t value) const;
  void fill_time(uint64_t now);
  void take_time(uint64_t now);
  uint64_t period() const;  // ns; 0 when the periodic interrupt is off
  std::optional<int64_t> next_alarm(int64_t after_second) const;
  void catch_up(uint64_t now);
  void update_line();

  Host& host_;
  IrqLine& irq8_;
  std::array<uint8_t, 128> cmos_{};
  uint8_t index_ = 0;
  int64_t base_ = 0;   // wall clock minus virtual time, ns
  uint64_t seen_ = 0;  // flags are set for all that was due up to here
};

}  // namespace hypertwin::devices
