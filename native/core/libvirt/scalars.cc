#include "libvirt/scalars.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>

namespace hypertwin::libvirt {

namespace {

// Calls `use` with a value of the scalar's C type.
template <class F>
auto with_type(Scalar scalar, F&& use) {
  switch (scalar) {
    case Scalar::i8:
      return use(static_cast<signed char>(0));
    case Scalar::u8:
      return use(static_cast<unsigned char>(0));
    case Scalar::u16:
      return use(static_cast<unsigned short>(0));
    case Scalar::u:
      return use(0u);
    case Scalar::l:
      return use(0l);
    case Scalar::ul:
      return use(0ul);
    case Scalar::ll:
      return use(0ll);
    case Scalar::ull:
      return use(0ull);
    case Scalar::z:
      return use(size_t{0});
    case Scalar::d:
      return use(0.0);
    case Scalar::none:
    case Scalar::i:
    case Scalar::flag:
      break;
  }
  return use(0);
}

constexpr double kMaxSafe = 9007199254740991.0;

template <class T>
std::optional<T> to_integer(const Value& value) {
  if (const auto* number = value.as<double>()) {
    if (!(std::fabs(*number) <= kMaxSafe) || std::trunc(*number) != *number) return std::nullopt;
    const auto whole = static_cast<int64_t>(*number);
    if (std::in_range<T>(whole)) return static_cast<T>(whole);
  } else if (const auto* negative = value.as<int64_t>()) {
    if (std::in_range<T>(*negative)) return static_cast<T>(*negative);
  } else if (const auto* positive = value.as<uint64_t>()) {
    if (std::in_range<T>(*positive)) return static_cast<T>(*positive);
  }
  return std::nullopt;
}

bool is_wide(Scalar scalar) {
  return scalar == Scalar::l || scalar == Scalar::ul || scalar == Scalar::ll || scalar == Scalar::ull ||
         scalar == Scalar::z;
}

}  // namespace

size_t scalar_size(Scalar scalar) {
  return with_type(scalar, [](auto zero) { return sizeof(zero); });
}

std::string scalar_wants(Scalar scalar) {
  if (scalar == Scalar::d) return "a number";
  if (scalar == Scalar::flag) return "a boolean";
  return with_type(scalar, [scalar](auto zero) {
    using Limits = std::numeric_limits<decltype(zero)>;
    return std::string(is_wide(scalar) ? "an integer or bigint from " : "an integer from ") +
           std::to_string(Limits::lowest()) + " to " + std::to_string(Limits::max());
  });
}

bool write_scalar(Scalar scalar, const Value& value, void* memory) {
  if (scalar == Scalar::flag) {
    int flag = 0;
    if (const auto* boolean = value.as<bool>())
      flag = *boolean ? 1 : 0;
    else if (const auto* number = value.as<double>(); number && (*number == 0 || *number == 1))
      flag = static_cast<int>(*number);
    else
      return false;
    std::memcpy(memory, &flag, sizeof flag);
    return true;
  }
  return with_type(scalar, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<T>) {
      const auto* number = value.as<double>();
      if (!number) return false;
      std::memcpy(memory, number, sizeof *number);
      return true;
    } else {
      const std::optional<T> converted = to_integer<T>(value);
      if (!converted) return false;
      std::memcpy(memory, &*converted, sizeof(T));
      return true;
    }
  });
}

bool write_count(Scalar scalar, uint64_t count, void* memory) {
  return write_scalar(scalar == Scalar::none ? Scalar::i : scalar, Value(count), memory);
}

Value read_scalar(Scalar scalar, const void* memory) {
  if (scalar == Scalar::flag) return Value(read_integer(scalar, memory) != 0);
  return with_type(scalar, [&](auto zero) {
    std::memcpy(&zero, memory, sizeof zero);
    if constexpr (std::is_floating_point_v<decltype(zero)>) {
      return Value(zero);
    } else if (!is_wide(scalar)) {
      return Value(static_cast<double>(zero));
    } else if constexpr (std::is_signed_v<decltype(zero)>) {
      return Value(static_cast<int64_t>(zero));
    } else {
      return Value(static_cast<uint64_t>(zero));
    }
  });
}

int64_t read_integer(Scalar scalar, const void* memory) {
  return with_type(scalar, [&](auto zero) {
    std::memcpy(&zero, memory, sizeof zero);
    return static_cast<int64_t>(zero);
  });
}

}  // namespace hypertwin::libvirt
