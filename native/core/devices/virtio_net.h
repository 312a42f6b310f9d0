// virtio-net (virtio 1.2, section 5.1): one receive and one transmit queue. Packets are Ethernet frames
// without FCS. Where the host's side takes packets that are not finished (checksums, segments), they are
// offered to the guest too; otherwise the host's side never sees virtio's header.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

// What is still to be done to a packet (virtio 1.2, section 5.1.6), as it lies in memory.
struct NetHeader {
  static constexpr uint8_t kNeedsChecksum = 1;
  static constexpr uint8_t kNone = 0, kTcp4 = 1, kTcp6 = 4, kCongestion = 0x80;
  uint8_t flags = 0;
  uint8_t segments = kNone;     // gso_type
  uint16_t header_size = 0;     // of what each segment begins with
  uint16_t segment_size = 0;    // of a segment's data
  uint16_t checksum_start = 0;  // it covers the packet from here
  uint16_t checksum_offset = 0;
  uint16_t buffers = 0;
};
static_assert(sizeof(NetHeader) == 12);

// The host's side where it takes packets that are not finished, as a tap does.
class UnfinishedHost {
 public:
  virtual ~UnfinishedHost() = default;
  // What the guest will do to packets that come: of VirtioNet::kGuest*. 0: it has reset the device.
  virtual void guest_finishes(uint32_t device, uint64_t features) = 0;
  // A NetHeader and a frame, in parts that lie in guest RAM and may change meanwhile.
  virtual void transmit_unfinished(uint32_t device, std::span<const iovec> parts) = 0;
};

class VirtioNet final : public VirtioDevice {
 public:
  static constexpr size_t kMaxPending = 256;   // packets waiting for guest buffers
  static constexpr size_t kMaxPacket = 65562;  // of the guest
  // Of a guest's notification with unfinished(); then others have their turn.
  static constexpr unsigned kMaxBatch = 64;
  static constexpr uint64_t kGuestChecksum = 1 << 1, kGuestTcp4 = 1 << 7, kGuestTcp6 = 1 << 8,
                            kGuestCongestion = 1 << 9;

  struct Options {
    std::array<uint8_t, 6> mac{};
    uint16_t mtu = 1500;
    bool link_up = true;
    UnfinishedHost* unfinished = nullptr;  // none: neither side has checksums or segments made by the other
  };
  struct Counters {
    uint64_t received = 0;  // packets that reached guest buffers
    uint64_t transmitted = 0;
    uint64_t dropped = 0;  // received ones: no driver, queue full, or longer than the MTU allows
    uint64_t refused = 0;  // transmitted ones that ask for what was not negotiated; not in the state
  };

  // `id` names the device in Host::transmit.
  VirtioNet(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options);

  // A packet from outside: into guest buffers, or kept (kMaxPending) until the guest has some. False when it
  // was dropped.
  bool receive(std::span<const uint8_t> packet);
  // The same of a NetHeader and a frame, with unfinished(). The guest sees it after show_received().
  bool receive_unfinished(std::span<const uint8_t> packet);
  void show_received() { publish(kReceiveQueue); }
  // Somebody else serves the queues from now on: this leaves them alone, and what the guest notifies becomes
  // Host::net_ready. False, with nothing lent, while the driver is not ready or packets wait here.
  [[nodiscard]] bool lend_queues();
  bool lent() const { return lent_; }
  // They are back; `next_available` of each. A reset takes them back too.
  void take_queues(std::span<const uint16_t> next_available);
  // Who served them found one broken; they are back.
  void queue_broke() { break_device(); }
  void set_link(bool up);
  const Counters& counters() const { return counters_; }
  size_t pending() const { return pending_.size(); }

  uint16_t type() const override { return 1; }
  uint32_t class_code() const override { return 0x020000; }
  std::span<const uint8_t> config() const override { return config_; }

 private:
  static constexpr unsigned kReceiveQueue = 0, kTransmitQueue = 1;

  void on_notify(unsigned queue) override;
  void on_live() override;
  void on_reset() override;
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  [[noreturn]] void refuse_features(ByteReader& in, uint64_t features) override;
  enum class Placed : uint8_t { kYes, kNoBuffer, kDropped };
  // With a header the guest is told so.
  Placed place(const NetHeader& header, std::span<const uint8_t> packet);
  Placed place_pending();
  bool take(const NetHeader& header, std::span<const uint8_t> packet, std::span<const uint8_t> kept);
  void fill();
  // True when a batch was not all.
  bool transmit();
  void transmit_unfinished(const Chain& chain);
  bool allowed(const NetHeader& header, uint64_t frame) const;
  // Packets that wait begin with a header; without any of these they are whole, and have none.
  bool headed() const { return negotiated() & kGuestChecksum; }
  size_t longest() const;

  Host& host_;
  UnfinishedHost* unfinished_;
  std::array<uint8_t, 12> config_{};
  size_t longest_ = 0;
  std::deque<std::vector<uint8_t>> pending_;
  bool lent_ = false;
  Counters counters_;
  std::vector<Chain> chains_;     // reused
  std::vector<uint8_t> scratch_;  // reused
  std::vector<iovec> parts_;      // reused
};

}  // namespace hypertwin::devices
