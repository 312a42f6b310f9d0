// What lib/libvirt calls: any function of the generated table, opening and closing. It converts and forwards;
// native/core/libvirt checks and calls.
#include <napi.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "libvirt/call.h"
#include "libvirt/loader.h"
#include "libvirt_parts.h"
#include "libvirt_value.h"

namespace hypertwin::addon {

namespace {

using libvirt::Class;
using libvirt::Lane;
using libvirt::Value;

// ---- the library

Napi::Value table_hash(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), libvirt::kTableHash);
}

Napi::Value version(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(libvirt::loader().version()));
  });
}

// name
Napi::Value supports(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsString()) throw Error("EINVAL", "supports: the name of a function must be a string");
    const std::string name = info[0].As<Napi::String>();
    bool found = false;
    if (name.starts_with("vir"))
      for (const auto library :
           {libvirt::Library::main, libvirt::Library::qemu, libvirt::Library::lxc, libvirt::Library::admin})
        try {
          found = found || libvirt::loader().find(library, name.c_str());
        } catch (const Error&) {
          // That library is not there.
        }
    return Napi::Boolean::New(info.Env(), found);
  });
}

// The constructors, by Class.
Napi::Value classes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsArray()) throw Error("EINVAL", "an array of constructors");
    const auto list = info[0].As<Napi::Array>();
    std::vector<Napi::FunctionReference> out(static_cast<size_t>(Class::count));
    for (uint32_t i = 0; i < list.Length() && i < out.size(); ++i)
      if (const Napi::Value one = list.Get(i); one.IsFunction())
        out[i] = Napi::Persistent(one.As<Napi::Function>());
    libvirt_env(info.Env()).classes = std::move(out);
    return info.Env().Undefined();
  });
}

// ---- calls

// The function's index in the table, then its arguments.
Napi::Value call(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return rejecting(env, [&]() -> Napi::Value {
    const double index = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
    const auto table = libvirt::functions();
    if (!(index >= 0 && index < static_cast<double>(table.size())) || std::trunc(index) != index)
      throw Error("EINVAL", "there is no such function");
    const libvirt::Function& function = table[static_cast<size_t>(index)];
    std::vector<Value> arguments;
    arguments.reserve(info.Length());
    for (size_t i = 1; i < info.Length(); ++i) arguments.push_back(from_js(info[i]));
    auto prepared = std::make_shared<libvirt::Call>(function, arguments);
    return on_pool<Value>(
        env, function.lane, [prepared = std::move(prepared)] { return prepared->run(); },
        [](Napi::Env now, Value& result) { return to_js(now, result); });
  });
}

// ---- objects

// Resolves when libvirt's reference is dropped, after the calls in flight that use it.
Napi::Value close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return rejecting(env, [&]() -> Napi::Value {
    JsHandle* handle = handle_of(info[0]);
    if (!handle) throw Error("EINVAL", "close: this is no object of libvirt's");
    auto [promise, settle] = settler<detail::None>(
        env, [](Napi::Env now, detail::None&) -> Napi::Value { return now.Undefined(); });
    if (!handle->handle) {
      settle->resolve({});
      return promise;
    }
    if (handle->type == Class::connect || handle->type == Class::adm_connect)
      stop_events_of(env, *handle->handle);
    forget_listener(env, *handle);
    if (handle->stream) std::exchange(handle->stream, nullptr)->abort({});
    auto owned = std::move(handle->handle);
    owned->when_freed([settle = std::move(settle)] { settle->resolve({}); });
    return promise;
  });
}

Napi::Value is_closed(const Napi::CallbackInfo& info) {
  const JsHandle* handle = handle_of(info[0]);
  return Napi::Boolean::New(info.Env(), !handle || !handle->handle);
}

Napi::Value same(const Napi::CallbackInfo& info) {
  const JsHandle* a = handle_of(info[0]);
  const JsHandle* b = handle_of(info[1]);
  return Napi::Boolean::New(info.Env(), a && b && a->handle && b->handle && a->type == b->type &&
                                            a->handle->object() == b->handle->object());
}

// What this process holds: for tests of what is given back.
Napi::Value usage(const Napi::CallbackInfo& info) {
  const libvirt::PoolStats stats = libvirt::pool().stats();
  auto out = Napi::Object::New(info.Env());
  const auto set = [&](const char* name, size_t value) { out.Set(name, static_cast<double>(value)); };
  set("handles", libvirt::handle_count());
  set("threads", stats.threads[0] + stats.threads[1]);
  set("running", stats.threads[0] + stats.threads[1] - stats.idle[0] - stats.idle[1]);
  set("waiting", stats.waiting[0] + stats.waiting[1]);
  return out;
}

}  // namespace

void init_libvirt(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("libvirtTableHash", table_hash);
  add("libvirtVersion", version);
  add("libvirtSupports", supports);
  add("libvirtClasses", classes);
  add("libvirtCall", call);
  add("libvirtClose", close);
  add("libvirtIsClosed", is_closed);
  add("libvirtSame", same);
  add("libvirtUsage", usage);
  init_libvirt_open(env, exports);
  init_libvirt_events(env, exports);
  init_libvirt_streams(env, exports);
}

}  // namespace hypertwin::addon
