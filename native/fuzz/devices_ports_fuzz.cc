// Any sequence of a guest's accesses and of outside events, on all devices at once; then the state is saved,
// and must load into another board and save to the same bytes.
#include <cstdlib>

#include "../test/devices_random.h"

using namespace hypertwin;
using namespace hypertwin::devices;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  TestBoard board;
  size_t at = 0;
  bool more = true;
  RandomDeeds deeds(board, [&]() -> uint32_t {
    uint32_t value = 0;
    size_t n = std::min<size_t>(2, size - at);
    more = n == 2;
    std::memcpy(&value, data + at, n);
    at += n;
    return value;
  });
  while (more) deeds.step();
  std::vector<uint8_t> state = board.save();
  TestBoard other;
  other.load(state);
  if (other.save() != state) std::abort();
  return 0;
}
