// virtio-balloon: rings and states from anywhere. Only whole pages of RAM may be told the host.
#include "devices/virtio_balloon.h"
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {
struct Pages : BalloonHost {
  static void check(uint64_t address, uint64_t size) {
    if (size == 0 || address % 4096 || size % 4096 || address >= TestBoard::kRam ||
        size > TestBoard::kRam - address)
      std::abort();
  }
  void discard(uint32_t, uint64_t address, uint64_t size) override { check(address, size); }
  void free_hint(uint32_t, uint32_t command, uint64_t address, uint64_t size) override {
    if (command < 2) std::abort();
    check(address, size);
  }
  void hints_ended(uint32_t, uint32_t command) override {
    if (command < 2) std::abort();
  }
  void balloon_stats(uint32_t) override {}
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  Pages pages;
  VirtioBalloon balloon(pages, 0, "balloon", board.ram), again(pages, 0, "balloon", board.ram);
  fuzz_device(
      data, size, board, balloon, again,
      [&](uint8_t what, std::span<const uint8_t>) {
        if (what & 4) balloon.request_stats();
        if (what & 8) {  // what the guest would answer, in the first buffer of the ring of hints
          put_le(board.at(0x1f000), balloon.start_hinting());
          put_le<uint32_t>(board.at(0x1c008), 4);
        }
        if (what == 16) balloon.finish_hinting();
        if (what & 32) balloon.set_target(what);
        if (what & 64) balloon.config_write(what & 15, 4, what);
      },
      [&] {
        again.request_stats();
        again.start_hinting();
      });
  return 0;
}
