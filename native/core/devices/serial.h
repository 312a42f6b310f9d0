// A 16550A. A byte written leaves at once, so the transmitter is always empty; bytes received wait in a
// bounded queue behind the FIFO, so nothing is overrun. As in a PC, MCR.OUT2 gates the interrupt.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>

#include "devices/device.h"

namespace hypertwin::devices {

class Serial final : public Device, public PortDevice {
 public:
  static constexpr PortRange kPorts[] = {{0x3f8, 8}};
  static constexpr size_t kMaxInput = 4096;

  // `id` names the device in Host::console_output.
  Serial(Host& host, uint32_t id, IrqLine& irq, std::string name = "serial0", uint16_t base = 0x3f8);

  // Input for the guest; returns how many of the bytes were accepted (the rest does not fit now).
  size_t receive(std::span<const uint8_t> bytes);
  PortRange ports() const { return {base_, 8}; }
  size_t input_space() const { return kMaxInput - input_.size(); }

  std::string_view name() const override { return name_; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;

 private:
  uint8_t read(unsigned reg);
  void write(unsigned reg, uint8_t value);
  uint8_t modem_status() const;
  uint8_t identify() const;
  size_t depth() const { return fcr_ & 1 ? 16 : 1; }
  size_t trigger() const;
  void refill();
  void update_line();

  Host& host_;
  uint32_t id_;
  IrqLine& irq_;
  std::string name_;
  uint16_t base_;
  std::deque<uint8_t> fifo_;   // what the guest can read
  std::deque<uint8_t> input_;  // waiting behind it
  uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, scr_ = 0;
  uint8_t lsr_errors_ = 0;
  uint8_t msr_delta_ = 0;
  uint16_t divisor_ = 12;
  bool thr_interrupt_ = false;
};

}  // namespace hypertwin::devices
