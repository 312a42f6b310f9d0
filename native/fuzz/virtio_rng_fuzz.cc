// virtio-rng: rings and states from anywhere. What it asks for is bounded, and one at a time.
#include "devices/virtio_rng.h"
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {
struct Entropy : EntropyHost {
  void entropy_wanted(uint32_t, EntropyRequest request) override {
    if (request.size == 0 || request.size > VirtioRng::kMaxRequest) std::abort();
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  Entropy entropy;
  VirtioRng rng(entropy, 0, "rng", board.ram), again(entropy, 0, "rng", board.ram);
  auto complete = [](VirtioRng& device, std::span<const uint8_t> bytes) {
    if (auto request = device.in_flight()) device.complete(request->ordinal, bytes);
  };
  fuzz_device(
      data, size, board, rng, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        if (what & 4) complete(rng, bytes);
      },
      [&] {
        complete(again, {data, size});
      });
  return 0;
}
