// Device states from anywhere: refused, or as harmless as any other state.
#include "../test/devices_random.h"
#include "base/error.h"

using namespace hypertwin;
using namespace hypertwin::devices;

// Byte 0 names the device, the last 32 bytes are what is done with it afterwards.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 34) return 0;
  TestBoard board;
  auto devices = board.devices();
  ByteReader in({data + 1, size - 33}, "state");
  try {
    devices[data[0] % devices.size()]->load(in);
  } catch (const Error&) {
    return 0;
  }
  const uint8_t* deeds_at = data + size - 32;
  uint32_t state = 1;
  RandomDeeds deeds(board, [&] {
    state = state * 1664525 + 1013904223 + deeds_at[state % 32];
    return state >> 8;
  });
  for (int i = 0; i < 64; ++i) deeds.step();
  board.save();
  return 0;
}
