#include "libvirt/value.h"

namespace hypertwin::libvirt {

namespace {

struct Describe {
  std::string operator()(const Undefined&) const { return "undefined"; }
  std::string operator()(const Null&) const { return "null"; }
  std::string operator()(bool) const { return "a boolean"; }
  std::string operator()(double value) const {
    std::string text = std::to_string(value);
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
    return "the number " + text;
  }
  std::string operator()(int64_t value) const { return "the bigint " + std::to_string(value); }
  std::string operator()(uint64_t value) const { return "the bigint " + std::to_string(value); }
  std::string operator()(const std::string&) const { return "a string"; }
  std::string operator()(const Bytes&) const { return "a byte array"; }
  std::string operator()(const Array&) const { return "an array"; }
  std::string operator()(const Object&) const { return "an object"; }
  std::string operator()(const HandleValue& value) const {
    return std::string("a ") + classes()[static_cast<size_t>(value.type)].name;
  }
  std::string operator()(const Foreign& value) const { return value.what; }
};

}  // namespace

std::string describe(const Value& value) { return std::visit(Describe{}, value.base()); }

const Value* property(const Object& object, const std::string& name) {
  for (const auto& [key, value] : object)
    if (key == name) return &value;
  return nullptr;
}

}  // namespace hypertwin::libvirt
