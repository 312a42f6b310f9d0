// virtio-blk with requests that name guest memory: rings and states from anywhere. The memory is the guest's,
// as much as the request says, and the data of a write is the same in a state.
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {

constexpr uint64_t kSize = 1 << 20;

struct NoHost : DirectDiskHost {
  int cancelled = 0;
  void block_cancel(uint32_t) override { ++cancelled; }
};

// As a disk would: reads fill, writes are read.
void perform(TestBoard& board, const BlockRequest& request) {
  if (request.offset > kSize ||
      std::max<uint64_t>(request.size, request.data.size()) > kSize - request.offset)
    std::abort();
  uint64_t bytes = 0;
  volatile uint8_t sum = 0;
  for (const iovec& part : request.parts) {
    auto* at = static_cast<uint8_t*>(part.iov_base);
    if (at < board.at(0) || part.iov_len == 0 || part.iov_len > TestBoard::kRam ||
        at + part.iov_len > board.at(0) + TestBoard::kRam)
      std::abort();
    bytes += part.iov_len;
    if (request.operation == BlockOperation::kRead)
      std::memset(at, 0x5a, part.iov_len);
    else
      for (size_t i = 0; i < part.iov_len; ++i) sum = static_cast<uint8_t>(sum + at[i]);
  }
  if (!request.parts.empty() && (bytes != request.size || !request.data.empty())) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  FakeHost host;
  NoHost direct;
  const VirtioBlk::Options options{
      .size = kSize, .read_only = false, .block_size = 512, .serial = "", .discard = true, .direct = &direct};
  VirtioBlk blk(host, 0, "disk", board.ram, options), again(host, 0, "disk", board.ram, options);
  size_t next = 0;
  fuzz_device(
      data, size, board, blk, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        if (what & 4) {  // a sound chain from the first descriptor: header, data, status
          for (unsigned i = 0; i < 3; ++i) {
            uint8_t* p = put_le<uint64_t>(board.at(0x10000 + 16 * i), 0x13000 + 0x400 * i);
            p = put_le<uint32_t>(p, i == 0 ? 16 : i == 1 ? 512 : 1);
            p = put_le<uint16_t>(
                p, static_cast<uint16_t>((i < 2 ? 1 : 0) | (i == 2 || (i == 1 && what & 8) ? 2 : 0)));
            put_le<uint16_t>(p, static_cast<uint16_t>(i + 1));
          }
          put_le<uint32_t>(board.at(0x13000), what & 8 ? 0 : 1);
          std::memcpy(board.at(0x13008), bytes.data(), std::min<size_t>(bytes.size(), 2));
        }
        for (; next < host.requests.size(); ++next) perform(board, host.requests[next]);
        if (what & 16) {
          const auto flying = blk.in_flight();
          if (!flying.empty())
            blk.complete_one(flying[what % flying.size()].ordinal, static_cast<BlockStatus>(what >> 5 & 1),
                             std::vector<uint8_t>(what & 64 ? 512 : 0));
        }
        if (what & 128) blk.show_completed();
        blk.mark_reads();
      },
      [&] {
        for (const auto& request : again.in_flight())
          again.complete_one(request.ordinal, BlockStatus::kOk, std::vector<uint8_t>(request.size));
        again.show_completed();
      });
  return 0;
}
