// The ring of virtio-blk, with all it points to, is the input: 0x10000 descriptors, 0x11000 available,
// 0x12000 used, headers and tables anywhere near. Requests that come out must lie within the disk.
#include <cstdlib>

#include "../test/devices_board.h"

using namespace hypertwin;
using namespace hypertwin::devices;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  static TestBoard board;
  std::memset(board.at(0), 0, 0x20000);
  board.host.requests.clear();
  Driver driver(board, 2);
  uint64_t features =
      kVirtioVersion1 | (data[0] & 1 ? kVirtioIndirect : 0) | (data[0] & 2 ? kVirtioEventIdx : 0);
  uint16_t entries = static_cast<uint16_t>(1 << (data[1] % 5));
  if (!driver.negotiate(features)) std::abort();
  driver.queue(0, entries, 0x10000, 0x11000, 0x12000);
  driver.set_status(15);
  // A sound request to start from: head 0, a header, data, the status.
  for (unsigned i = 0; i < 3; ++i) {
    uint8_t* p = board.at(0x10000 + 16 * i);
    p = put_le<uint64_t>(p, 0x13000 + 0x400 * i);
    p = put_le<uint32_t>(p, i == 0 ? 16 : i == 1 ? 512 : 1);
    p = put_le<uint16_t>(p,
                         static_cast<uint16_t>((i < 2 ? 1 : 0) | (i == 2 || data[0] & 4 ? 2 * (i > 0) : 0)));
    put_le<uint16_t>(p, static_cast<uint16_t>(i + 1));
  }
  put_le<uint32_t>(board.at(0x13000), data[0] & 4 ? 0 : 1);
  size_t at = 2;
  while (at + 4 < size) {
    uint32_t where = get_le<uint16_t>(data + at);
    size_t n = std::min<size_t>(data[at + 2] % 64, size - at - 4);
    std::memcpy(board.at(0x10000 + where % 0x3fc0), data + at + 4, n);
    uint8_t what = data[at + 3];
    at += 4 + n;
    if (what & 1) driver.notify(0);
    if (what & 2) {
      auto flying = board.blk.in_flight();
      if (!flying.empty())
        board.blk.complete(flying[what / 8 % flying.size()].ordinal, static_cast<BlockStatus>(what >> 7),
                           std::vector<uint8_t>(4096, what));
    }
    if (what & 4) driver.isr();
  }
  for (const BlockRequest& request : board.host.requests)
    if (request.offset > TestBoard::kDiskSize ||
        std::max<uint64_t>(request.size, request.data.size()) > TestBoard::kDiskSize - request.offset)
      std::abort();
  if (board.blk.in_flight().size() > VirtQueue::kMaxSize) std::abort();
  return 0;
}
