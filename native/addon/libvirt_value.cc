#include "libvirt_value.h"

#include <cstring>

#include "errors.h"
#include "libvirt/error.h"

namespace hypertwin::addon {

namespace {

using libvirt::Class;
using libvirt::Foreign;
using libvirt::Null;
using libvirt::Undefined;
using libvirt::Value;

// Says that what an object wraps is a JsHandle.
constexpr napi_type_tag kTag = {0x68797065727477ULL, 0x6c696276697274ULL};
constexpr int kDeepest = 8;

Value bigint_value(const Napi::BigInt& bigint) {
  bool lossless = false;
  const uint64_t positive = bigint.Uint64Value(&lossless);
  if (lossless) return Value(positive);
  const int64_t negative = bigint.Int64Value(&lossless);
  return lossless ? Value(negative) : Value(Foreign{"a bigint of more than 64 bits"});
}

Value convert(const Napi::Value& value, int depth);

Value object_value(const Napi::Object& object, int depth) {
  if (const JsHandle* handle = handle_of(object))
    return Value(libvirt::HandleValue{handle->type, handle->handle});
  if (depth >= kDeepest) return Value(Foreign{"an object that is nested too deeply"});
  if (object.IsArray()) {
    const auto array = object.As<Napi::Array>();
    libvirt::Array out;
    for (uint32_t i = 0; i < array.Length(); ++i) out.push_back(convert(array.Get(i), depth + 1));
    return Value(std::move(out));
  }
  if (object.IsTypedArray()) {
    const auto typed = object.As<Napi::TypedArray>();
    if (typed.TypedArrayType() == napi_uint8_array) {
      const auto bytes = object.As<Napi::Uint8Array>();
      return Value(libvirt::Bytes(bytes.Data(), bytes.Data() + bytes.ElementLength()));
    }
    libvirt::Array out;
    for (uint32_t i = 0; i < typed.ElementLength(); ++i) out.push_back(convert(object.Get(i), depth + 1));
    return Value(std::move(out));
  }
  const Napi::Env env = object.Env();
  napi_value names = nullptr;
  if (napi_get_all_property_names(env, object, napi_key_own_only,
                                  static_cast<napi_key_filter>(napi_key_enumerable | napi_key_skip_symbols),
                                  napi_key_numbers_to_strings, &names) != napi_ok)
    throw Napi::Error::New(env);
  const Napi::Array list(env, names);
  libvirt::Object out;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value name = list.Get(i);
    out.emplace_back(name.As<Napi::String>().Utf8Value(), convert(object.Get(name), depth + 1));
  }
  return Value(std::move(out));
}

Value convert(const Napi::Value& value, int depth) {
  switch (value.Type()) {
    case napi_undefined:
      return Value(Undefined{});
    case napi_null:
      return Value(Null{});
    case napi_boolean:
      return Value(value.As<Napi::Boolean>().Value());
    case napi_number:
      return Value(value.As<Napi::Number>().DoubleValue());
    case napi_bigint:
      return bigint_value(value.As<Napi::BigInt>());
    case napi_string:
      return Value(value.As<Napi::String>().Utf8Value());
    case napi_object:
      return object_value(value.As<Napi::Object>(), depth);
    case napi_function:
      return Value(Foreign{"a function"});
    case napi_symbol:
      return Value(Foreign{"a symbol"});
    case napi_external:
      break;
  }
  return Value(Foreign{"an object of another kind"});
}

Napi::Value new_handle(Napi::Env env, const libvirt::HandleValue& value) {
  if (!value.handle) return env.Undefined();
  const auto& classes = libvirt_env(env).classes;
  const auto index = static_cast<size_t>(value.type);
  if (index >= classes.size() || classes[index].IsEmpty())
    throw Error("EINTERNAL", "libvirtClasses() has not been told of this class");
  const Napi::Object object = classes[index].New({});
  auto handle = std::make_unique<JsHandle>(JsHandle{value.type, value.handle, nullptr, 0});
  if (napi_wrap(
          env, object, handle.get(),
          [](napi_env now, void* data, void*) {
            const std::unique_ptr<JsHandle> gone(static_cast<JsHandle*>(data));
            forget_listener(now, *gone);
          },
          nullptr, nullptr) != napi_ok)
    throw Napi::Error::New(env);
  handle.release();  // its object's, until that is collected or the environment ends
  if (napi_type_tag_object(env, object, &kTag) != napi_ok) throw Napi::Error::New(env);
  return object;
}

struct ToJs {
  Napi::Env env;
  Napi::Value operator()(const Undefined&) const { return env.Undefined(); }
  Napi::Value operator()(const Null&) const { return env.Null(); }
  Napi::Value operator()(bool value) const { return Napi::Boolean::New(env, value); }
  Napi::Value operator()(double value) const { return Napi::Number::New(env, value); }
  Napi::Value operator()(int64_t value) const { return Napi::BigInt::New(env, value); }
  Napi::Value operator()(uint64_t value) const { return Napi::BigInt::New(env, value); }
  Napi::Value operator()(const std::string& value) const { return Napi::String::New(env, value); }
  Napi::Value operator()(const libvirt::Bytes& value) const {
    auto out = Napi::Uint8Array::New(env, value.size());
    if (!value.empty()) std::memcpy(out.Data(), value.data(), value.size());
    return out;
  }
  Napi::Value operator()(const libvirt::Array& value) const {
    auto out = Napi::Array::New(env, value.size());
    for (uint32_t i = 0; i < value.size(); ++i) {
      const Napi::HandleScope scope(env);
      out.Set(i, to_js(env, value[i]));
    }
    return out;
  }
  Napi::Value operator()(const libvirt::Object& value) const {
    auto out = Napi::Object::New(env);
    for (const auto& [name, member] : value) {
      const Napi::HandleScope scope(env);
      out.Set(name, to_js(env, member));
    }
    return out;
  }
  Napi::Value operator()(const libvirt::HandleValue& value) const { return new_handle(env, value); }
  Napi::Value operator()(const Foreign&) const { return env.Undefined(); }
};

}  // namespace

JsHandle::~JsHandle() {
  if (stream) stream->abort({});
}

void forget_listener(Napi::Env env, JsHandle& handle) {
  if (libvirt_env(env).listening.erase(std::exchange(handle.listener, 0)) > 0) env_data(env).release();
}

void LibvirtEnv::teardown() {
  for (auto& [id, desk] : desks) desk->refuse_all();
  for (auto& [id, one] : subscribers) one.subscription->stop();
  desks.clear();
  subscribers.clear();
  authenticators.clear();
  listening.clear();
  classes.clear();
}

LibvirtEnv& libvirt_env(Napi::Env env) {
  struct Held {
    std::shared_ptr<LibvirtEnv> own;
  };
  EnvData& data = env_data(env);
  Held& held = data.slot<Held>();
  if (!held.own) {
    held.own = std::make_shared<LibvirtEnv>();
    data.on_teardown([own = held.own] { own->teardown(); });
  }
  return *held.own;
}

Value from_js(const Napi::Value& value) { return convert(value, 0); }

Napi::Value to_js(Napi::Env env, const Value& value) { return std::visit(ToJs{env}, value.base()); }

JsHandle* handle_of(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  bool tagged = false;
  if (napi_check_object_type_tag(value.Env(), value, &kTag, &tagged) != napi_ok || !tagged) return nullptr;
  void* data = nullptr;
  if (napi_unwrap(value.Env(), value, &data) != napi_ok) return nullptr;
  return static_cast<JsHandle*>(data);
}

JsHandle& open_handle(const Napi::Value& value, Class type, const char* what) {
  const std::string name = libvirt::classes()[static_cast<size_t>(type)].name;
  JsHandle* handle = handle_of(value);
  if (!handle || handle->type != type)
    throw Error("EINVAL", std::string(what) + " must be a " + name + "; it is " + describe(from_js(value)));
  if (!handle->handle) throw Error("CLOSED", std::string(what) + " is a " + name + " that is closed");
  return *handle;
}

Napi::Error to_libvirt_error(Napi::Env env, const std::exception_ptr& error) {
  Napi::Error out = to_js(env, error);
  try {
    std::rethrow_exception(error);
  } catch (const libvirt::LibvirtError& ours) {
    const libvirt::ErrorDetails& from = ours.details();
    Napi::Object details = Napi::Object::New(env);
    const auto text = [env](const std::string& value) -> Napi::Value {
      return value.empty() ? env.Undefined() : Napi::String::New(env, value).As<Napi::Value>();
    };
    details.Set("code", Napi::Number::New(env, from.code));
    details.Set("domain", Napi::Number::New(env, from.domain));
    details.Set("level", Napi::Number::New(env, from.level));
    details.Set("message", Napi::String::New(env, from.message));
    details.Set("str1", text(from.str1));
    details.Set("str2", text(from.str2));
    details.Set("str3", text(from.str3));
    details.Set("int1", Napi::Number::New(env, from.int1));
    details.Set("int2", Napi::Number::New(env, from.int2));
    details.Set("api", Napi::String::New(env, ours.function()));
    out.Value().Set("libvirt", details);
  } catch (...) {
    // Another error has no more to it.
  }
  return out;
}

}  // namespace hypertwin::addon
