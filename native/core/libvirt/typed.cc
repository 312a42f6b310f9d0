#include "libvirt/typed.h"

#include <cmath>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "libvirt/scalars.h"

namespace hypertwin::libvirt {

namespace {

const char* const kTypeNames[] = {"", "int", "uint", "llong", "ullong", "double", "boolean", "string"};

int type_of_value(const Value& value) {
  if (value.as<bool>()) return abi::kBoolean;
  if (value.as<std::string>()) return abi::kString;
  if (value.as<int64_t>()) return abi::kLlong;
  if (value.as<uint64_t>()) return abi::kUllong;
  if (const auto* number = value.as<double>()) {
    if (std::trunc(*number) != *number || std::isinf(*number)) return abi::kDouble;
    if (*number >= -2147483648.0 && *number <= 2147483647.0) return abi::kInt;
    if (*number < 0) return abi::kLlong;
    return *number <= 4294967295.0 ? abi::kUint : abi::kUllong;
  }
  return 0;
}

int type_of_name(std::span<const TypedField> known, const std::string& name) {
  for (const TypedField& field : known)
    if (name == field.name) return field.type;
  return 0;
}

int type_by_word(const Value* word) {
  const auto* text = word ? word->as<std::string>() : nullptr;
  for (int type = abi::kInt; text && type <= abi::kString; ++type)
    if (*text == kTypeNames[type]) return type;
  return 0;
}

Scalar scalar_of(int type) {
  switch (type) {
    case abi::kInt:
      return Scalar::i;
    case abi::kUint:
      return Scalar::u;
    case abi::kLlong:
      return Scalar::ll;
    case abi::kUllong:
      return Scalar::ull;
    default:
      return Scalar::d;
  }
}

class Writer {
 public:
  Writer(std::span<const TypedField> known, const std::string& where) : known_(known), where_(where) {}

  void add(const std::string& name, const Value& value) {
    if (value.missing()) return;
    if (const auto* several = value.as<Array>()) {
      for (const Value& one : *several) add_one(name, one);
      return;
    }
    add_one(name, value);
  }

  TypedParameters take() { return std::move(out_); }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& why) const {
    throw Error("EINVAL", where_ + "." + name + " " + why);
  }

  void add_one(const std::string& name, const Value& given) {
    const Value* value = &given;
    int type = type_of_name(known_, name);
    if (const auto* explicit_type = given.as<Object>()) {
      type = type_by_word(property(*explicit_type, "type"));
      value = property(*explicit_type, "value");
      if (type == 0 || !value)
        fail(name, "must be {type, value} with the type int, uint, llong, ullong, double, boolean or string");
    }
    if (type == 0) type = type_of_value(*value);
    if (type == 0)
      fail(name, "must be a boolean, number, bigint or string, or {type, value}; it is " + describe(*value));
    abi::TypedParameter parameter{};
    if (name.empty() || name.size() >= sizeof parameter.field || name.find('\0') != std::string::npos)
      fail(name, "is no name of a typed parameter: those have 1 to 79 bytes");
    std::memcpy(parameter.field, name.data(), name.size());
    parameter.type = type;
    if (type == abi::kString) {
      const auto* text = value->as<std::string>();
      if (!text) fail(name, "must be a string; it is " + describe(*value));
      if (text->find('\0') != std::string::npos) fail(name, "must not contain a NUL character");
      parameter.value.s = out_.strings.emplace_back(*text).data();
    } else if (type == abi::kBoolean) {
      int flag = 0;
      if (!write_scalar(Scalar::flag, *value, &flag))
        fail(name, "must be a boolean; it is " + describe(*value));
      parameter.value.b = static_cast<char>(flag);
    } else if (!write_scalar(scalar_of(type), *value, &parameter.value)) {
      fail(name, "must be " + scalar_wants(scalar_of(type)) + "; it is " + describe(*value));
    }
    out_.list.push_back(parameter);
  }

  std::span<const TypedField> known_;
  const std::string& where_;
  TypedParameters out_;
};

Value read_one(const abi::TypedParameter& parameter) {
  switch (parameter.type) {
    case abi::kBoolean:
      return Value(parameter.value.b != 0);
    case abi::kString:
      return parameter.value.s ? Value(std::string(parameter.value.s)) : Value(Null{});
    case abi::kInt:
    case abi::kUint:
    case abi::kLlong:
    case abi::kUllong:
    case abi::kDouble:
      return read_scalar(scalar_of(parameter.type), &parameter.value);
    default:
      return Value(Undefined{});
  }
}

}  // namespace

TypedParameters write_typed(const Object& object, std::span<const TypedField> known,
                            const std::string& where) {
  Writer writer(known, where);
  for (const auto& [name, value] : object) writer.add(name, value);
  return writer.take();
}

Object read_typed_list(const abi::TypedParameter* list, size_t count) {
  Object out;
  out.reserve(count);
  std::vector<bool> repeated;  // by out's index: the property is an array of ours
  std::unordered_map<std::string_view, size_t> seen;
  seen.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const abi::TypedParameter& parameter = list[i];
    if (parameter.type == 0) continue;  // libvirt left this one unset
    std::string name(parameter.field, ::strnlen(parameter.field, sizeof parameter.field));
    Value value = read_one(parameter);
    const auto [found, fresh] = seen.emplace(std::string_view(parameter.field, name.size()), out.size());
    if (fresh) {
      out.emplace_back(std::move(name), std::move(value));
      repeated.push_back(false);
      continue;
    }
    const size_t at = found->second;
    if (!repeated[at]) {
      Array first;
      first.push_back(std::move(out[at].second));
      out[at].second = Value(std::move(first));
      repeated[at] = true;
    }
    std::get<Array>(static_cast<Value::Base&>(out[at].second)).push_back(std::move(value));
  }
  return out;
}

}  // namespace hypertwin::libvirt
