// What goes between a virtio-vsock device and the host's side of it: the same small set of events both ways.
#pragma once

#include <cstdint>
#include <vector>

namespace hypertwin::devices {

// Of each direction of each connection at most this many bytes are under way: sent, and not yet answered by
// kRoom. Both sides buffer that much, so neither ever has to refuse.
inline constexpr uint32_t kVsockWindow = 64u << 10;
inline constexpr uint32_t kMaxVsockConnections = 1024;

// virtio's flags of a shutdown: the sender of it will not receive, will not send.
inline constexpr uint32_t kVsockNoReceive = 1, kVsockNoSend = 2;

// Connections that the guest began have this bit in their number, those of the host do not. A number is never
// used twice within a device's life, so that an event which crossed the end of its connection means nothing.
inline constexpr uint64_t kVsockByGuest = uint64_t{1} << 63;

enum class VsockOperation : uint8_t {
  kConnect = 0,   // a new connection, with its ports
  kAccept = 1,    // the other side's kConnect is answered; data may follow
  kData = 2,      // bytes of the stream
  kRoom = 3,      // `value` bytes of the receiver's window are free again
  kShutdown = 4,  // `value`: kVsockNoReceive, kVsockNoSend or both; after all data before it
  kReset = 5,     // the connection is gone on both sides
};

struct VsockEvent {
  VsockOperation operation = VsockOperation::kReset;
  uint64_t connection = 0;
  uint32_t host_port = 0;   // kConnect
  uint32_t guest_port = 0;  // kConnect
  uint32_t value = 0;       // kRoom, kShutdown
  std::vector<uint8_t> data;
};

}  // namespace hypertwin::devices
