// A neutral tree of values: what JavaScript gives to a call and gets from it, for code that knows no Node.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "libvirt/descriptor.h"

namespace hypertwin::libvirt {

class Handle;
struct Value;

struct Undefined {
  bool operator==(const Undefined&) const = default;
};
struct Null {
  bool operator==(const Null&) const = default;
};
using Bytes = std::vector<uint8_t>;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;  // in order; names may not repeat
struct HandleValue {
  Class type = Class::none;
  std::shared_ptr<Handle> handle;  // null: a closed one, or one of no connection
  bool operator==(const HandleValue&) const = default;
};
// What a call takes no value of; `what` says what it was ("a function").
struct Foreign {
  std::string what;
  bool operator==(const Foreign&) const = default;
};

// int64_t and uint64_t are bigints, double a number. A bigint that comes in is a uint64_t unless negative.
struct Value : std::variant<Undefined, Null, bool, double, int64_t, uint64_t, std::string, Bytes, Array,
                            Object, HandleValue, Foreign> {
  using Base = std::variant<Undefined, Null, bool, double, int64_t, uint64_t, std::string, Bytes, Array,
                            Object, HandleValue, Foreign>;
  using Base::Base;
  const Base& base() const { return *this; }
  template <class T>
  const T* as() const {
    return std::get_if<T>(static_cast<const Base*>(this));
  }
  bool missing() const { return as<Undefined>() || as<Null>(); }
};

// For messages: "undefined", "a string", "a Domain".
std::string describe(const Value& value);

// A property; nullptr when there is none.
const Value* property(const Object& object, const std::string& name);

}  // namespace hypertwin::libvirt
