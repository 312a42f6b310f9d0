// Two cascaded 8259A interrupt controllers with the ELCR, as in a PC. Knows no CPU: the machine asks
// interrupt_pending() and injects what acknowledge() returns.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/device.h"

namespace hypertwin::devices {

class Pic final : public Device, public PortDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x20, 2}, {0xa0, 2}, {0x4d0, 2}};

  Pic();
  ~Pic() override;

  // The input of an interrupt request, 0..15 (2 is the cascade's own). Every call for the same irq gives
  // the same source; a further device on the same irq takes a new_source(). The line is the OR of its
  // sources. Sources are made while the board is built, in a fixed order: a snapshot holds their levels.
  // Throws Error("EINVAL") for an irq that is not there, or more than 32 sources of one.
  IrqLine& line(unsigned irq);
  IrqLine& new_source(unsigned irq);

  // The INTR output to the CPU.
  bool interrupt_pending() const;
  // Both INTA cycles: the vector. With nothing pending it is the spurious one (IRQ7 or IRQ15).
  uint8_t acknowledge();

  std::string_view name() const override { return "pic"; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  class Source;
  // One 8259A.
  struct Chip {
    uint8_t irr = 0;    // requests latched (edge) or present (level)
    uint8_t lines = 0;  // inputs as they are now
    uint8_t isr = 0;
    uint8_t imr = 0;
    uint8_t elcr = 0;       // 1: level-triggered
    uint8_t vector = 0;     // ICW2, low 3 bits clear
    uint8_t lowest = 7;     // the irq of lowest priority
    uint8_t init_step = 0;  // next ICW expected: 2, 3 or 4; 0 when initialised
    bool icw4_expected = false;
    bool level_all = false;  // ICW1.LTIM
    bool auto_eoi = false;
    bool rotate_on_auto_eoi = false;
    bool special_mask = false;
    bool special_nested = false;
    bool poll = false;
    bool read_isr = false;

    bool is_level(unsigned bit) const { return level_all || (elcr >> bit & 1); }
    unsigned rank(unsigned bit) const { return (bit - lowest - 1) & 7; }  // 0 is the most urgent
    void set_line(unsigned bit, bool level);
    int best(uint8_t requests) const;  // the most urgent of the set, -1 when empty
    int pending(bool is_master) const;
    void take(unsigned bit);
    void end_of_interrupt(int bit, bool rotate);
    void command(uint8_t value);
    void data(uint8_t value, bool is_master);
  };

  void changed(unsigned irq);
  void cascade();
  uint8_t read_chip(Chip& chip, bool is_master, bool data);

  std::array<Chip, 2> chips_;
  std::array<uint32_t, 16> levels_{};  // one bit a source
  std::array<std::vector<std::unique_ptr<Source>>, 16> sources_;
};

}  // namespace hypertwin::devices
