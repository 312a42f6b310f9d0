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
  // Seconds since 1970 on the guest's clock.
  int64_t second(uint64_t now) const { return static_cast<int64_t>(now / 1000000000) + base_; }
  uint64_t periods(uint64_t now) const;  // of the periodic interrupt, since virtual time 0
  uint64_t period_clocks() const;        // of 32768 Hz; 0 when there is none
  bool updating() const { return !(cmos_[11] & 0x80); }
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  unsigned decode_hour(uint8_t value) const;
  void fill_time(uint64_t now);
  void take_time(uint64_t now);
  std::optional<int64_t> next_alarm(int64_t after) const;
  void catch_up(uint64_t now);
  void update_line();
  uint8_t read(uint8_t index);
  void write(uint8_t index, uint8_t value);

  Host& host_;
  IrqLine& irq8_;
  std::array<uint8_t, 128> cmos_{};
  uint8_t index_ = 0;
  int64_t base_;       // the guest's clock at virtual time 0; its seconds begin with those of virtual time
  uint64_t seen_ = 0;  // flags are set for all that was due up to here
};

}  // namespace hypertwin::devices
