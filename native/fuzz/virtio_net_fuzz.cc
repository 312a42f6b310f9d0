// The rings of virtio-net, with all they point to, are the input: 0x10000 descriptors, 0x11000 available,
// 0x12000 used of the receive queue, 0x14000 on of the transmit queue, and the indirect tables in between.
#include <cstdlib>

#include "../test/devices_board.h"

using namespace hypertwin;
using namespace hypertwin::devices;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  static TestBoard board;
  std::memset(board.at(0), 0, 0x20000);
  board.host.packets.clear();
  Driver driver(board, 1);
  uint64_t features = kVirtioVersion1 | (data[0] & 1 ? kVirtioIndirect : 0) |
                      (data[0] & 2 ? kVirtioEventIdx : 0) | (data[0] & 4 ? 1 << 15 : 0);
  uint16_t entries = static_cast<uint16_t>(1 << (data[1] % 5));
  if (!driver.negotiate(features)) std::abort();
  for (uint16_t queue = 0; queue < 2; ++queue) {
    uint64_t base = 0x10000 + 0x4000u * queue;
    driver.queue(queue, entries, base, base + 0x1000, base + 0x2000);
  }
  driver.set_status(15);
  // Patches: where (16 bits), how many bytes, the bytes; between them something happens.
  size_t at = 2;
  while (at + 4 < size) {
    uint32_t where = get_le<uint16_t>(data + at);
    size_t n = std::min<size_t>(data[at + 2] % 64, size - at - 4);
    std::memcpy(board.at(0x10000 + where % 0x7fc0), data + at + 4, n);
    uint8_t what = data[at + 3];
    at += 4 + n;
    if (what & 1) driver.notify(0);
    if (what & 2) driver.notify(1);
    if (what & 4) board.net.receive(std::vector<uint8_t>(what * 6u, what));
    if (what & 8) driver.isr();
  }
  for (const auto& packet : board.host.packets)
    if (packet.size() > VirtioNet::kMaxPacket) std::abort();
  if (board.net.pending() > VirtioNet::kMaxPending) std::abort();
  return 0;
}
