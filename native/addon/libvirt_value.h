// JavaScript's values and libvirt's objects as the neutral tree of native/core/libvirt, both ways, and what
// an environment keeps for it.
#pragma once

#include <napi.h>

#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "async.h"
#include "env.h"
#include "libvirt/auth.h"
#include "libvirt/events.h"
#include "libvirt/handle.h"
#include "libvirt/pool.h"
#include "libvirt/stream.h"
#include "libvirt/value.h"

namespace hypertwin::addon {

// Stands behind an object of one of libvirt's classes. JavaScript thread only.
struct JsHandle {
  libvirt::Class type = libvirt::Class::none;
  std::shared_ptr<libvirt::Handle> handle;  // null: closed
  std::shared_ptr<libvirt::StreamIo> stream;
  uint64_t listener = 0;  // of the stream's events; 0: none
  ~JsHandle();
};

// An environment's own.
struct LibvirtEnv {
  struct Subscriber {
    std::shared_ptr<libvirt::Subscription> subscription;
    Napi::FunctionReference callback;
  };
  std::vector<Napi::FunctionReference> classes;  // by Class
  std::map<uint64_t, Subscriber> subscribers;
  std::map<uint64_t, Napi::FunctionReference> authenticators;
  // Streams that wait for an event which somebody listens for, by JsHandle::listener.
  std::map<uint64_t, Napi::ObjectReference> listening;
  std::map<uint64_t, std::shared_ptr<libvirt::CredentialDesk>> desks;
  uint64_t next_id = 1;

  // Nothing waits for this environment any more; nothing here waits.
  void teardown();
};
LibvirtEnv& libvirt_env(Napi::Env env);

// The stream's events are not told any more.
void forget_listener(Napi::Env env, JsHandle& handle);

// What JavaScript can throw meanwhile (a getter's error) passes through.
libvirt::Value from_js(const Napi::Value& value);
Napi::Value to_js(Napi::Env env, const libvirt::Value& value);

// nullptr when it is no object of libvirt's.
JsHandle* handle_of(const Napi::Value& value);
// Throws Error("EINVAL"), Error("CLOSED"); `what` is the argument's name.
JsHandle& open_handle(const Napi::Value& value, libvirt::Class type, const char* what);

// With libvirt's own details as the property `libvirt`.
Napi::Error to_libvirt_error(Napi::Env env, const std::exception_ptr& error);

// A promise that is settled from a native thread. Keeps the process alive until it is; what nobody settles is
// rejected with ECLOSED.
template <class R>
class Settler {
 public:
  Settler(std::shared_ptr<JsQueue> queue, std::shared_ptr<detail::Outcome<R>> outcome)
      : outcome_(outcome), delivery_(std::move(queue), std::move(outcome)) {}
  // Any thread, one of the two, once.
  void resolve(R value) { outcome_->value.emplace(std::move(value)); }
  void reject(std::exception_ptr error) { outcome_->error = std::move(error); }

 private:
  template <class T>
  friend std::pair<Napi::Promise, std::shared_ptr<Settler<T>>> settler(
      Napi::Env env, std::function<Napi::Value(Napi::Env, T&)> convert);

  std::shared_ptr<detail::Outcome<R>> outcome_;
  detail::Delivery<R> delivery_;  // when the settler is destroyed
};

template <class R>
std::pair<Napi::Promise, std::shared_ptr<Settler<R>>> settler(
    Napi::Env env, std::function<Napi::Value(Napi::Env, R&)> convert) {
  auto deferred = Napi::Promise::Deferred::New(env);
  auto outcome = std::make_shared<detail::Outcome<R>>();
  EnvData& data = env_data(env);
  auto out = std::make_shared<Settler<R>>(data.queue(), outcome);
  out->delivery_.id_ = data.add_pending([deferred, outcome, convert = std::move(convert)](Napi::Env now) {
    try {
      if (outcome->error) std::rethrow_exception(outcome->error);
      deferred.Resolve(convert(now, *outcome->value));
    } catch (...) {
      deferred.Reject(to_libvirt_error(now, std::current_exception()).Value());
    }
  });
  return {deferred.Promise(), std::move(out)};
}

// `work` on the pool; it and what it holds are destroyed there.
template <class R>
Napi::Promise on_pool(Napi::Env env, libvirt::Lane lane, std::function<R()> work,
                      std::function<Napi::Value(Napi::Env, R&)> convert) {
  auto [promise, settle] = settler<R>(env, std::move(convert));
  const bool posted = libvirt::pool().post(lane, [kept = settle, work = std::move(work)]() mutable {
    try {
      kept->resolve(work());
    } catch (...) {
      kept->reject(std::current_exception());
    }
    work = nullptr;
    kept.reset();
  });
  if (!posted) settle->reject(std::make_exception_ptr(libvirt::no_thread()));
  return promise;
}

// For every function of libvirt's part: its promise is rejected with what `body` throws.
template <class F>
Napi::Value rejecting(Napi::Env env, F&& body) {
  try {
    return std::forward<F>(body)();
  } catch (...) {
    auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(to_libvirt_error(env, std::current_exception()).Value());
    return deferred.Promise();
  }
}

}  // namespace hypertwin::addon
