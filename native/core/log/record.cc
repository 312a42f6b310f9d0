// Encoding and decoding of records. Each field is checked before it is used; nothing is allocated but the
// check's scratch.
#include "log/record.h"

#include "base/error.h"
#include "log/format.h"

namespace hypertwin::log {

namespace {

template <class... T>
struct Overloaded : T... {
  using T::operator()...;
};
template <class... T>
Overloaded(T...) -> Overloaded<T...>;

uint8_t* put_raw(uint8_t* out, std::span<const uint8_t> bytes) {
  if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
  return out + bytes.size();
}

uint8_t* put_blob(uint8_t* out, std::span<const uint8_t> bytes) {
  return put_raw(put_varint(out, bytes.size()), bytes);
}

uint8_t* put_digest(uint8_t* out, const Digest128& digest) {
  return put_le(put_le(out, digest.lo), digest.hi);
}

Digest128 get_digest(ByteReader& in) {
  uint64_t lo = in.u64();
  return {lo, in.u64()};
}

// Kind, boundary and up to three varints or one varint and three digests.
constexpr size_t kFixedBound = 2 * kMaxVarintBytes + 64;

}  // namespace

uint64_t kind_of(const Body& body) {
  return std::visit(Overloaded{[](const Extension& e) { return e.kind; },
                               [](const auto& b) { return static_cast<uint64_t>(b.kKind); }},
                    body);
}

std::string_view kind_name(uint64_t kind) {
  static constexpr std::string_view kNames[] = {
      "unknown",      "time",  "packet_rx", "console_rx", "block_completion", "interrupt", "entropy", "check",
      "state_digest", "epoch", "marker",    "end",        "lifecycle",        "output"};
  if (kind >= kFirstOptionalKind) return "extension";
  return kind < std::size(kNames) ? kNames[kind] : kNames[0];
}

size_t input_bytes(const Body& body) {
  return std::visit(
      Overloaded{[](const PacketRx& b) { return b.bytes.size(); },
                 [](const ConsoleRx& b) { return b.bytes.size(); },
                 [](const BlockCompletion& b) { return b.data.size(); },
                 [](const Entropy& b) { return b.bytes.size(); }, [](const auto&) { return size_t{0}; }},
      body);
}

size_t encoded_bound(const Body& body) {
  return kFixedBound +
         std::visit(Overloaded{[](const PacketRx& b) { return b.bytes.size(); },
                               [](const ConsoleRx& b) { return b.bytes.size(); },
                               [](const BlockCompletion& b) { return b.data.size(); },
                               [](const Entropy& b) { return b.bytes.size(); },
                               [](const Check& b) { return b.prefixes.size() * 2 + b.registers.size(); },
                               [](const Epoch& b) { return b.bytes.size(); },
                               [](const Marker& b) { return b.text.size() + b.annotation.size(); },
                               [](const Extension& b) { return b.bytes.size(); },
                               [](const auto&) { return size_t{0}; }},
                    body);
}

namespace {
// Packets come in bursts: one after another at the same boundary leaves out what it shares.
bool is_compact(const PacketRx& packet, uint64_t boundary, const Cursor& cursor) {
  return boundary == cursor.boundary && packet.device < kCompactDevices;
}
}  // namespace

uint8_t* encode_record(uint8_t* out, uint64_t boundary, const Body& body, Cursor* cursor) {
  if (const auto* packet = std::get_if<PacketRx>(&body); packet && is_compact(*packet, boundary, *cursor)) {
    *out++ = static_cast<uint8_t>(kFirstCompactPacket + packet->device);
    return put_blob(out, packet->bytes);
  }
  out = put_varint(out, kind_of(body));
  out = put_varint(out, boundary - cursor->boundary);
  cursor->boundary = boundary;
  return std::visit(
      Overloaded{
          [&](const Time& b) {
            uint64_t delta = b.ns - cursor->time_ns;
            cursor->time_ns = b.ns;
            return put_varint(out, delta);
          },
          [&](const PacketRx& b) { return put_blob(put_varint(out, b.device), b.bytes); },
          [&](const ConsoleRx& b) { return put_blob(put_varint(out, b.device), b.bytes); },
          [&](const BlockCompletion& b) {
            uint8_t* p = put_varint(put_varint(out, b.device), b.request);
            *p++ = b.status;
            return put_blob(p, b.data);
          },
          [&](const Interrupt& b) {
            *out = b.vector;
            return out + 1;
          },
          [&](const Entropy& b) { return put_blob(put_varint(out, b.device), b.bytes); },
          [&](const Check& b) {
            uint8_t* p = put_varint(put_digest(out, b.rolling), b.prefixes.size());
            for (uint16_t prefix : b.prefixes) p = put_le(p, prefix);
            return put_blob(p, b.registers);
          },
          [&](const StateDigest& b) {
            return put_digest(put_digest(put_digest(out, b.memory), b.devices), b.vcpu);
          },
          [&](const Epoch& b) { return put_blob(out, b.bytes); },
          [&](const Marker& b) { return put_blob(put_blob(out, as_bytes(b.text)), b.annotation); },
          [&](const End& b) { return put_varint(out, b.reason); },
          [&](const Lifecycle& b) {
            *out = b.request;
            return out + 1;
          },
          [&](const Output&) { return out; },
          [&](const Extension& b) { return put_blob(out, b.bytes); },
      },
      body);
}

void decode_record(ByteReader& in, Cursor* cursor, std::vector<uint16_t>* scratch, Record* out) {
  uint64_t kind = in.varint();
  if (kind >= kFirstCompactPacket && kind < kFirstCompactPacket + kCompactDevices) {
    out->boundary = cursor->boundary;
    out->body = PacketRx{kind - kFirstCompactPacket, in.blob(kMaxRecordBytes)};
    return;
  }
  uint64_t delta = in.varint();
  if (delta > UINT64_MAX - cursor->boundary) in.corrupt("a boundary over 64 bits");
  cursor->boundary += delta;
  out->boundary = cursor->boundary;
  if (kind >= kFirstOptionalKind) {
    out->body = Extension{kind, in.blob(kMaxRecordBytes)};
    return;
  }
  switch (static_cast<RecordKind>(kind)) {
    case RecordKind::kTime:
      cursor->time_ns += in.varint();
      out->body = Time{cursor->time_ns};
      return;
    case RecordKind::kPacketRx: {
      PacketRx packet{in.varint(), {}};
      if (delta == 0 && packet.device < kCompactDevices)
        in.corrupt("a packet that is not in its compact form");
      packet.bytes = in.blob(kMaxRecordBytes);
      out->body = packet;
      return;
    }
    case RecordKind::kConsoleRx: {
      uint64_t device = in.varint();
      out->body = ConsoleRx{device, in.blob(kMaxRecordBytes)};
      return;
    }
    case RecordKind::kBlockCompletion: {
      uint64_t device = in.varint();
      uint64_t request = in.varint();
      uint8_t status = in.u8();
      out->body = BlockCompletion{device, request, status, in.blob(kMaxRecordBytes)};
      return;
    }
    case RecordKind::kInterrupt:
      out->body = Interrupt{in.u8()};
      return;
    case RecordKind::kEntropy: {
      uint64_t device = in.varint();
      out->body = Entropy{device, in.blob(kMaxRecordBytes)};
      return;
    }
    case RecordKind::kCheck: {
      Digest128 rolling = get_digest(in);
      uint64_t count = in.varint();
      if (count > in.remaining() / 2) in.corrupt("more digests than bytes");
      auto bytes = in.raw(count * 2);
      scratch->resize(static_cast<size_t>(count));
      for (size_t i = 0; i < count; i++) (*scratch)[i] = get_le<uint16_t>(bytes.data() + 2 * i);
      out->body = Check{rolling, *scratch, in.blob(kMaxRecordBytes)};
      return;
    }
    case RecordKind::kStateDigest: {
      Digest128 memory = get_digest(in);
      Digest128 devices = get_digest(in);
      out->body = StateDigest{memory, devices, get_digest(in)};
      return;
    }
    case RecordKind::kEpoch:
      out->body = Epoch{in.blob(kMaxRecordBytes)};
      return;
    case RecordKind::kMarker: {
      std::string_view text = in.text(kMaxRecordBytes);
      out->body = Marker{text, in.blob(kMaxRecordBytes)};
      return;
    }
    case RecordKind::kEnd:
      out->body = End{in.varint()};
      return;
    case RecordKind::kLifecycle:
      out->body = Lifecycle{in.u8()};
      return;
    case RecordKind::kOutput:
      out->body = Output{};
      return;
  }
  throw Error("LOG_UNKNOWN_KIND", "The log holds a record of kind " + std::to_string(kind) +
                                      ", which this version of hypertwin does not know: read it with the "
                                      "version that wrote it, or a later one");
}

}  // namespace hypertwin::log
