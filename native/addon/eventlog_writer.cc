// The class behind lib/eventlog/writer.ts: a log of records that JavaScript makes, all of optional kinds. It
// converts and forwards; what blocks runs on the handle's own thread.
#include <napi.h>

#include <atomic>
#include <chrono>
#include <utility>

#include "async.h"
#include "base/clock.h"
#include "env.h"
#include "errors.h"
#include "eventlog_parts.h"
#include "kvm_args.h"
#include "log/writer.h"
#include "machine_convert.h"
#include "machine_state.h"

namespace hypertwin::addon {
namespace {

// What may wait for the disk. More is a failure of the log: the JavaScript thread never waits for it.
constexpr size_t kBufferBytes = 64u << 20;

// A writer with its thread `ht-log-end`, on which it is begun, flushed and ended.
class WriterState final : public Closable {
 public:
  ~WriterState() override { shutdown(); }
  base::Executor& thread() { return thread_; }
  // On thread().
  void adopt(std::shared_ptr<log::Writer> writer) {
    std::lock_guard lock(mutex_);
    writer_ = std::move(writer);
  }
  // Throws Error("CLOSED").
  std::shared_ptr<log::Writer> open() const {
    std::lock_guard lock(mutex_);
    if (!writer_) throw Error("CLOSED", "the log is closed");
    return writer_;
  }
  void shutdown() override {
    std::lock_guard once(shutdown_mutex_);
    thread_.stop();
    std::shared_ptr<log::Writer> last;
    std::lock_guard lock(mutex_);
    last = std::move(writer_);
    writer_ = nullptr;
  }

 private:
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards writer_
  std::shared_ptr<log::Writer> writer_;
  base::Executor thread_{"ht-log-end"};
};

class WriterHandle : public Napi::ObjectWrap<WriterHandle> {
 public:
  struct Made {
    std::shared_ptr<WriterState> state;
    std::shared_ptr<Callback> callback;
  };
  explicit WriterHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/eventlog");
    made_ = *info[0].As<Napi::External<Made>>().Data();
  }
  ~WriterHandle() override {
    if (made_.state) env_->abandon(std::move(made_.state));
  }
  static Napi::Function define(Napi::Env env) {
    using H = WriterHandle;
    return DefineClass(env, "NativeLogWriter",
                       {InstanceMethod<&H::append>("append"), InstanceMethod<&H::flush>("flush"),
                        InstanceMethod<&H::finish>("finish"), InstanceMethod<&H::failure>("failure"),
                        InstanceMethod<&H::close>("close")});
  }

 private:
  // kind, boundary, bytes
  Napi::Value append(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Args args(info);
      made_.state->open()->append(args.u64(1), log::Extension{args.u64(0), args.view(2)});
      return info.Env().Undefined();
    });
  }
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<void(log::Writer&)> work) {
    return run_async<detail::None>(
        info.Env(), made_.state->thread(),
        [writer = made_.state->open(), work = std::move(work)] {
          work(*writer);
          return detail::None{};
        },
        [self = keep(info.This())](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
  }
  Napi::Value flush(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return on_thread(info, [](log::Writer& writer) { writer.flush(); }); });
  }
  // boundary: an end record there, then all is written.
  Napi::Value finish(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      made_.state->open()->append(Args(info).u64(0), log::End{});
      return on_thread(info, [](log::Writer& writer) { writer.close(); });
    });
  }
  Napi::Value failure(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const auto error = made_.state->open()->error();
      if (!error) return info.Env().Undefined();
      return to_js(info.Env(), *error).Value();
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, made_.state); }

  Made made_;
  std::shared_ptr<MachineEnv> env_;
};

struct Constructor {
  Napi::FunctionReference writer;
};

// directory, what it is a log of, its version, JSON text, function to call when writing fails
Napi::Value write(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const Args args(info);
    const std::string directory = args.text(0);
    log::LogHeader header;
    header.hypertwin_version = HYPERTWIN_VERSION;
    header.board = args.text(1);
    header.board_version = args.u32(2);
    header.machine_config = args.text(3);
    header.created_unix_ns = clock_ns(CLOCK_REALTIME);
    header.log_id = log::random_log_id();
    if (!info[4].IsFunction()) throw Error("EINVAL", "argument 5 must be a function");
    const auto machines = machine_env(env);
    auto callback = std::make_shared<Callback>(machines, info[4].As<Napi::Function>());
    log::WriterOptions options;
    options.buffer_bytes = kBufferBytes;
    options.full = log::FullPolicy::kFail;
    options.on_failure = [signal = callback->signal()](const Error&) { signal(0); };
    auto state = std::make_shared<WriterState>();
    machines->add(state);
    return run_async<detail::None>(
        env, state->thread(),
        [self = state.get(), directory, header, options] {
          self->adopt(log::Writer::create(directory, header, options));
          return detail::None{};
        },
        [state, callback](Napi::Env now, detail::None&) -> Napi::Value {
          WriterHandle::Made made{state, callback};
          return env_data(now).slot<Constructor>().writer.New(
              {Napi::External<WriterHandle::Made>::New(now, &made)});
        });
  });
}

}  // namespace

void init_eventlog_writer(Napi::Env env, Napi::Object eventlog) {
  env_data(env).slot<Constructor>().writer = Napi::Persistent(WriterHandle::define(env));
  eventlog.Set("write", Napi::Function::New(env, write, "write"));
}

}  // namespace hypertwin::addon
