#include "libvirt/uuid.h"

namespace hypertwin::libvirt {

namespace {

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::optional<std::vector<uint8_t>> parse_uuid(const std::string& text) {
  std::vector<uint8_t> bytes;
  const bool dashes = text.size() == 36;
  if (!dashes && text.size() != 32) return std::nullopt;
  for (size_t at = 0; at + 1 < text.size(); at += 2) {
    if (dashes && (at == 8 || at == 13 || at == 18 || at == 23)) {
      if (text[at] != '-') return std::nullopt;
      ++at;
    }
    const int high = digit(text[at]), low = digit(text[at + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes.push_back(static_cast<uint8_t>(high * 16 + low));
  }
  return bytes;
}

std::string format_uuid(const uint8_t* bytes) {
  static const char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

}  // namespace hypertwin::libvirt
