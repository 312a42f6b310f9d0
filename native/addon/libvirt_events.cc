// Subscriptions to libvirt's events: their records are taken on the JavaScript thread, in batches.
#include <napi.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libvirt/events.h"
#include "libvirt_parts.h"
#include "libvirt_value.h"

namespace hypertwin::addon {

namespace {

using libvirt::Class;
using libvirt::EventFamily;
using libvirt::EventRecord;
using libvirt::Subscription;

constexpr size_t kLimit = 4096;
constexpr size_t kMostLimit = 1u << 20;

uint32_t number_of(const Napi::Value& value, const char* what, double most, double missing) {
  if (value.IsUndefined()) return static_cast<uint32_t>(missing);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= most) || std::trunc(number) != number)
    throw Error("EINVAL", std::string(what) + " must be an integer from 0 to " +
                              std::to_string(static_cast<uint64_t>(most)));
  return static_cast<uint32_t>(number);
}

Napi::Value record_value(Napi::Env env, uint64_t id, const EventRecord& record) {
  auto out = Napi::Object::New(env);
  out.Set("callbackId", Napi::Number::New(env, static_cast<double>(id)));
  out.Set("sequence", Napi::Number::New(env, static_cast<double>(record.sequence)));
  out.Set("dropped", Napi::Number::New(env, static_cast<double>(record.dropped)));
  out.Set("time", Napi::Number::New(env, record.time));
  out.Set("object", to_js(env, libvirt::Value(record.object)));
  out.Set("args", to_js(env, libvirt::Value(record.arguments)));
  return out;
}

void deliver(Napi::Env env, uint64_t id) {
  LibvirtEnv& own = libvirt_env(env);
  const auto found = own.subscribers.find(id);
  if (found == own.subscribers.end()) return;
  const std::vector<EventRecord> records = found->second.subscription->take();
  if (records.empty()) return;
  auto batch = Napi::Array::New(env, records.size());
  for (uint32_t i = 0; i < records.size(); ++i) batch.Set(i, record_value(env, id, records[i]));
  // A copy: the callback may end the subscription.
  found->second.callback.Value().Call({batch});
}

Class object_class(EventFamily family) {
  switch (family) {
    case EventFamily::domain:
    case EventFamily::qemu_monitor:
      return Class::domain;
    case EventFamily::network:
      return Class::network;
    case EventFamily::storage_pool:
      return Class::storage_pool;
    case EventFamily::node_device:
      return Class::node_device;
    case EventFamily::secret:
      return Class::secret;
    case EventFamily::close:
    case EventFamily::adm_close:
      break;
  }
  return Class::none;
}

// family, event, connection, object or undefined, name or undefined, flags, callback, limit or undefined
Napi::Value on(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return rejecting(env, [&]() -> Napi::Value {
    const auto family = static_cast<EventFamily>(
        number_of(info[0], "the event's family", static_cast<double>(EventFamily::adm_close), 0));
    const int number = static_cast<int>(number_of(info[1], "the event's number", 2147483647, 0));
    const libvirt::Event* event = libvirt::find_event(family, number);
    if (!event) throw Error("EINVAL", "libvirt has no event of this number");
    libvirt::SubscriptionOptions options;
    options.event = event;
    options.connection =
        open_handle(info[2], family == EventFamily::adm_close ? Class::adm_connect : Class::connect,
                    "an event's connection")
            .handle;
    const Class about = object_class(family);
    if (!info[3].IsUndefined() && about != Class::none)
      options.object = open_handle(info[3], about, "an event's object").handle;
    if (info[4].IsString()) options.name = info[4].As<Napi::String>().Utf8Value();
    options.flags = number_of(info[5], "an event's flags", 4294967295.0, 0);
    if (!info[6].IsFunction()) throw Error("EINVAL", "an event's callback must be a function");
    options.limit = number_of(info[7], "an event's limit", kMostLimit, kLimit);
    if (options.limit == 0) options.limit = 1;

    LibvirtEnv& own = libvirt_env(env);
    const uint64_t id = own.next_id++;
    options.notify = [queue = env_data(env).queue(), id] {
      queue->post([id](Napi::Env now) { deliver(now, id); });
    };
    auto subscription = std::make_shared<Subscription>(std::move(options));
    own.subscribers.emplace(
        id, LibvirtEnv::Subscriber{subscription, Napi::Persistent(info[6].As<Napi::Function>())});
    env_data(env).hold();
    // What has not begun is forgotten; what has, too late for its environment, is stopped by it.
    struct Begun {
      Begun(Napi::Env e, uint64_t i) : env(e), id(i) {}
      Begun(const Begun&) = delete;
      Begun& operator=(const Begun&) = delete;
      Napi::Env env;
      uint64_t id;
      bool begun = false;
      ~Begun() {
        LibvirtEnv& own = libvirt_env(env);
        if (!begun && own.subscribers.erase(id)) env_data(env).release();
      }
    };
    auto begun = std::make_shared<Begun>(env, id);
    return on_pool<detail::None>(
        env, libvirt::Lane::quick,
        [subscription = std::move(subscription)] {
          subscription->start();
          return detail::None{};
        },
        [begun = std::move(begun)](Napi::Env now, detail::None&) -> Napi::Value {
          begun->begun = true;
          return Napi::Number::New(now, static_cast<double>(begun->id));
        });
  });
}

// Ends it here; its callback is not called any more. `done` on the pool.
void stop(Napi::Env env, std::map<uint64_t, LibvirtEnv::Subscriber>::iterator one,
          std::function<void()> done) {
  auto subscription = std::move(one->second.subscription);
  libvirt_env(env).subscribers.erase(one);
  env_data(env).release();
  subscription->stop(std::move(done));
}

// id
Napi::Value off(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return rejecting(env, [&]() -> Napi::Value {
    const double id = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : 0;
    auto [promise, settle] = settler<detail::None>(
        env, [](Napi::Env now, detail::None&) -> Napi::Value { return now.Undefined(); });
    auto& subscribers = libvirt_env(env).subscribers;
    const auto found = subscribers.find(id > 0 && id < 9007199254740992.0 ? static_cast<uint64_t>(id) : 0);
    if (found == subscribers.end())
      settle->resolve({});
    else
      stop(env, found, [settle = std::move(settle)] { settle->resolve({}); });
    return promise;
  });
}

}  // namespace

void stop_events_of(Napi::Env env, const libvirt::Handle& connection) {
  auto& subscribers = libvirt_env(env).subscribers;
  for (auto one = subscribers.begin(); one != subscribers.end();) {
    const auto next = std::next(one);
    if (one->second.subscription->connection().get() == &connection) {
      // Its callback hears of the end: null instead of a batch.
      auto callback = std::make_shared<Napi::FunctionReference>(std::move(one->second.callback));
      stop(env, one, {});
      const uint64_t pending =
          env_data(env).add_pending([callback](Napi::Env now) { callback->Value().Call({now.Null()}); });
      env_data(env).queue()->post([pending](Napi::Env now) { env_data(now).settle(pending); });
    }
    one = next;
  }
}

void init_libvirt_events(Napi::Env env, Napi::Object exports) {
  exports.Set("libvirtOn", Napi::Function::New(env, on, "libvirtOn"));
  exports.Set("libvirtOff", Napi::Function::New(env, off, "libvirtOff"));
}

}  // namespace hypertwin::addon
