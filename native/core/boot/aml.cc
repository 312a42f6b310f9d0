#include "boot/aml.h"

#include <algorithm>
#include <stdexcept>

namespace hypertwin::boot::aml {

namespace {

constexpr uint8_t kZero = 0x00, kOne = 0x01, kName = 0x08, kByte = 0x0a, kWord = 0x0b, kDword = 0x0c,
                  kString = 0x0d, kQword = 0x0e, kScope = 0x10, kBuffer = 0x11, kPackage = 0x12,
                  kMethod = 0x14, kNotify = 0x86, kDualName = 0x2e, kMultiName = 0x2f, kExtended = 0x5b,
                  kDevice = 0x82;

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

void put(Bytes& to, uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

// `content` preceded by the length of itself and of the length.
Bytes with_length(const Bytes& content) {
  Bytes out;
  const size_t size = content.size();
  if (size + 1 < 0x40) {
    out.push_back(static_cast<uint8_t>(size + 1));
  } else {
    const unsigned more = size + 2 < 0x1000 ? 1 : size + 3 < 0x100000 ? 2 : 3;
    const uint64_t length = size + 1 + more;
    out.push_back(static_cast<uint8_t>(more << 6 | (length & 0x0f)));
    put(out, length >> 4, more);
  }
  append(out, content);
  return out;
}

Bytes word_window(uint8_t type, uint8_t flags, uint16_t first, uint16_t last) {
  Bytes out{0x88, 13, 0, type, 0x0c, flags};  // minimum and maximum are fixed
  put(out, 0, 2);                             // granularity
  put(out, first, 2);
  put(out, last, 2);
  put(out, 0, 2);  // translation
  put(out, uint32_t{last} - first + 1, 2);
  return out;
}

}  // namespace

Bytes join(std::initializer_list<Bytes> terms) {
  Bytes out;
  for (const auto& term : terms) append(out, term);
  return out;
}

Bytes path(std::string_view text) {
  Bytes out;
  if (text.starts_with('\\')) {
    out.push_back('\\');
    text.remove_prefix(1);
  }
  const auto segments = static_cast<uint8_t>(1 + std::count(text.begin(), text.end(), '.'));
  if (segments == 2) out.push_back(kDualName);
  if (segments > 2) {
    out.push_back(kMultiName);
    out.push_back(segments);
  }
  while (!text.empty()) {
    const auto segment = text.substr(0, text.find('.'));
    if (segment.empty() || segment.size() > 4) throw std::invalid_argument("no name of ACPI");
    out.insert(out.end(), segment.begin(), segment.end());
    out.insert(out.end(), 4 - segment.size(), '_');
    text.remove_prefix(std::min(text.size(), segment.size() + 1));
  }
  return out;
}

Bytes integer(uint64_t value) {
  if (value == 0) return {kZero};
  if (value == 1) return {kOne};
  const bool wide = value > UINT32_MAX;
  const unsigned size = wide ? 8 : value > UINT16_MAX ? 4 : value > UINT8_MAX ? 2 : 1;
  Bytes out{wide ? kQword : size == 4 ? kDword : size == 2 ? kWord : kByte};
  put(out, value, size);
  return out;
}

Bytes string(std::string_view text) {
  Bytes out{kString};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(0);
  return out;
}

Bytes eisa_id(std::string_view id) {
  auto hex = [](char c) -> uint32_t { return static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10); };
  uint32_t value = 0;
  for (size_t i = 0; i < 3; ++i) value = value << 5 | static_cast<uint32_t>(id[i] - 0x40);
  for (size_t i = 3; i < 7; ++i) value = value << 4 | hex(id[i]);
  Bytes out{kDword};
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
  return out;
}

Bytes package(std::span<const Bytes> elements) {
  Bytes content{static_cast<uint8_t>(elements.size())};
  for (const auto& element : elements) append(content, element);
  return join({{kPackage}, with_length(content)});
}

Bytes buffer(const Bytes& content) {
  return join({{kBuffer}, with_length(join({integer(content.size()), content}))});
}

Bytes name(std::string_view path_name, const Bytes& value) { return join({{kName}, path(path_name), value}); }

Bytes scope(std::string_view path_name, const Bytes& content) {
  return join({{kScope}, with_length(join({path(path_name), content}))});
}

Bytes device(std::string_view device_name, const Bytes& content) {
  return join({{kExtended, kDevice}, with_length(join({path(device_name), content}))});
}

Bytes method(std::string_view method_name, uint8_t arguments, const Bytes& content) {
  const auto flags = static_cast<uint8_t>(arguments | 0x08);
  return join({{kMethod}, with_length(join({path(method_name), {flags}, content}))});
}

Bytes notify(std::string_view object, uint8_t value) {
  return join({{kNotify}, path(object), integer(value)});
}

Bytes io_port(uint16_t first, uint8_t count) {
  Bytes out{0x47, 1};  // 16 bits decoded
  put(out, first, 2);
  put(out, first, 2);
  out.push_back(1);
  out.push_back(count);
  return out;
}

Bytes irq(uint8_t line) {
  Bytes out{0x22};
  put(out, uint16_t{1} << line, 2);
  return out;
}

Bytes interrupt(uint32_t pin) {
  Bytes out{0x89, 6, 0, 0x03, 1};  // consumer, edge, one interrupt
  put(out, pin, 4);
  return out;
}

Bytes bus_range(uint16_t first, uint16_t last) { return word_window(2, 0, first, last); }
Bytes io_window(uint16_t first, uint16_t last) { return word_window(1, 3, first, last); }

Bytes memory_window(uint32_t first, uint32_t last) {
  Bytes out{0x87, 23, 0, 0, 0x0c, 1};  // writable, not cacheable
  put(out, 0, 4);
  put(out, first, 4);
  put(out, last, 4);
  put(out, 0, 4);
  put(out, last - first + 1, 4);
  return out;
}

Bytes resources(std::initializer_list<Bytes> descriptors) {
  return buffer(join({join(descriptors), {0x79, 0}}));
}

}  // namespace hypertwin::boot::aml
