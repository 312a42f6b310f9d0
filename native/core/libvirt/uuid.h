// UUIDs: 16 bytes and their text. Knows nothing of libvirt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hypertwin::libvirt {

// With or without dashes, either case; nullopt when it is none.
std::optional<std::vector<uint8_t>> parse_uuid(const std::string& text);
// 36 characters, lower case.
std::string format_uuid(const uint8_t* bytes);

}  // namespace hypertwin::libvirt
