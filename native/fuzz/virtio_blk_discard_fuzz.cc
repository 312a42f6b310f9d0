// virtio-blk with DISCARD and WRITE_ZEROES: rings and states from anywhere. What comes out lies within the
// disk and the limits.
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kSize = 4ull << 30;
  static TestBoard board;
  FakeHost host;
  const VirtioBlk::Options options{
      .size = kSize, .read_only = false, .block_size = 512, .serial = "", .discard = true};
  VirtioBlk blk(host, 0, "disk", board.ram, options), again(host, 0, "disk", board.ram, options);
  auto check = [&](const BlockRequest& request) {
    const uint64_t bytes = std::max<uint64_t>(request.size, request.data.size());
    if (request.offset > kSize || bytes > kSize - request.offset) std::abort();
    if (request.operation == BlockOperation::kDiscard && bytes > VirtioBlk::kMaxDiscard) std::abort();
    if (request.operation == BlockOperation::kWriteZeroes && bytes > VirtioBlk::kMaxWriteZeroes) std::abort();
  };
  auto complete = [&](VirtioBlk& device, uint8_t what) {
    auto flying = device.in_flight();
    for (const BlockRequest& request : flying) check(request);
    if (!flying.empty())
      device.complete(flying[what % flying.size()].ordinal, static_cast<BlockStatus>(what & 1),
                      std::vector<uint8_t>(4096, what));
  };
  fuzz_device(
      data, size, board, blk, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        if (what & 4) {  // a sound chain from the first descriptor: header, range, status
          for (unsigned i = 0; i < 3; ++i) {
            uint8_t* p = put_le<uint64_t>(board.at(0x10000 + 16 * i), 0x13000 + 16 * i);
            p = put_le<uint32_t>(p, i == 2 ? 1 : 16);
            p = put_le<uint16_t>(p, i == 2 ? 2 : 1);
            put_le<uint16_t>(p, static_cast<uint16_t>(i + 1));
          }
          put_le<uint32_t>(board.at(0x13000), what & 8 ? 11 : 13);
          std::memcpy(board.at(0x13010), bytes.data(), std::min<size_t>(bytes.size(), 16));
        }
        if (what & 16) complete(blk, what >> 5);
      },
      [&] { complete(again, data[0]); });
  for (const BlockRequest& request : host.requests) check(request);
  return 0;
}
