// The addresses that a guest uses, learned from the frames that it sends, and the frames that tell a network
// where they are now. Frames are the guest's: every byte is checked before it is believed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace hypertwin::ha {

using Mac = std::array<uint8_t, 6>;

class Announcer {
 public:
  static constexpr size_t kMaxAddresses = 16;  // of each kind, for each device; later ones are not learned

  // The devices' own addresses.
  explicit Announcer(std::vector<Mac> macs) : devices_(macs.size()) {
    for (size_t i = 0; i < macs.size(); ++i) devices_[i].mac = macs[i];
  }

  void learn(uint32_t device, std::span<const uint8_t> frame);
  // A gratuitous ARP for each IPv4 address, an unsolicited neighbour advertisement for each IPv6 address, and
  // a RARP for the device's own MAC.
  std::vector<std::vector<uint8_t>> frames(uint32_t device) const;
  size_t devices() const { return devices_.size(); }

 private:
  template <size_t N>
  struct Address {
    Mac mac{};
    std::array<uint8_t, N> address{};
    bool operator==(const Address&) const = default;
  };
  struct Device {
    Mac mac{};
    std::vector<Address<4>> ipv4;   // that the guest claimed by ARP
    std::vector<Address<16>> ipv6;  // that it claimed by neighbour discovery
    std::vector<Address<4>> seen;   // a source of IPv4 packets, while it claims none by ARP: at most one
  };
  std::vector<Device> devices_;
};

}  // namespace hypertwin::ha
