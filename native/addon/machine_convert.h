// From the machine's types to JavaScript values, for the machine and event-log handles.
#pragma once

#include <napi.h>

#include <cstring>
#include <memory>

#include "async.h"
#include "kvm_args.h"
#include "machine/machine.h"
#include "machine_state.h"
#include "replay/suspects.h"

namespace hypertwin::addon {

// Keeps a JavaScript object alive; JavaScript thread only.
inline std::shared_ptr<Napi::ObjectReference> keep(const Napi::Value& value) {
  return std::make_shared<Napi::ObjectReference>(Napi::Persistent(value.As<Napi::Object>()));
}

// What every handle's close() does: `state` is shut down off this thread; the handle lives as long.
inline Napi::Value shut_down(const Napi::CallbackInfo& info, MachineEnv& env,
                             std::shared_ptr<Closable> state) {
  return run_async<detail::None>(
      info.Env(), env.closer(),
      [state = std::move(state)] {
        state->shutdown();
        return detail::None{};
      },
      [self = keep(info.This())](Napi::Env now, detail::None&) -> Napi::Value { return now.Undefined(); });
}

inline Napi::Value number(Napi::Env env, uint64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

inline Napi::Value bigint(Napi::Env env, uint64_t value) { return Napi::BigInt::New(env, value); }

inline Napi::Value text(Napi::Env env, std::string_view value) {
  return Napi::String::New(env, value.data(), value.size());
}

inline Napi::Value to_value(Napi::Env env, const machine::StateDigest& digest) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("boundary", bigint(env, digest.boundary));
  out.Set("vcpu", digest.vcpu.hex());
  out.Set("devices", digest.devices.hex());
  out.Set("memory", digest.memory.hex());
  out.Set("combined", digest.combined().hex());
  return out;
}

inline Napi::Value to_value(Napi::Env env, const machine::VcpuState& state) {
  auto bytes = [&](const auto& from) {
    auto array = Napi::Uint8Array::New(env, sizeof(from));
    std::memcpy(array.Data(), &from, sizeof(from));
    return array;
  };
  Napi::Object out = Napi::Object::New(env);
  out.Set("regs", bytes(state.regs));
  out.Set("sregs", bytes(state.sregs));
  return out;
}

inline Napi::Value to_value(Napi::Env env, const std::vector<replay::Suspect>& suspects) {
  Napi::Array out = Napi::Array::New(env, suspects.size());
  for (uint32_t i = 0; i < suspects.size(); ++i) {
    Napi::Object one = Napi::Object::New(env);
    one.Set("instruction", suspects[i].instruction);
    one.Set("address", bigint(env, suspects[i].address));
    out.Set(i, one);
  }
  return out;
}

// A property of an options object that lib/ has checked.
inline double number_of(const Napi::Object& options, const char* name) {
  Napi::Value value = options.Get(name);
  if (!value.IsNumber()) throw Error("EINVAL", std::string(name) + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

inline uint64_t size_of(const Napi::Object& options, const char* name) {
  double value = number_of(options, name);
  if (!(value >= 0 && value <= 9007199254740991.0))
    throw Error("EINVAL", std::string(name) + " must be a whole number");
  return static_cast<uint64_t>(value);
}

inline std::string text_of(const Napi::Value& value, const char* name) {
  if (!value.IsString()) throw Error("EINVAL", std::string(name) + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

// Of a network device's options.
inline machine::NetConfig::Vhost vhost_of(const Napi::Object& options) {
  using Vhost = machine::NetConfig::Vhost;
  const Napi::Value value = options.Get("vhost");
  if (value.IsUndefined()) return Vhost::kIfThere;
  return value.ToBoolean() ? Vhost::kAlways : Vhost::kNever;
}

inline bool flag_of(const Napi::Object& options, const char* name) {
  Napi::Value value = options.Get(name);
  if (!value.IsBoolean()) throw Error("EINVAL", std::string(name) + " must be true or false");
  return value.As<Napi::Boolean>().Value();
}

inline Napi::Object object_of(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) throw Error("EINVAL", std::string(name) + " must be an object");
  return value.As<Napi::Object>();
}

inline Napi::Array array_of(const Napi::Object& options, const char* name) {
  Napi::Value value = options.Get(name);
  if (!value.IsArray()) throw Error("EINVAL", std::string(name) + " must be an array");
  return value.As<Napi::Array>();
}

inline std::span<const uint8_t> bytes_of(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray()) throw Error("EINVAL", std::string(name) + " must be a Uint8Array");
  return bytes_of(value.As<Napi::TypedArray>());
}

}  // namespace hypertwin::addon
