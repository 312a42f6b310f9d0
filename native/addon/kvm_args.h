// Reads the arguments of the KVM handles' operations: checked, with an error that names the argument.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "base/error.h"

namespace hypertwin::addon {

// A typed array's bytes, in place: valid only until the JavaScript function returns. Its own data pointer,
// for that of a SharedArrayBuffer is not to be had.
inline std::span<uint8_t> bytes_of(const Napi::TypedArray& array) {
  void* data = nullptr;
  if (napi_get_typedarray_info(array.Env(), array, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
    throw Napi::Error::New(array.Env());
  return {static_cast<uint8_t*>(data), array.ByteLength()};
}

class Args {
 public:
  // Arguments from index `first` on count as 0, 1, ...
  explicit Args(const Napi::CallbackInfo& info, size_t first = 0) : info_(info), first_(first) {}

  Napi::Env env() const { return info_.Env(); }
  bool has(size_t index) const { return !value(index).IsUndefined() && !value(index).IsNull(); }
  Napi::Value value(size_t index) const { return info_[first_ + index]; }

  uint64_t u64(size_t index) const {
    Napi::Value given = value(index);
    if (given.IsBigInt()) {
      bool lossless = false;
      uint64_t number = given.As<Napi::BigInt>().Uint64Value(&lossless);
      if (lossless) return number;
    } else if (given.IsNumber()) {
      double number = given.As<Napi::Number>().DoubleValue();
      if (number >= 0 && number <= 9007199254740991.0 && std::floor(number) == number)
        return static_cast<uint64_t>(number);
    }
    throw Error("EINVAL", name(index) + " must be an integer from 0 to 2^64 - 1 (a bigint or a safe number)");
  }
  uint32_t u32(size_t index) const {
    uint64_t number = u64(index);
    if (number > UINT32_MAX) throw Error("EINVAL", name(index) + " must be below 2^32");
    return static_cast<uint32_t>(number);
  }
  int fd(size_t index) const {
    uint64_t number = u64(index);
    if (number > INT32_MAX) throw Error("EINVAL", name(index) + " must be a file descriptor");
    return static_cast<int>(number);
  }
  bool boolean(size_t index) const {
    if (!value(index).IsBoolean()) throw Error("EINVAL", name(index) + " must be true or false");
    return value(index).As<Napi::Boolean>().Value();
  }
  std::string text(size_t index) const {
    if (!value(index).IsString()) throw Error("EINVAL", name(index) + " must be a string");
    return value(index).As<Napi::String>().Utf8Value();
  }
  // As bytes_of().
  std::span<uint8_t> view(size_t index) const {
    Napi::Value given = value(index);
    if (!given.IsTypedArray()) throw Error("EINVAL", name(index) + " must be a Uint8Array");
    return bytes_of(given.As<Napi::TypedArray>());
  }
  std::vector<uint8_t> bytes(size_t index) const {
    auto seen = view(index);
    return {seen.begin(), seen.end()};
  }
  // A kernel structure as its bytes.
  template <class T>
  T pod(size_t index) const {
    static_assert(std::is_trivially_copyable_v<T>);
    auto seen = view(index);
    if (seen.size() != sizeof(T))
      throw Error("EINVAL", name(index) + " must have " + std::to_string(sizeof(T)) + " bytes, not " +
                                std::to_string(seen.size()));
    T result;
    std::memcpy(&result, seen.data(), sizeof(T));
    return result;
  }
  template <class T>
  std::vector<T> pods(size_t index) const {
    static_assert(std::is_trivially_copyable_v<T>);
    auto seen = view(index);
    if (seen.size() % sizeof(T) != 0)
      throw Error("EINVAL",
                  name(index) + " must be whole structures of " + std::to_string(sizeof(T)) + " bytes");
    std::vector<T> result(seen.size() / sizeof(T));
    if (!result.empty()) std::memcpy(result.data(), seen.data(), seen.size());
    return result;
  }

 private:
  static std::string name(size_t index) { return "argument " + std::to_string(index + 1); }
  const Napi::CallbackInfo& info_;
  size_t first_;
};

// What an operation gives back to JavaScript: nothing, a boolean, a number, a bigint or bytes.
using Result = std::variant<std::monostate, bool, double, uint64_t, std::vector<uint8_t>>;

template <class T>
Result as_bytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* from = reinterpret_cast<const uint8_t*>(&value);
  return std::vector<uint8_t>(from, from + sizeof(T));
}

template <class T>
Result as_bytes(const std::vector<T>& values) {
  const auto* from = reinterpret_cast<const uint8_t*>(values.data());
  return std::vector<uint8_t>(from, from + values.size() * sizeof(T));
}

inline Napi::Value to_value(Napi::Env env, const std::vector<uint8_t>& bytes) {
  auto array = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(array.Data(), bytes.data(), bytes.size());
  return array;
}

inline Napi::Value to_value(Napi::Env env, Result& result) {
  struct Visitor {
    Napi::Env env;
    Napi::Value operator()(std::monostate) const { return env.Undefined(); }
    Napi::Value operator()(bool value) const { return Napi::Boolean::New(env, value); }
    Napi::Value operator()(double value) const { return Napi::Number::New(env, value); }
    Napi::Value operator()(uint64_t value) const { return Napi::BigInt::New(env, value); }
    Napi::Value operator()(const std::vector<uint8_t>& value) const { return to_value(env, value); }
  };
  return std::visit(Visitor{env}, result);
}

}  // namespace hypertwin::addon
