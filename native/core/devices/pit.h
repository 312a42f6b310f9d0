// An 8254 interval timer with the PC's port 0x61 (speaker gate, refresh toggle). Counts are computed from the
// time of loading with exact arithmetic, so nothing drifts however seldom it is asked.
//
// A periodic tick that comes while earlier ones were not yet taken is not made up for: however many periods
// one advance() passes, IRQ0 gets one edge.
#pragma once

#include <array>
#include <cstdint>

#include "devices/device.h"

namespace hypertwin::devices {

class Pit final : public Device, public PortDevice, public TimedDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x40, 4}, {0x61, 1}};
  static constexpr uint64_t kFrequency = 1193182;

  Pit(Host& host, IrqLine& irq0) : host_(host), irq0_(irq0) {}

  std::string_view name() const override { return "pit"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;
  std::optional<uint64_t> deadline() const override;
  void advance(uint64_t now) override;

 private:
  struct Channel {
    uint8_t mode = 0;    // 0..5
    uint8_t access = 3;  // 1 low byte, 2 high byte, 3 low then high
    bool bcd = false;
    bool gate = true;
    bool programmed = false;  // a mode was set
    bool loaded = false;      // a count was written since
    bool running = false;     // counts since `start`
    bool write_high = false;  // the next byte written is the high one
    bool read_high = false;
    bool count_latched = false;
    bool status_latched = false;
    uint8_t low = 0;  // first byte of a two-byte write
    uint8_t status_latch = 0;
    uint16_t count_latch = 0;
    uint32_t reload = 0x10000;  // in clocks, binary, 1..65536
    uint64_t start = 0;         // ns
    uint64_t held = 0;          // clocks passed when the gate stopped it
    uint64_t edges = 0;         // rising edges of OUT already delivered (channel 0)

    uint64_t clocks(uint64_t now) const;
    uint32_t count(uint64_t now) const;
    bool out(uint64_t now) const;
    uint64_t edges_at(uint64_t clocks) const;
    void set_gate(bool level, uint64_t now);
  };

  void control(uint8_t value);
  void write_count(unsigned index, uint8_t value);
  uint8_t read_count(Channel& channel);
  void latch_count(Channel& channel);

  Host& host_;
  IrqLine& irq0_;
  std::array<Channel, 3> channels_{Channel{}, Channel{}, Channel{.gate = false}};
  uint8_t port61_ = 0;
};

}  // namespace hypertwin::devices
