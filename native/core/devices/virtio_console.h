// virtio-console (virtio 1.2, section 5.3): one port, without multiport. Input for the guest is bounded and
// taken only as far as it fits; output leaves through Host::console_output.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

class VirtioConsole final : public VirtioDevice {
 public:
  static constexpr size_t kMaxInput = 64u << 10;  // bytes waiting for guest buffers
  static constexpr size_t kMaxOutput = 1u << 20;  // of one buffer of the guest; a longer one breaks the rules

  struct Options {
    uint16_t columns = 80;
    uint16_t rows = 25;
  };

  // `id` names the device in Host::console_output.
  VirtioConsole(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options);

  // Input for the guest; returns how many of the bytes were accepted (the rest does not fit now). What was
  // accepted waits for a driver, also through a reset.
  size_t receive(std::span<const uint8_t> bytes);
  size_t input_space() const { return kMaxInput - input_.size(); }
  // The terminal's size in characters; the guest is told when it changed.
  void set_size(uint16_t columns, uint16_t rows);

  uint16_t type() const override { return 3; }
  uint32_t class_code() const override { return 0x078000; }
  std::span<const uint8_t> config() const override { return config_; }
  // The emergency write works from the first moment on, without a driver that is ready (5.3.4).
  void config_write(uint32_t offset, unsigned size, uint32_t value) override;

 private:
  void on_notify(unsigned queue) override;
  void on_live() override { fill(); }
  void on_reset() override {}
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  void put_size(uint16_t columns, uint16_t rows);
  void fill();
  void transmit();

  Host& host_;
  std::array<uint8_t, 12> config_{};
  std::deque<uint8_t> input_;
  Chain chain_;                   // reused
  std::vector<uint8_t> scratch_;  // reused
};

}  // namespace hypertwin::devices
