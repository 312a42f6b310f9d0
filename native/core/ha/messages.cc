// Fixed little-endian fields, texts with a length.
#include "ha/messages.h"

#include "base/bytes.h"
#include "base/error.h"

namespace hypertwin::ha {

namespace {

constexpr uint8_t kArmed = 1, kPaused = 2;
constexpr size_t kMaxText = 4096;

template <class F>
auto checked(const char* what, F decode) {
  try {
    return decode();
  } catch (const Error& error) {
    throw Error("PROTOCOL", std::string("a malformed ") + what + ": " + error.what());
  }
}

}  // namespace

std::vector<uint8_t> encode(const PrimaryBeat& beat) {
  ByteWriter out;
  out.u8(static_cast<uint8_t>((beat.armed ? kArmed : 0) | (beat.paused ? kPaused : 0)));
  out.u64(beat.sent_ns);
  out.u64(beat.released);
  out.u64(beat.settled_records);
  out.u64(beat.settled_boundary);
  return out.take();
}

std::vector<uint8_t> encode(const BackupReport& report) {
  ByteWriter out;
  out.u8(report.armed ? kArmed : 0);
  out.u64(report.echo_ns);
  out.u64(report.promise_ns);
  out.u64(report.received);
  out.u64(report.boundary);
  out.u64(report.dry_ns);
  return out.take();
}

std::vector<uint8_t> encode(const Goodbye& goodbye) {
  ByteWriter out;
  out.text(goodbye.code.substr(0, kMaxText));
  out.text(goodbye.message.substr(0, kMaxText));
  return out.take();
}

PrimaryBeat decode_beat(std::span<const uint8_t> payload) {
  return checked("heartbeat", [&] {
    ByteReader in(payload, "heartbeat");
    PrimaryBeat beat;
    const uint8_t flags = in.u8();
    beat.armed = flags & kArmed;
    beat.paused = flags & kPaused;
    beat.sent_ns = in.u64();
    beat.released = in.u64();
    beat.settled_records = in.u64();
    beat.settled_boundary = in.u64();
    return beat;
  });
}

BackupReport decode_report(std::span<const uint8_t> payload) {
  return checked("report", [&] {
    ByteReader in(payload, "report");
    BackupReport report;
    report.armed = in.u8() & kArmed;
    report.echo_ns = in.u64();
    report.promise_ns = in.u64();
    report.received = in.u64();
    report.boundary = in.u64();
    report.dry_ns = in.u64();
    return report;
  });
}

Goodbye decode_goodbye(std::span<const uint8_t> payload) {
  return checked("goodbye", [&] {
    ByteReader in(payload, "goodbye");
    Goodbye goodbye;
    goodbye.code = in.text(kMaxText);
    goodbye.message = in.text(kMaxText);
    return goodbye;
  });
}

}  // namespace hypertwin::ha
