#include "env.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "errors.h"

namespace hypertwin::addon {

bool JsQueue::post(Call call) {
  std::lock_guard lock(mutex_);
  if (!function_) return false;
  calls_.push_back(std::move(call));
  // One wake-up a batch. A refusal means that the environment is ending: its end empties the queue.
  if (calls_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
  return true;
}

void JsQueue::drain(napi_env raw, napi_value, void* context, void*) {
  if (!raw) return;
  auto* self = static_cast<JsQueue*>(context);
  std::deque<Call> calls;
  {
    std::lock_guard lock(self->mutex_);
    calls.swap(self->calls_);
  }
  Napi::Env env(raw);
  for (Call& call : calls) {
    Napi::HandleScope scope(env);
    try {
      call(env);
    } catch (const Napi::Error& error) {
      // A callback of the user's threw: as if it had done so in an event handler.
      napi_fatal_exception(env, error.Value());
    } catch (const std::exception& error) {
      napi_fatal_exception(env, to_js(env, error).Value());
    }
  }
}

EnvData::EnvData(Napi::Env env) : env_(env), queue_(std::make_shared<JsQueue>()) {
  Napi::String name = Napi::String::New(env, "hypertwin");
  auto keep = std::make_unique<std::shared_ptr<JsQueue>>(queue_);
  napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, name, 0, 1, keep.get(),
      [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<JsQueue>*>(data); }, queue_.get(),
      &JsQueue::drain, &queue_->function_);
  if (status != napi_ok) throw Napi::Error::New(env);
  keep.release();  // owned by the thread-safe function, which outlives no call into the queue
  napi_unref_threadsafe_function(env, queue_->function_);
  // Added after the thread-safe function's own hook, so it runs before that one.
  napi_add_env_cleanup_hook(env, &EnvData::teardown, this);
}

void EnvData::teardown(void* raw) {
  auto* self = static_cast<EnvData*>(raw);
  self->over_ = true;
  while (!self->teardowns_.empty()) {
    auto run = std::move(self->teardowns_.back().second);
    self->teardowns_.pop_back();
    run();
  }
  std::deque<JsQueue::Call> dropped;
  {
    std::lock_guard lock(self->queue_->mutex_);
    dropped.swap(self->queue_->calls_);
    napi_release_threadsafe_function(std::exchange(self->queue_->function_, nullptr), napi_tsfn_abort);
  }
  self->pending_.clear();
}

uint64_t EnvData::on_teardown(std::function<void()> run) {
  teardowns_.emplace_back(next_id_, std::move(run));
  return next_id_++;
}

void EnvData::on_last_teardown(std::function<void()> run) {
  teardowns_.emplace(teardowns_.begin(), next_id_++, std::move(run));
}

void EnvData::forget_teardown(uint64_t id) {
  std::erase_if(teardowns_, [id](const auto& entry) { return entry.first == id; });
}

void EnvData::hold() {
  if (held_++ == 0 && !over_) napi_ref_threadsafe_function(env_, queue_->function_);
}

void EnvData::release() {
  if (--held_ == 0 && !over_) napi_unref_threadsafe_function(env_, queue_->function_);
}

uint64_t EnvData::add_pending(std::function<void(Napi::Env)> settle) {
  pending_.emplace(next_id_, std::move(settle));
  hold();
  return next_id_++;
}

void EnvData::settle(uint64_t id) {
  auto node = pending_.extract(id);
  if (node.empty()) return;
  release();
  node.mapped()(env_);
}

void EnvData::drop_pending(uint64_t id) {
  if (pending_.erase(id)) release();
}

EnvData& env_data(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }

}  // namespace hypertwin::addon
