// Native work behind a promise: runs on an executor's thread, settles on the JavaScript thread.
#pragma once

#include <napi.h>

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/executor.h"
#include "env.h"
#include "errors.h"

namespace hypertwin::addon {

namespace detail {

struct None {};

template <class R>
struct Outcome {
  std::optional<R> value;
  std::exception_ptr error;
};

// Tells the environment exactly once that the outcome is there, also when the task is dropped unrun.
template <class R>
class Delivery {
 public:
  Delivery(std::shared_ptr<JsQueue> queue, std::shared_ptr<Outcome<R>> outcome)
      : queue_(std::move(queue)), outcome_(std::move(outcome)) {}
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;
  ~Delivery() {
    if (!outcome_->value && !outcome_->error)
      outcome_->error = std::make_exception_ptr(Error("ECLOSED", "closed before the call could run"));
    queue_->post([id = id_](Napi::Env env) { env_data(env).settle(id); });
  }

  uint64_t id_ = 0;

 private:
  std::shared_ptr<JsQueue> queue_;
  std::shared_ptr<Outcome<R>> outcome_;
};

}  // namespace detail

// Runs `work` on the executor and resolves with convert(env, its result), or rejects with what either threw;
// with ECLOSED when the executor stops before. Keeps the process alive meanwhile. `work` is destroyed on
// the executor's thread and must own no Napi reference; `convert` stays on the JavaScript thread and may.
// After the environment's end nothing is called any more.
template <class R>
Napi::Promise run_async(Napi::Env env, base::Executor& executor, std::function<R()> work,
                        std::function<Napi::Value(Napi::Env, R&)> convert) {
  auto deferred = Napi::Promise::Deferred::New(env);
  auto outcome = std::make_shared<detail::Outcome<R>>();
  EnvData& data = env_data(env);
  auto delivery = std::make_shared<detail::Delivery<R>>(data.queue(), outcome);
  delivery->id_ = data.add_pending([deferred, outcome, convert = std::move(convert)](Napi::Env now) {
    try {
      if (outcome->error) std::rethrow_exception(outcome->error);
      deferred.Resolve(convert(now, *outcome->value));
    } catch (...) {
      deferred.Reject(to_js(now, std::current_exception()).Value());
    }
  });
  executor.post([delivery = std::move(delivery), outcome, work = std::move(work)]() mutable {
    try {
      outcome->value.emplace(work());
    } catch (...) {
      outcome->error = std::current_exception();
    }
    work = nullptr;
    delivery.reset();
  });
  return deferred.Promise();
}

// The same for work without a result; resolves with undefined.
inline Napi::Promise run_async(Napi::Env env, base::Executor& executor, std::function<void()> work) {
  return run_async<detail::None>(
      env, executor,
      [work = std::move(work)] {
        work();
        return detail::None{};
      },
      [](Napi::Env now, detail::None&) -> Napi::Value { return now.Undefined(); });
}

}  // namespace hypertwin::addon
