// virtio-net (virtio 1.2, section 5.1): one receive and one transmit queue, no offloads. Packets are Ethernet
// frames without FCS; the host's side never sees virtio's header.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

class VirtioNet final : public VirtioDevice {
 public:
  static constexpr size_t kMaxPending = 256;   // packets waiting for guest buffers
  static constexpr size_t kMaxPacket = 65562;  // of the guest

  struct Options {
    std::array<uint8_t, 6> mac{};
    uint16_t mtu = 1500;
    bool link_up = true;
  };
  struct Counters {
    uint64_t received = 0;  // packets that reached guest buffers
    uint64_t transmitted = 0;
    uint64_t dropped = 0;  // received ones: no driver, queue full, or longer than the MTU allows
  };

  // `id` names the device in Host::transmit.
  VirtioNet(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options);

  // A packet from outside: into guest buffers, or kept (kMaxPending) until the guest has some. False when it
  // was dropped.
  bool receive(std::span<const uint8_t> packet);
  void set_link(bool up);
  const Counters& counters() const { return counters_; }
  size_t pending() const { return pending_.size(); }

  uint16_t type() const override { return 1; }
  uint32_t class_code() const override { return 0x020000; }
  std::span<const uint8_t> config() const override { return config_; }

 private:
  void on_notify(unsigned queue) override;
  void on_live() override { fill(); }
  void on_reset() override;
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  enum class Placed : uint8_t { kYes, kNoBuffer, kDropped };
  Placed place(std::span<const uint8_t> packet);
  void fill();
  void transmit();

  Host& host_;
  std::array<uint8_t, 12> config_{};
  size_t longest_ = 0;
  std::deque<std::vector<uint8_t>> pending_;
  Counters counters_;
  std::vector<Chain> chains_;     // reused
  std::vector<uint8_t> scratch_;  // reused
};

}  // namespace hypertwin::devices
