#include "migrate/payloads.h"

#include "migrate/codec.h"
#include "wire/frame.h"

namespace hypertwin::migrate {

namespace {
constexpr size_t kMostConfig = 128u << 10;
constexpr size_t kMostCode = 64;
constexpr size_t kMostMessage = 4096;
constexpr uint8_t kMostDisks = 8;
constexpr uint8_t kStateVersion = 1;

void put_digest(ByteWriter& out, const Digest128& digest) {
  out.u64(digest.lo);
  out.u64(digest.hi);
}

Digest128 get_digest(ByteReader& in) {
  Digest128 digest;
  digest.lo = in.u64();
  digest.hi = in.u64();
  return digest;
}

bool get_bool(ByteReader& in) {
  const uint8_t value = in.u8();
  if (value > 1) in.corrupt("neither yes nor no");
  return value != 0;
}
}  // namespace

std::vector<uint8_t> encode_hello(const Hello& hello) {
  ByteWriter out;
  out.u8(wire::kProtocolVersion & 0xff);
  out.u8(wire::kProtocolVersion >> 8);
  out.u8(static_cast<uint8_t>(hello.purpose));
  out.raw(hello.session);
  out.u8(hello.disks);
  out.u32(hello.features);
  ByteWriter config;
  hello.config.save(config);
  out.blob(config.data());
  out.u8(hello.config.dirty_ring);
  out.u32(hello.config.dirty_ring_entries);
  out.blob(log::encode_header(hello.host));
  return out.take();
}

Hello decode_hello(std::span<const uint8_t> payload) {
  ByteReader in(payload, "the source's greeting");
  Hello hello;
  if (uint16_t version = in.u16(); version != wire::kProtocolVersion)
    throw Error("MIGRATION_MISMATCH", "the source speaks version " + std::to_string(version) +
                                          " of the migration protocol, this side version " +
                                          std::to_string(wire::kProtocolVersion));
  const uint8_t purpose = in.u8();
  if (purpose != static_cast<uint8_t>(Purpose::kMigrate) &&
      purpose != static_cast<uint8_t>(Purpose::kProtect))
    in.corrupt("an unknown purpose");
  hello.purpose = static_cast<Purpose>(purpose);
  auto session = in.raw(hello.session.size());
  std::copy(session.begin(), session.end(), hello.session.begin());
  hello.disks = get_bool(in);
  hello.features = in.u32();
  ByteReader config(in.blob(kMostConfig), "the source's configuration");
  hello.config = machine::MachineConfig::load(config);
  config.expect_done();
  hello.config.dirty_ring = get_bool(in);
  hello.config.dirty_ring_entries = in.u32();
  hello.config.check();
  hello.host = log::decode_header(in.blob(log::kMaxHeaderBlob));
  in.expect_done();
  return hello;
}

std::vector<uint8_t> encode_accept(const Accept& accept) {
  ByteWriter out;
  out.u32(accept.features);
  out.u8(static_cast<uint8_t>(accept.disks.size()));
  for (bool wanted : accept.disks) out.u8(wanted);
  return out.take();
}

Accept decode_accept(std::span<const uint8_t> payload) {
  ByteReader in(payload, "the destination's answer");
  Accept accept;
  accept.features = in.u32();
  const uint8_t disks = in.u8();
  if (disks > kMostDisks) in.corrupt("too many disks");
  for (uint8_t i = 0; i < disks; ++i) accept.disks.push_back(get_bool(in));
  in.expect_done();
  return accept;
}

std::vector<uint8_t> encode_refusal(std::string_view code, std::string_view message) {
  ByteWriter out;
  out.text(code.substr(0, kMostCode));
  out.text(message.substr(0, kMostMessage));
  return out.take();
}

Refusal decode_refusal(std::span<const uint8_t> payload) {
  ByteReader in(payload, "a refusal");
  Refusal refusal;
  refusal.code = in.text(kMostCode);
  refusal.message = in.text(kMostMessage);
  in.expect_done();
  return refusal;
}

std::vector<uint8_t> encode_round_end(const RoundEnd& end) {
  ByteWriter out;
  out.u32(end.round);
  out.u8(end.final);
  out.u64(end.pages);
  out.u64(end.blocks);
  return out.take();
}

RoundEnd decode_round_end(std::span<const uint8_t> payload) {
  ByteReader in(payload, "a round's end");
  RoundEnd end;
  end.round = in.u32();
  end.final = get_bool(in);
  end.pages = in.u64();
  end.blocks = in.u64();
  in.expect_done();
  return end;
}

std::vector<uint8_t> encode_state(const MovedState& state) {
  ByteWriter out;
  out.u8(kStateVersion);
  out.u8(state.running);
  out.u8(state.memory_verified);
  out.u64(state.digest.boundary);
  put_digest(out, state.digest.vcpu);
  put_digest(out, state.digest.devices);
  put_digest(out, state.digest.memory);
  out.u8(static_cast<uint8_t>(state.disks.size()));
  for (const Digest128& disk : state.disks) put_digest(out, disk);
  out.blob(state.machine);
  return out.take();
}

MovedState decode_state(std::span<const uint8_t> bytes) {
  ByteReader in(bytes, "the state");
  if (in.u8() != kStateVersion) in.corrupt("an unknown version");
  MovedState state;
  state.running = get_bool(in);
  state.memory_verified = get_bool(in);
  state.digest.boundary = in.u64();
  state.digest.vcpu = get_digest(in);
  state.digest.devices = get_digest(in);
  state.digest.memory = get_digest(in);
  const uint8_t disks = in.u8();
  if (disks > kMostDisks) in.corrupt("too many disks");
  for (uint8_t i = 0; i < disks; ++i) state.disks.push_back(get_digest(in));
  auto machine = in.blob();
  state.machine.assign(machine.begin(), machine.end());
  in.expect_done();
  return state;
}

bool StateParts::add(std::span<const uint8_t> payload) {
  ByteReader in(payload, "a part of the state");
  if (complete_) in.corrupt("more than the whole");
  complete_ = get_bool(in);
  auto part = in.raw(in.remaining());
  if (bytes_.size() + part.size() > kMostState) in.corrupt("too long");
  bytes_.insert(bytes_.end(), part.begin(), part.end());
  return complete_;
}

}  // namespace hypertwin::migrate
