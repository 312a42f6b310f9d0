// What lib/stream reads of an NBD server's export. It converts and forwards; opening runs on a thread of the
// handle's own, and reads on those of its disk.
#include <napi.h>

#include <map>
#include <utility>

#include "async.h"
#include "backends/nbd_disk.h"
#include "machine_convert.h"
#include "machine_state.h"

namespace hypertwin::addon {
namespace {

using Bytes = std::vector<uint8_t>;

class NbdState final : public Closable, public std::enable_shared_from_this<NbdState> {
 public:
  explicit NbdState(std::shared_ptr<JsQueue> queue) : queue_(std::move(queue)) {}
  ~NbdState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  // On thread(). Bytes.
  uint64_t open(const std::string& uri) {
    auto disk = std::make_unique<backends::NbdDisk>(
        uri, backends::Disk::Options{.read_only = true, .reconnect = std::chrono::seconds(0)},
        [this](backends::Disk::Completion completion) { complete(std::move(completion)); });
    std::lock_guard lock(mutex_);
    if (closed_) throw Error("ECLOSED", "the connection is closed");
    disk_ = std::move(disk);
    return disk_->size();
  }
  Napi::Promise read(Napi::Env env, uint64_t offset, uint32_t size) {
    auto deferred = Napi::Promise::Deferred::New(env);
    auto outcome = std::make_shared<detail::Outcome<Bytes>>();
    auto delivery = std::make_shared<detail::Delivery<Bytes>>(queue_, outcome);
    delivery->id_ = env_data(env).add_pending([deferred, outcome](Napi::Env now) {
      try {
        if (outcome->error) std::rethrow_exception(outcome->error);
        deferred.Resolve(Napi::Buffer<uint8_t>::Copy(now, outcome->value->data(), outcome->value->size()));
      } catch (...) {
        deferred.Reject(to_js(now, std::current_exception()).Value());
      }
    });
    std::lock_guard lock(mutex_);
    if (!disk_ || closed_) return deferred.Promise();  // the delivery goes, and says so
    const uint64_t ordinal = next_++;
    {
      std::lock_guard pending(pending_mutex_);
      pending_.emplace(ordinal, Pending{outcome, std::move(delivery)});
    }
    disk_->submit({.ordinal = ordinal,
                   .operation = devices::BlockOperation::kRead,
                   .offset = offset,
                   .size = size,
                   .data = {}});
    return deferred.Promise();
  }
  void shutdown() override {
    std::lock_guard once(shutdown_mutex_);
    std::unique_ptr<backends::NbdDisk> disk;
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
      disk = std::move(disk_);
    }
    thread_.stop();
    disk.reset();
    std::map<uint64_t, Pending> left;
    {
      std::lock_guard lock(pending_mutex_);
      left.swap(pending_);
    }
  }

 private:
  struct Pending {
    std::shared_ptr<detail::Outcome<Bytes>> outcome;
    std::shared_ptr<detail::Delivery<Bytes>> delivery;
  };
  void complete(backends::Disk::Completion completion) {
    Pending one;
    {
      std::lock_guard lock(pending_mutex_);
      auto found = pending_.find(completion.ordinal);
      if (found == pending_.end()) return;
      one = std::move(found->second);
      pending_.erase(found);
    }
    if (completion.err)
      one.outcome->error = std::make_exception_ptr(
          Error::system(completion.err, "nbd_aio_pread", "reading from the NBD server"));
    else
      one.outcome->value.emplace(std::move(completion.data));
  }

  const std::shared_ptr<JsQueue> queue_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  std::mutex mutex_;           // guards the three below
  std::unique_ptr<backends::NbdDisk> disk_;
  uint64_t next_ = 0;
  bool closed_ = false;
  std::mutex pending_mutex_;  // guards what follows
  std::map<uint64_t, Pending> pending_;
  base::Executor thread_{"ht-nbd-open"};
};

struct Classes {
  Napi::FunctionReference nbd;
};

class NbdHandle : public Napi::ObjectWrap<NbdHandle> {
 public:
  explicit NbdHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/stream");
    state_ = *info[0].As<Napi::External<std::shared_ptr<NbdState>>>().Data();
  }
  ~NbdHandle() override {
    if (state_) env_->abandon(std::move(state_));
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeNbd",
        {InstanceMethod<&NbdHandle::read>("read"), InstanceMethod<&NbdHandle::close>("close")});
  }

 private:
  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      if (!info[0].IsNumber() || !info[1].IsNumber())
        throw Error("EINVAL", "offset and size must be numbers");
      return state_->read(info.Env(), static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value()),
                          info[1].As<Napi::Number>().Uint32Value());
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, state_); }

  std::shared_ptr<MachineEnv> env_;
  std::shared_ptr<NbdState> state_;
};

// uri; resolves with [handle, bytes of the export]
Napi::Value open(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto machines = machine_env(info.Env());
    auto state = std::make_shared<NbdState>(machines->queue());
    machines->add(state);
    return run_async<uint64_t>(
        info.Env(), state->thread(),
        [target = state.get(), uri = Args(info).text(0)] { return target->open(uri); },
        [state](Napi::Env env, uint64_t& size) -> Napi::Value {
          auto made = state;
          Napi::Array out = Napi::Array::New(env, 2);
          out.Set(0u, env_data(env).slot<Classes>().nbd.New(
                          {Napi::External<std::shared_ptr<NbdState>>::New(env, &made)}));
          out.Set(1u, number(env, size));
          return out;
        });
  });
}

// uri; it as it may be shown
Napi::Value shown(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::String::New(info.Env(), backends::without_secrets(Args(info).text(0)));
  });
}

}  // namespace

void init_nbd(Napi::Env env, Napi::Object exports) {
  env_data(env).slot<Classes>().nbd = Napi::Persistent(NbdHandle::define(env));
  Napi::Object nbd = Napi::Object::New(env);
  nbd.Set("open", Napi::Function::New(env, open, "open"));
  nbd.Set("shown", Napi::Function::New(env, shown, "shown"));
  exports.Set("nbd", nbd);
}

}  // namespace hypertwin::addon
