// What the fuzzers of virtio devices share: the rings of a device, with all they point to, are the input, and
// so are its saved states. Rings lie at 0x10000, 0x14000, ... of the board's memory, buffers anywhere near.
#pragma once

#include <cstdlib>
#include <functional>

#include "../test/devices_virtio.h"

namespace hypertwin::devices {

// Bytes 0 and 1 choose features and the rings' size, the last 6 change a saved state; each patch between them
// is where (16 bits), how many bytes, what happens then, the bytes. `happen` gets what happens, before a
// buffer is offered. At the end the device's state must load into `again` as it is; changed, it is refused or
// usable by `use`.
inline void fuzz_device(const uint8_t* data, size_t size, TestBoard& board, VirtioDevice& device,
                        VirtioDevice& again,
                        const std::function<void(uint8_t, std::span<const uint8_t>)>& happen,
                        const std::function<void()>& use) {
  if (size < 14) return;
  const uint8_t* changes = data + size - 6;
  size -= 6;
  std::memset(board.at(0), 0, 0x30000);
  BareDriver driver(board, device);
  uint64_t features = device.offered() & ~(kVirtioIndirect | kVirtioEventIdx);
  if (data[0] & 1) features |= kVirtioIndirect;
  if (data[0] & 2) features |= kVirtioEventIdx;
  if (data[0] & 4) features &= ~uint64_t{0xff};
  if (!driver.start(features, static_cast<uint16_t>(1 << data[1] % 5))) std::abort();
  // A sound buffer of each kind to start from in each ring.
  for (unsigned queue = 0; queue < driver.rings.size(); ++queue) {
    driver.rings[queue].descriptor(0, 0x13000 + 0x4000u * queue, 64, 0);
    driver.rings[queue].descriptor(1, 0x28000, 4096, 2);
  }
  for (size_t at = 2; at + 4 < size;) {
    const uint32_t where = get_le<uint16_t>(data + at);
    const size_t n = std::min<size_t>(data[at + 2] % 64, size - at - 4);
    const uint8_t what = data[at + 3];
    if (data[at + 2] & 64) std::memcpy(board.at(0x10000 + where), data + at + 4, n);
    happen(what, {data + at + 4, n});
    const unsigned queue = where % static_cast<uint32_t>(driver.rings.size());
    if (what & 1) driver.rings[queue].offer(what >> 1 & 1);
    device.notify(queue);
    at += 4 + n;
  }
  std::vector<uint8_t> state = state_of(device);
  load_state_of(again, state);
  if (state_of(again) != state) std::abort();
  if (data[0] & 0x80) device.reset();
  for (unsigned i = 0; i < 2; ++i)
    state[get_le<uint16_t>(changes + 3 * i) % state.size()] = changes[3 * i + 2];
  try {
    load_state_of(again, state);
  } catch (const Error&) {
    return;
  }
  for (unsigned queue = 0; queue < again.queues().size(); ++queue) again.notify(queue);
  use();
  state = state_of(again);
  load_state_of(again, state);
}

}  // namespace hypertwin::devices
