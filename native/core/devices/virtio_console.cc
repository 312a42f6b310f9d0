// Bytes in and out of the two queues of port 0.
#include "devices/virtio_console.h"

#include <algorithm>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr unsigned kReceive = 0, kTransmit = 1;
constexpr uint64_t kSize = 1 << 0, kEmergencyWrite = 1 << 2;
constexpr uint32_t kColumnsAt = 0, kRowsAt = 2, kPortsAt = 4, kEmergencyAt = 8;
}  // namespace

VirtioConsole::VirtioConsole(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options)
    : VirtioDevice(id, std::move(name), ram, 2, kSize | kEmergencyWrite), host_(host) {
  put_size(options.columns, options.rows);
  put_le<uint32_t>(&config_[kPortsAt], 1);
}

void VirtioConsole::put_size(uint16_t columns, uint16_t rows) {
  put_le(&config_[kColumnsAt], columns);
  put_le(&config_[kRowsAt], rows);
}

void VirtioConsole::set_size(uint16_t columns, uint16_t rows) {
  if (get_le<uint16_t>(&config_[kColumnsAt]) == columns && get_le<uint16_t>(&config_[kRowsAt]) == rows)
    return;
  put_size(columns, rows);
  config_changed();
}

void VirtioConsole::config_write(uint32_t offset, unsigned, uint32_t value) {
  if (offset != kEmergencyAt) return;
  const uint8_t byte = static_cast<uint8_t>(value);
  host_.console_output(id(), {&byte, 1});
}

size_t VirtioConsole::receive(std::span<const uint8_t> bytes) {
  size_t taken = std::min(bytes.size(), input_space());
  input_.insert(input_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
  fill();
  return taken;
}

void VirtioConsole::fill() {
  VirtQueue& queue = queues_[kReceive];
  while (live() && !input_.empty()) {
    VirtQueue::Pop pop = queue.pop(ram_, chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    // 5.3.6.1: no readable buffers here, and no writable ones in the other queue.
    if (pop == VirtQueue::Pop::kBroken || !chain_.readable.empty()) {
      break_device();
      break;
    }
    auto end =
        input_.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(chain_.writable_bytes, input_.size()));
    scratch_.assign(input_.begin(), end);
    size_t n = copy_to(ram_, chain_.writable, 0, scratch_);
    input_.erase(input_.begin(), end);
    queue.push(ram_, chain_.head, static_cast<uint32_t>(n));
  }
  publish(kReceive);
}

void VirtioConsole::transmit() {
  VirtQueue& queue = queues_[kTransmit];
  for (;;) {
    VirtQueue::Pop pop = queue.pop(ram_, chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    if (pop == VirtQueue::Pop::kBroken || !chain_.writable.empty() || chain_.readable_bytes > kMaxOutput) {
      break_device();
      break;
    }
    scratch_.resize(static_cast<size_t>(chain_.readable_bytes));
    scratch_.resize(copy_from(ram_, chain_.readable, 0, scratch_));
    host_.console_output(id(), scratch_);
    queue.push(ram_, chain_.head, 0);
  }
  publish(kTransmit);
}

void VirtioConsole::on_notify(unsigned queue) {
  if (queue == kReceive)
    fill();
  else
    transmit();
}

void VirtioConsole::save_state(ByteWriter& out) const {
  out.raw(std::span(config_).first(kPortsAt));
  out.blob(std::vector<uint8_t>(input_.begin(), input_.end()));
}

void VirtioConsole::load_state(ByteReader& in) {
  const uint16_t columns = in.u16();
  put_size(columns, in.u16());
  auto input = in.blob(kMaxInput);
  input_.assign(input.begin(), input.end());
}

}  // namespace hypertwin::devices
