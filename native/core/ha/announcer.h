// The addresses that a guest uses, learned from the frames that it sends and forgotten when another host has
// them or the guest uses them no more, and the frames that tell a network where they are now. Frames are the
// guest's and its network's: every byte is checked before it is believed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"

namespace hypertwin::ha {

using Mac = std::array<uint8_t, 6>;

class Announcer {
 public:
  static constexpr size_t kMaxAddresses = 16;  // of each kind, for each device; the longest unused one goes
  static constexpr uint64_t kUnused = 3'600'000'000'000;  // nanoseconds, after which one is not announced

  // The devices' own addresses.
  explicit Announcer(std::vector<Mac> macs) : devices_(macs.size()) {
    for (size_t i = 0; i < macs.size(); ++i) devices_[i].mac = macs[i];
  }

  // From the guest.
  void learn(uint32_t device, std::span<const uint8_t> frame, uint64_t now = now_ns());
  // To the guest.
  void heard(uint32_t device, std::span<const uint8_t> frame);
  // A gratuitous ARP for each IPv4 address, an unsolicited neighbour advertisement for each IPv6 address, and
  // a RARP for the device's own MAC.
  std::vector<std::vector<uint8_t>> frames(uint32_t device, uint64_t now = now_ns()) const;
  size_t devices() const { return devices_.size(); }

 private:
  template <size_t N>
  struct Address {
    Mac mac{};
    std::array<uint8_t, N> address{};
    uint64_t used_ns = 0;
  };
  struct Device {
    Mac mac{};
    // The one used last is the last.
    std::vector<Address<4>> ipv4;   // that the guest claimed by ARP
    std::vector<Address<16>> ipv6;  // that it claimed by neighbour discovery
    std::vector<Address<4>> seen;   // a source of IPv4 packets, while it claims none by ARP: at most one
  };
  std::vector<Device> devices_;
};

}  // namespace hypertwin::ha
