// libvirt's structures as objects, by the generated layouts.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "libvirt/descriptor.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

// Copies all that it points to; takes references of its objects. On a thread that may call libvirt.
Value read_struct(const Struct& layout, const void* data);

// free() of what the structure's `owned` fields point to.
void free_owned_fields(const Struct& layout, void* data);

// A structure made from an object, and what it points to.
struct WrittenStruct {
  std::vector<std::byte> memory;
  std::deque<std::string> strings;
};

// Integers, characters and strings; what is undefined stays zero. `where` begins the message of
// Error("EINVAL").
WrittenStruct write_struct(const Struct& layout, const Object& object, const std::string& where);

}  // namespace hypertwin::libvirt
