// The frames that migration and the logging channel share (docs/migration-protocol.md): what a header holds,
// and how one is checked. Knows no socket and no machine.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace hypertwin::wire {

// "HTWP" as it lies on the wire.
inline constexpr uint32_t kFrameMagic = 0x50575448;
inline constexpr uint16_t kProtocolVersion = 1;
inline constexpr size_t kHeaderBytes = 32;
inline constexpr size_t kMaxPayload = 4u << 20;

// The number on the wire. Direction: -> source or primary to destination or backup, <- the other way.
enum class FrameType : uint16_t {
  // Migration; the first part of every protection too.
  kHello = 1,     // -> what the machine is, and what shall become of it
  kAccept = 2,    // <- what of it this side can do
  kRefuse = 3,    // <- code and sentence; the connection ends
  kPages = 4,     // -> pages of memory, each zero, raw, compressed or as a delta
  kBlocks = 5,    // -> blocks of a disk
  kRoundEnd = 6,  // -> a round's figures
  kState = 7,     // -> vCPU, devices, and the digests of everything; nothing moves after it
  kReady = 8,     // <- all of it is here, checked, and this side is able to run
  kCommit = 9,    // -> run it
  kRunning = 10,  // <- it runs here
  kAbort = 11,    // <-> code and sentence; nothing was moved
  // Logging channel.
  kSegment = 32,    // -> a log segment begins: its number, its header
  kLog = 33,        // -> bytes of the open segment
  kAck = 34,        // <- how much of the log is here, and how far it is replayed
  kHeartbeat = 35,  // <-> I live; the primary's says how far its outputs were released
  kHandOver = 36,   // -> the log ended for a planned hand-over: go live
  kGoodbye = 37,    // <-> protection ends, on purpose; code and sentence
};

struct FrameHeader {
  FrameType type{};
  uint32_t size = 0;      // of the payload, bytes
  uint64_t sequence = 0;  // from 0, of this direction
};

// A received frame; the payload's view lives until the next one is received.
struct Frame {
  FrameType type{};
  uint64_t sequence = 0;
  std::span<const uint8_t> payload;
};

// "log"; "unknown" for a number that is none.
const char* frame_name(FrameType type);

// `payload_checksum` is checksum64 of the payload.
void encode_header(const FrameHeader& header, uint64_t payload_checksum,
                   std::span<uint8_t, kHeaderBytes> out);
// What of a header can be told before the payload is there. Throws Error("PROTOCOL"): magic, version, flags,
// size beyond kMaxPayload, or another sequence than `expected`.
FrameHeader decode_header(std::span<const uint8_t, kHeaderBytes> bytes, uint64_t expected);
// Throws Error("PROTOCOL") unless the header's checksum is that of header and payload.
void check_frame(std::span<const uint8_t, kHeaderBytes> bytes, std::span<const uint8_t> payload);

}  // namespace hypertwin::wire
