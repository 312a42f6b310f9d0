// The log's records: what came to the machine from outside, and what proves that a replay is right.
// Spans in a record are views: of the caller's memory when appending, of the reader's until its next().
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"

namespace hypertwin::log {

enum class RecordKind : uint64_t {
  kTime = 1,
  kPacketRx = 2,
  kConsoleRx = 3,
  kBlockCompletion = 4,
  kInterrupt = 5,
  kEntropy = 6,
  kCheck = 7,
  kStateDigest = 8,
  kEpoch = 9,
  kMarker = 10,
  kEnd = 11,
  kLifecycle = 12,
  kOutput = 13,
};
// Kinds from here on carry a length and are skipped by readers that do not know them.
inline constexpr uint64_t kFirstOptionalKind = 128;

// 64 + device in a file: a packet_rx of a device below 8 whose boundary is that of the record before.
inline constexpr uint64_t kFirstCompactPacket = 64;
inline constexpr uint64_t kCompactDevices = 8;

// The guest's clock moved to `ns` (absolute; stored as the difference to the last Time).
struct Time {
  static constexpr RecordKind kKind = RecordKind::kTime;
  uint64_t ns = 0;
};
struct PacketRx {
  static constexpr RecordKind kKind = RecordKind::kPacketRx;
  uint64_t device = 0;
  std::span<const uint8_t> bytes;
};
struct ConsoleRx {
  static constexpr RecordKind kKind = RecordKind::kConsoleRx;
  uint64_t device = 0;
  std::span<const uint8_t> bytes;
};
// Request number `request` of `device` was completed; `data` is what a read returned, else empty.
struct BlockCompletion {
  static constexpr RecordKind kKind = RecordKind::kBlockCompletion;
  uint64_t device = 0;
  uint64_t request = 0;
  uint8_t status = 0;
  std::span<const uint8_t> data;
};
struct Interrupt {
  static constexpr RecordKind kKind = RecordKind::kInterrupt;
  uint8_t vector = 0;
};
struct Entropy {
  static constexpr RecordKind kKind = RecordKind::kEntropy;
  uint64_t device = 0;
  std::span<const uint8_t> bytes;
};
// The rolling digest after this record's boundary, with RollingDigest::prefix() of each boundary since
// the previous check (the last one is this boundary), and, if given, the register file as bytes.
struct Check {
  static constexpr RecordKind kKind = RecordKind::kCheck;
  Digest128 rolling;
  std::span<const uint16_t> prefixes;
  std::span<const uint8_t> registers;
};
struct StateDigest {
  static constexpr RecordKind kKind = RecordKind::kStateDigest;
  Digest128 memory;
  Digest128 devices;
  Digest128 vcpu;
};
// Registers and pages that replace replay up to here; the layout is in docs/eventlog-format.md.
struct Epoch {
  static constexpr RecordKind kKind = RecordKind::kEpoch;
  std::span<const uint8_t> bytes;
};
struct Marker {
  static constexpr RecordKind kKind = RecordKind::kMarker;
  std::string_view text;
  std::span<const uint8_t> annotation;
};
// The recording ended; nothing follows.
struct End {
  static constexpr RecordKind kKind = RecordKind::kEnd;
  uint64_t reason = 0;
};
// A request from outside: reset button, power button.
struct Lifecycle {
  static constexpr RecordKind kKind = RecordKind::kLifecycle;
  uint8_t request = 0;
};
// Something left the machine after the records before this one: a follower that goes live must have reached
// this boundary first.
struct Output {
  static constexpr RecordKind kKind = RecordKind::kOutput;
};
// A kind >= kFirstOptionalKind that this version does not know.
struct Extension {
  uint64_t kind = kFirstOptionalKind;
  std::span<const uint8_t> bytes;
};

using Body = std::variant<Time, PacketRx, ConsoleRx, BlockCompletion, Interrupt, Entropy, Check, StateDigest,
                          Epoch, Marker, End, Lifecycle, Output, Extension>;

// The number that stands in the file.
uint64_t kind_of(const Body& body);
// "packet_rx", …; "extension" from kFirstOptionalKind on, "unknown" for a mandatory one.
std::string_view kind_name(uint64_t kind);
// Bytes that came from outside and that a log cannot do without (packet, console, block, entropy).
size_t input_bytes(const Body& body);

struct Record {
  // Its number in the log, from 0.
  uint64_t index = 0;
  uint64_t boundary = 0;
  Body body;
  // Something is missing between the first record read (or the last seek) and this one: for looking at
  // only, never for replay.
  bool after_gap = false;

  uint64_t kind() const { return kind_of(body); }
  template <class T>
  const T* as() const {
    return std::get_if<T>(&body);
  }
};

// What deltas count from.
struct Cursor {
  uint64_t boundary = 0;
  uint64_t time_ns = 0;
};

// No encoding of `body` is longer.
size_t encoded_bound(const Body& body);
// Encodes at `out`, which has room for encoded_bound(body), moves `cursor`, returns the end.
uint8_t* encode_record(uint8_t* out, uint64_t boundary, const Body& body, Cursor* cursor);
// Decodes one record and moves `cursor`. Check::prefixes points into `scratch`. Throws Error: CORRUPT, or
// LOG_UNKNOWN_KIND for a mandatory kind of a later version.
void decode_record(ByteReader& in, Cursor* cursor, std::vector<uint16_t>* scratch, Record* out);

}  // namespace hypertwin::log
