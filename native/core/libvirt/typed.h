// libvirt's typed parameters as objects, both ways.
#pragma once

#include <cstddef>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "libvirt/abi.h"
#include "libvirt/descriptor.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

// Copied from an object. The strings that the parameters point to lie in it.
struct TypedParameters {
  std::vector<abi::TypedParameter> list;
  std::deque<std::string> strings;
};

// A name of `known` gets that type; another one what its value says: boolean, string, bigint (ULLONG, or
// LLONG when negative), integer (INT where it fits), other number (DOUBLE). An array repeats the name. {type,
// value} says the type. Undefined ones are left out. `where` begins the message of Error("EINVAL").
TypedParameters write_typed(const Object& object, std::span<const TypedField> known,
                            const std::string& where);

// A name that occurs more than once becomes an array.
Object read_typed_list(const abi::TypedParameter* list, size_t count);

}  // namespace hypertwin::libvirt
