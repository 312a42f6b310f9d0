// ACPI Machine Language, as much of it as a table of devices needs: each function gives the encoding of one
// term (ACPI 6.5, chapter 20).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace hypertwin::boot::aml {

using Bytes = std::vector<uint8_t>;

Bytes join(std::initializer_list<Bytes> terms);

// A name of up to 4 characters, padded with underscores; "\\" in front for the root; segments by dots.
Bytes path(std::string_view name);
Bytes integer(uint64_t value);
Bytes string(std::string_view text);
// "PNP0A03" as its compressed number.
Bytes eisa_id(std::string_view id);
Bytes package(std::span<const Bytes> elements);
Bytes buffer(const Bytes& content);
Bytes name(std::string_view path_name, const Bytes& value);
Bytes scope(std::string_view path_name, const Bytes& content);
Bytes device(std::string_view name, const Bytes& content);
// One at a time (serialized).
Bytes method(std::string_view name, uint8_t arguments, const Bytes& content);
Bytes notify(std::string_view object, uint8_t value);

// Resource descriptors, for resources() alone.
Bytes io_port(uint16_t first, uint8_t count);
Bytes irq(uint8_t line);
// A pin of the I/O APIC, edge-triggered, active high.
Bytes interrupt(uint32_t pin);
Bytes bus_range(uint16_t first, uint16_t last);
Bytes io_window(uint16_t first, uint16_t last);
Bytes memory_window(uint32_t first, uint32_t last);
// A buffer of descriptors, ended as it must be.
Bytes resources(std::initializer_list<Bytes> descriptors);

}  // namespace hypertwin::boot::aml
