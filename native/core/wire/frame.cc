// The bytes of a frame's header. Knows no socket and no machine.
#include "wire/frame.h"

#include <string>

#include "base/bytes.h"
#include "base/digest.h"
#include "base/error.h"

namespace hypertwin::wire {

namespace {

// Where each field lies.
constexpr size_t kMagicAt = 0, kVersionAt = 4, kTypeAt = 6, kSizeAt = 8, kFlagsAt = 12, kSequenceAt = 16,
                 kChecksumAt = 24;
static_assert(kChecksumAt + 8 == kHeaderBytes);

uint64_t checksum(std::span<const uint8_t, kHeaderBytes> bytes, uint64_t payload_checksum) {
  return checksum64(bytes.first(kChecksumAt), payload_checksum);
}

[[noreturn]] void refuse(const std::string& problem) { throw Error("PROTOCOL", "wire: " + problem); }

}  // namespace

const char* frame_name(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return "hello";
    case FrameType::kAccept:
      return "accept";
    case FrameType::kRefuse:
      return "refuse";
    case FrameType::kPages:
      return "pages";
    case FrameType::kBlocks:
      return "blocks";
    case FrameType::kRoundEnd:
      return "round-end";
    case FrameType::kState:
      return "state";
    case FrameType::kReady:
      return "ready";
    case FrameType::kCommit:
      return "commit";
    case FrameType::kRunning:
      return "running";
    case FrameType::kAbort:
      return "abort";
    case FrameType::kSegment:
      return "segment";
    case FrameType::kLog:
      return "log";
    case FrameType::kAck:
      return "ack";
    case FrameType::kHeartbeat:
      return "heartbeat";
    case FrameType::kHandOver:
      return "hand-over";
    case FrameType::kGoodbye:
      return "goodbye";
  }
  return "unknown";
}

void encode_header(const FrameHeader& header, uint64_t payload_checksum,
                   std::span<uint8_t, kHeaderBytes> out) {
  put_le(&out[kMagicAt], kFrameMagic);
  put_le(&out[kVersionAt], kProtocolVersion);
  put_le(&out[kTypeAt], static_cast<uint16_t>(header.type));
  put_le(&out[kSizeAt], header.size);
  put_le(&out[kFlagsAt], uint32_t{0});
  put_le(&out[kSequenceAt], header.sequence);
  put_le(&out[kChecksumAt], checksum(out, payload_checksum));
}

FrameHeader decode_header(std::span<const uint8_t, kHeaderBytes> bytes, uint64_t expected) {
  if (get_le<uint32_t>(&bytes[kMagicAt]) != kFrameMagic)
    refuse("what arrived is no frame of this protocol (wrong magic)");
  if (const auto version = get_le<uint16_t>(&bytes[kVersionAt]); version != kProtocolVersion)
    refuse("the peer speaks version " + std::to_string(version) + " of the protocol, this side " +
           std::to_string(kProtocolVersion) + "; run the same release on both");
  FrameHeader header;
  header.type = static_cast<FrameType>(get_le<uint16_t>(&bytes[kTypeAt]));
  header.size = get_le<uint32_t>(&bytes[kSizeAt]);
  header.sequence = get_le<uint64_t>(&bytes[kSequenceAt]);
  if (get_le<uint32_t>(&bytes[kFlagsAt]) != 0) refuse("a frame has flags that this version does not know");
  if (header.size > kMaxPayload)
    refuse("a frame says that it has " + std::to_string(header.size) + " bytes; " +
           std::to_string(kMaxPayload) + " is the most");
  if (header.sequence != expected)
    refuse("frame " + std::to_string(header.sequence) + " came where frame " + std::to_string(expected) +
           " was due");
  return header;
}

void check_frame(std::span<const uint8_t, kHeaderBytes> bytes, std::span<const uint8_t> payload) {
  if (get_le<uint64_t>(&bytes[kChecksumAt]) != checksum(bytes, checksum64(payload)))
    refuse("frame " + std::to_string(get_le<uint64_t>(&bytes[kSequenceAt])) + " has a wrong checksum");
}

}  // namespace hypertwin::wire
