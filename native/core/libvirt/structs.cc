#include "libvirt/structs.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "libvirt/handle.h"
#include "libvirt/scalars.h"
#include "libvirt/typed.h"

namespace hypertwin::libvirt {

namespace {

const std::byte* at(const void* data, const Field& field) {
  return static_cast<const std::byte*>(data) + field.offset;
}

template <class T = const void>
T* pointer_at(const void* data, const Field& field) {
  T* pointer = nullptr;
  std::memcpy(&pointer, at(data, field), sizeof pointer);
  return pointer;
}

size_t length_of(const Struct& layout, const Field& field, const void* data) {
  if (field.length < 0) return 0;
  const Field& length = layout.fields[static_cast<size_t>(field.length)];
  const int64_t value = read_integer(length.scalar, at(data, length));
  return value < 0 ? 0 : static_cast<size_t>(value);
}

Value text_or_undefined(const char* text) { return text ? Value(std::string(text)) : Value(Undefined{}); }

Value read_field(const Struct& layout, const Field& field, const void* data) {
  const size_t length = length_of(layout, field, data);
  switch (field.kind) {
    case FieldKind::value:
      return read_scalar(field.scalar, at(data, field));
    case FieldKind::chars: {
      const auto* text = reinterpret_cast<const char*>(at(data, field));
      return Value(std::string(text, ::strnlen(text, field.size)));
    }
    case FieldKind::string:
      return text_or_undefined(pointer_at<const char>(data, field));
    case FieldKind::strings: {
      Array out;
      if (auto* list = pointer_at<const char* const>(data, field))
        for (size_t i = 0; i < length; ++i) out.push_back(text_or_undefined(list[i]));
      return Value(std::move(out));
    }
    case FieldKind::bytes: {
      const auto* bytes = pointer_at<const uint8_t>(data, field);
      return bytes ? Value(Bytes(bytes, bytes + length)) : Value(Bytes());
    }
    case FieldKind::structs: {
      const Struct& inner = structs()[field.type];
      Array out;
      if (const auto* list = pointer_at<const std::byte>(data, field))
        for (size_t i = 0; i < length; ++i) out.push_back(read_struct(inner, list + i * inner.size));
      return Value(std::move(out));
    }
    case FieldKind::handle: {
      auto* object = pointer_at<void>(data, field);
      if (!object) return Value(Undefined{});
      const auto type = static_cast<Class>(field.type);
      return Value(HandleValue{type, Handle::share(type, object)});
    }
    case FieldKind::typed: {
      const auto* list = pointer_at<const abi::TypedParameter>(data, field);
      return Value(list ? read_typed_list(list, length) : Object());
    }
    case FieldKind::hidden:
      break;
  }
  return Value(Undefined{});
}

}  // namespace

Value read_struct(const Struct& layout, const void* data) {
  Object out;
  for (const Field& field : layout.fields)
    if (field.kind != FieldKind::hidden) out.emplace_back(field.name, read_field(layout, field, data));
  return Value(std::move(out));
}

void free_owned_fields(const Struct& layout, void* data) {
  for (const Field& field : layout.fields) {
    if (!field.owned) continue;
    if (field.kind == FieldKind::strings)
      if (auto* list = pointer_at<char*>(data, field))
        for (size_t i = 0, n = length_of(layout, field, data); i < n; ++i) std::free(list[i]);
    std::free(pointer_at<void>(data, field));
  }
}

WrittenStruct write_struct(const Struct& layout, const Object& object, const std::string& where) {
  WrittenStruct out;
  out.memory.resize(layout.size);
  for (const Field& field : layout.fields) {
    const Value* value = property(object, field.name);
    if (!value || value->missing()) continue;
    const auto fail = [&](const std::string& wants) {
      throw Error("EINVAL", where + "." + field.name + " must be " + wants + "; it is " + describe(*value));
    };
    std::byte* to = out.memory.data() + field.offset;
    if (field.kind == FieldKind::value) {
      if (!write_scalar(field.scalar, *value, to)) fail(scalar_wants(field.scalar));
    } else if (field.kind == FieldKind::chars || field.kind == FieldKind::string) {
      const auto* text = value->as<std::string>();
      if (!text || text->find('\0') != std::string::npos) fail("a string without NUL characters");
      if (field.kind == FieldKind::chars) {
        if (text->size() >= field.size)
          fail("a string of less than " + std::to_string(field.size) + " bytes");
        std::memcpy(to, text->data(), text->size());
      } else {
        const char* kept = out.strings.emplace_back(*text).c_str();
        std::memcpy(to, &kept, sizeof kept);
      }
    } else if (field.kind != FieldKind::hidden) {
      fail("left out: it is libvirt that fills it in");
    }
  }
  return out;
}

}  // namespace hypertwin::libvirt
