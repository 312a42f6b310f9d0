// virtio-vsock: rings, states and events of the host from anywhere. What the host is told keeps to vsock.h,
// and tables stay bounded.
#include <map>

#include "devices/virtio_vsock.h"
#include "virtio_rings.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {
// Keeps the books of a host that believes what it is told.
struct Books : VsockHost {
  struct Connection {
    uint64_t to_guest = 0, from_guest = 0;  // bytes under way
  };
  std::map<uint64_t, Connection> open;
  void vsock_event(uint32_t, VsockEvent event) override {
    auto found = open.find(event.connection);
    if (event.operation == VsockOperation::kReset) {
      if (found != open.end()) open.erase(found);
      return;
    }
    if (event.operation == VsockOperation::kConnect) {
      if (found != open.end() || !(event.connection & kVsockByGuest)) std::abort();
      open[event.connection] = {};
      if (open.size() > kMaxVsockConnections) std::abort();
      return;
    }
    if (found == open.end()) std::abort();
    if (event.operation == VsockOperation::kData &&
        (found->second.from_guest += event.data.size()) > kVsockWindow)
      std::abort();
    if (event.operation == VsockOperation::kRoom) {
      if (event.value > found->second.to_guest) std::abort();
      found->second.to_guest -= event.value;
    }
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static TestBoard board;
  Books books;
  VirtioVsock vsock(books, 0, "vsock", board.ram, 3);
  struct : VsockHost {
    void vsock_event(uint32_t, VsockEvent) override {}
  } nobody;
  VirtioVsock again(nobody, 0, "vsock", board.ram, 3);
  uint64_t number = 0;
  auto input = [&](uint8_t what, std::span<const uint8_t> bytes) {
    VsockEvent event{.operation = static_cast<VsockOperation>(what & 7),
                     .data = {bytes.begin(), bytes.end()}};
    if (event.operation == VsockOperation::kConnect) {
      event.connection = ++number;
      event.host_port = what;
      if (bytes.size() >= 4) event.guest_port = get_le<uint32_t>(bytes.data());
      if (vsock.input(event)) books.open[event.connection] = {};
      return;
    }
    if (books.open.empty()) return;
    auto at = books.open.begin();
    std::advance(at, what / 8 % books.open.size());
    event.connection = at->first;
    event.value = static_cast<uint32_t>(bytes.size()) * (what & 16 ? 1024 : 1);
    if (event.operation == VsockOperation::kShutdown) event.value = what >> 4 & 3;
    // Booked first: the device may answer at once.
    if (event.operation == VsockOperation::kData) at->second.to_guest += event.data.size();
    if (event.operation == VsockOperation::kRoom)
      at->second.from_guest -= std::min<uint64_t>(at->second.from_guest, event.value);
    if (event.operation == VsockOperation::kReset) books.open.erase(at);
    if (!vsock.input(event)) books.open.erase(event.connection);
  };
  fuzz_device(
      data, size, board, vsock, again,
      [&](uint8_t what, std::span<const uint8_t> bytes) {
        if (what & 4 &&
            bytes.size() >= 8) {  // a packet of this guest in the first buffer of the transmit ring
          uint8_t* p = put_le<uint64_t>(board.at(0x17000), 3);
          p = put_le<uint64_t>(p, 2);
          p = put_le<uint32_t>(p, bytes[0] % 4);
          p = put_le<uint32_t>(p, bytes[1]);
          p = put_le<uint32_t>(p, bytes[2] % 24);
          p = put_le<uint16_t>(p, static_cast<uint16_t>(bytes[2] == 255 ? 2 : 1));
          p = put_le<uint16_t>(p, bytes[3] % 9);
          p = put_le<uint32_t>(p, bytes[4]);
          p = put_le<uint32_t>(p, bytes[5] * 16u);
          put_le<uint32_t>(p, bytes[6] | bytes[7] << 8);
        }
        if (what & 128) input(static_cast<uint8_t>(what >> 2), bytes);
        if (what == 2) {
          books.open.clear();
          vsock.transport_reset(3);
        }
      },
      [&] {
        for (uint64_t each : {number, kVsockByGuest}) {
          again.input({.operation = VsockOperation::kRoom, .connection = each, .value = 1, .data = {}});
          again.input({.operation = VsockOperation::kData, .connection = each, .data = {1, 2, 3}});
          again.input({.operation = VsockOperation::kReset, .connection = each, .data = {}});
        }
        again.input({.operation = VsockOperation::kConnect, .connection = 99, .data = {}});
      });
  if (vsock.connections() > kMaxVsockConnections) std::abort();
  return 0;
}
