// What one environment (the main thread or a worker) owns: its way back to the JavaScript thread, its
// promises in flight, what the other addon files keep per environment, and the order of its end.
#pragma once

#include <napi.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <typeindex>
#include <unordered_map>
#include <vector>

namespace hypertwin::addon {

// Carries calls from native threads to one environment's JavaScript thread, in order and in batches.
// Shared: native threads keep it, and it outlives the environment harmlessly.
class JsQueue {
 public:
  // What is posted may be destroyed unrun, and on any thread: it must own no Napi reference.
  using Call = std::function<void(Napi::Env)>;

  // Any thread, never blocks. False, and the call is dropped, after the environment's end.
  bool post(Call call);

 private:
  friend class EnvData;
  static void drain(napi_env env, napi_value callback, void* context, void* data);

  std::mutex mutex_;  // guards calls_ and function_
  std::deque<Call> calls_;
  napi_threadsafe_function function_ = nullptr;  // null: not open yet, or closed
};

class EnvData {
 public:
  explicit EnvData(Napi::Env env);
  EnvData(const EnvData&) = delete;
  EnvData& operator=(const EnvData&) = delete;

  const std::shared_ptr<JsQueue>& queue() const { return queue_; }

  // Kept until the environment's end, when all are run, last added first, before the queue closes. They stop
  // and join threads; they must not call JavaScript. Returns a number for forget_teardown.
  uint64_t on_teardown(std::function<void()> run);
  // Run behind all of those.
  void on_last_teardown(std::function<void()> run);
  void forget_teardown(uint64_t id);

  // While anything is held, the event loop (and so the process) stays alive.
  void hold();
  void release();

  // A T of this environment's own, made at first use: constructors, callbacks.
  template <class T>
  T& slot() {
    std::shared_ptr<void>& held = slots_[std::type_index(typeid(T))];
    if (!held) held = std::make_shared<T>();
    return *static_cast<T*>(held.get());
  }

  // Keeps `settle` on this thread until settle() is called with the id that it returns; holds meanwhile.
  uint64_t add_pending(std::function<void(Napi::Env)> settle);
  void settle(uint64_t id);
  void drop_pending(uint64_t id);

 private:
  static void teardown(void* self);

  Napi::Env env_;
  std::shared_ptr<JsQueue> queue_;
  uint64_t next_id_ = 1;
  uint64_t held_ = 0;
  bool over_ = false;
  std::vector<std::pair<uint64_t, std::function<void()>>> teardowns_;
  std::unordered_map<uint64_t, std::function<void(Napi::Env)>> pending_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> slots_;
};

// JavaScript thread only.
EnvData& env_data(Napi::Env env);

}  // namespace hypertwin::addon
