// Opens connections, with an asynchronous JavaScript function for the credentials where there is one.
#include <napi.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libvirt/auth.h"
#include "libvirt_parts.h"
#include "libvirt_value.h"

namespace hypertwin::addon {

namespace {

using libvirt::CredentialAnswers;
using libvirt::CredentialDesk;
using libvirt::CredentialRequest;

uint32_t flags_of(const Napi::Value& value) {
  if (value.IsUndefined()) return 0;
  const double flags = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(flags >= 0 && flags <= 4294967295.0) || std::trunc(flags) != flags)
    throw Error("EINVAL", "virConnectOpenAuth: argument flags must be an integer from 0 to 4294967295");
  return static_cast<uint32_t>(flags);
}

std::vector<int> types_of(const Napi::Value& value) {
  std::vector<int> out;
  if (!value.IsArray()) return out;
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) out.push_back(list.Get(i).ToNumber().Int32Value());
  return out;
}

Napi::Value request_value(Napi::Env env, const CredentialRequest& request) {
  const auto optional = [env](const std::optional<std::string>& text) -> Napi::Value {
    return text ? Napi::String::New(env, *text).As<Napi::Value>() : env.Undefined();
  };
  auto out = Napi::Object::New(env);
  out.Set("type", Napi::Number::New(env, request.type));
  out.Set("prompt", Napi::String::New(env, request.prompt));
  out.Set("challenge", optional(request.challenge));
  out.Set("default", optional(request.default_result));
  return out;
}

// Anything but an array refuses.
std::optional<CredentialAnswers> answers_of(const Napi::Value& value) {
  if (!value.IsArray()) return std::nullopt;
  CredentialAnswers out;
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value one = list.Get(i);
    out.push_back(one.IsString() ? std::optional<std::string>(one.As<Napi::String>()) : std::nullopt);
  }
  return out;
}

// On the JavaScript thread: asks its function, whose promise answers the desk.
void ask(Napi::Env env, uint64_t id, const std::vector<CredentialRequest>& requests) {
  LibvirtEnv& own = libvirt_env(env);
  const auto found = own.desks.find(id);
  if (found == own.desks.end()) return;
  const std::shared_ptr<CredentialDesk> desk = found->second;
  try {
    auto list = Napi::Array::New(env, requests.size());
    for (uint32_t i = 0; i < requests.size(); ++i) list.Set(i, request_value(env, requests[i]));
    const Napi::Value answer = own.authenticators.at(id).Call({list});
    if (!answer.IsPromise()) {
      desk->answer(answers_of(answer));
      return;
    }
    const auto accept = Napi::Function::New(env, [desk](const Napi::CallbackInfo& info) {
      std::optional<CredentialAnswers> answers;
      try {
        answers = answers_of(info[0]);
      } catch (const Napi::Error&) {
        // A getter of theirs threw: no answer.
      }
      desk->answer(std::move(answers));
    });
    const auto refuse =
        Napi::Function::New(env, [desk](const Napi::CallbackInfo&) { desk->answer(std::nullopt); });
    const auto promise = answer.As<Napi::Object>();
    promise.Get("then").As<Napi::Function>().Call(promise, {accept, refuse});
  } catch (const Napi::Error&) {
    desk->answer(std::nullopt);
  }
}

// uri or null, flags, function or undefined, credential types
Napi::Value open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return rejecting(env, [&]() -> Napi::Value {
    std::optional<std::string> uri;
    if (info[0].IsString())
      uri = info[0].As<Napi::String>();
    else if (!info[0].IsNull() && !info[0].IsUndefined())
      throw Error("EINVAL", "virConnectOpenAuth: argument name must be a string, or undefined");
    if (uri && uri->find('\0') != std::string::npos)
      throw Error("EINVAL", "virConnectOpenAuth: argument name must not contain a NUL character");
    const uint32_t flags = flags_of(info[1]);
    std::vector<int> types = types_of(info[3]);
    std::shared_ptr<CredentialDesk> desk;
    std::shared_ptr<void> forget;
    if (info[2].IsFunction()) {
      LibvirtEnv& own = libvirt_env(env);
      const uint64_t id = own.next_id++;
      desk = std::make_shared<CredentialDesk>(
          [queue = env_data(env).queue(), id](const std::vector<CredentialRequest>& requests) {
            // After the environment's end the desk refuses by itself.
            queue->post([id, requests](Napi::Env now) { ask(now, id, requests); });
          });
      own.desks.emplace(id, desk);
      own.authenticators.emplace(id, Napi::Persistent(info[2].As<Napi::Function>()));
      // The promise's, on the JavaScript thread.
      forget = std::shared_ptr<void>(nullptr, [&own, id](void*) {
        own.desks.erase(id);
        own.authenticators.erase(id);
      });
    } else if (!info[2].IsUndefined() && !info[2].IsNull()) {
      throw Error("EINVAL", "virConnectOpenAuth: argument auth must be a function, or undefined");
    }
    using Opened = std::shared_ptr<libvirt::Handle>;
    return on_pool<Opened>(
        env, libvirt::Lane::slow,
        [uri = std::move(uri), flags, types = std::move(types), desk = std::move(desk)] {
          return libvirt::open_connection(uri, flags, types, desk);
        },
        [forget = std::move(forget)](Napi::Env now, Opened& connection) {
          return to_js(now,
                       libvirt::Value(libvirt::HandleValue{libvirt::Class::connect, std::move(connection)}));
        });
  });
}

}  // namespace

void init_libvirt_open(Napi::Env env, Napi::Object exports) {
  exports.Set("libvirtOpen", Napi::Function::New(env, open, "libvirtOpen"));
}

}  // namespace hypertwin::addon
