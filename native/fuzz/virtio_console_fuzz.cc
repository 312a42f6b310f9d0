// virtio-console: rings and states from anywhere. Output comes in bounded pieces, and input is bounded.
#include "devices/virtio_console.h"
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  board.host.console.clear();
  VirtioConsole console(board.host, 0, "console", board.ram, {}),
      again(board.host, 0, "console", board.ram, {});
  fuzz_device(
      data, size, board, console, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        if (what & 4) console.receive(bytes);
        if (what & 8) console.receive(std::vector<uint8_t>(what * 64u, what));
        if (what & 16) console.set_size(what, static_cast<uint16_t>(bytes.size()));
        if (what & 32) console.config_write(what >> 6 << 2, 4, what);
        board.host.console.clear();
      },
      [&] {
        again.receive({data, size});
      });
  return 0;
}
