// A log record that owns its bytes: kept past the moment at which its views end. Not copied, since the body
// looks into the other members; a move keeps their heap storage, and so the views.
#pragma once

#include <cstdint>
#include <vector>

#include "log/record.h"

namespace hypertwin::replay {

struct OwnedRecord {
  uint64_t boundary = 0;
  log::Body body;
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> prefixes;

  OwnedRecord(uint64_t at, const log::Body& from) : boundary(at), body(from) {
    auto own = [this](std::span<const uint8_t>& view) {
      bytes.assign(view.begin(), view.end());
      view = bytes;
    };
    if (auto* packet = std::get_if<log::PacketRx>(&body)) own(packet->bytes);
    if (auto* console = std::get_if<log::ConsoleRx>(&body)) own(console->bytes);
    if (auto* completion = std::get_if<log::BlockCompletion>(&body)) own(completion->data);
    if (auto* check = std::get_if<log::Check>(&body)) {
      prefixes.assign(check->prefixes.begin(), check->prefixes.end());
      check->prefixes = prefixes;
    }
  }
  size_t size() const { return bytes.size() + prefixes.size() * sizeof(uint16_t); }
  OwnedRecord(OwnedRecord&&) = default;
  OwnedRecord& operator=(OwnedRecord&&) = default;
};

}  // namespace hypertwin::replay
