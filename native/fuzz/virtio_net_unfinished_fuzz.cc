// virtio-net on a host that takes packets that are not finished: rings, headers and states from anywhere.
// What comes out asks for nothing that was not negotiated, and stays within the packet.
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {

struct CheckingHost : UnfinishedHost {
  VirtioDevice* device = nullptr;

  void guest_finishes(uint32_t, uint64_t) override {}
  void transmit_unfinished(uint32_t, std::span<const iovec> parts) override {
    NetHeader header;
    if (parts.size() < 2 || parts[0].iov_len != sizeof header) std::abort();
    std::memcpy(&header, parts[0].iov_base, sizeof header);
    uint64_t size = 0;
    volatile uint8_t sum = 0;
    for (const iovec& part : parts.subspan(1)) {
      size += part.iov_len;
      const auto* at = static_cast<const uint8_t*>(part.iov_base);
      for (size_t i = 0; i < part.iov_len; ++i) sum = static_cast<uint8_t>(sum + at[i]);
    }
    if (size > VirtioNet::kMaxPacket || header.flags > 1 || header.buffers) std::abort();
    if (header.flags &&
        (!(device->negotiated() & 1) || uint64_t{header.checksum_start} + header.checksum_offset + 2 > size))
      std::abort();
    if (header.segments && (!header.flags || !header.segment_size || header.header_size > size)) std::abort();
    if (header.segments & 0x80 && !(device->negotiated() & 1 << 13)) std::abort();
    const int kind = header.segments & 0x7f;
    if (header.segments && !(kind == 1 && device->negotiated() & 1 << 11) &&
        !(kind == 4 && device->negotiated() & 1 << 12))
      std::abort();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  CheckingHost host, other;
  const VirtioNet::Options options{
      .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .link_up = true, .unfinished = &host};
  VirtioNet::Options options_again = options;
  options_again.unfinished = &other;
  VirtioNet net(board.host, 0, "net", board.ram, options),
      again(board.host, 0, "net", board.ram, options_again);
  host.device = &net;
  other.device = &again;
  fuzz_device(
      data, size, board, net, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        std::vector<uint8_t> packet(bytes.begin(), bytes.end());
        packet.resize(packet.size() + what * 20u);
        if (what & 4) net.receive_unfinished(packet);
        if (what & 8) net.receive(packet);
        if (what & 16) net.show_received();
        if (net.pending() > VirtioNet::kMaxPending) std::abort();
      },
      [&] {
        again.receive_unfinished(std::vector<uint8_t>(100, data[0]));
        again.show_received();
      });
  return 0;
}
