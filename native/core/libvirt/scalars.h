// Scalars of C between values, slots and memory. Knows their sizes and ranges, nothing of libvirt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "libvirt/descriptor.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

size_t scalar_size(Scalar scalar);

// What a scalar wants, for messages: "an integer from 0 to 255".
std::string scalar_wants(Scalar scalar);

// Writes `value` in `scalar`'s size to `memory`. False when it has the wrong type or is out of range.
bool write_scalar(Scalar scalar, const Value& value, void* memory);
// The same of a count of elements.
bool write_count(Scalar scalar, uint64_t count, void* memory);

Value read_scalar(Scalar scalar, const void* memory);
// As an integer, bits beyond int64_t's kept as they are; of a `d` its integral part.
int64_t read_integer(Scalar scalar, const void* memory);

}  // namespace hypertwin::libvirt
