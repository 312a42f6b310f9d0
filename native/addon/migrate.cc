// The classes behind lib/migrate: a migration from here, a listener, one that comes in. They convert and
// forward; calls that block run on the handles' own threads.
#include <napi.h>

#include <utility>

#include "async.h"
#include "env.h"
#include "errors.h"
#include "migrate_convert.h"
#include "migrate_state.h"

namespace hypertwin::addon {
namespace {

using std::chrono::milliseconds;

struct Classes {
  Napi::FunctionReference migration, listener, incoming;
};

std::shared_ptr<Callback> callback_of(Napi::Env env, const Napi::Value& function) {
  if (!function.IsFunction()) throw Error("EINVAL", "notify must be a function");
  return std::make_shared<Callback>(machine_env(env), function.As<Napi::Function>());
}

// Each a step's name, or a progress.
Napi::Value take_news(Napi::Env env, MigrationMailbox& mailbox) {
  auto news = mailbox.take();
  Napi::Array out = Napi::Array::New(env, news.size());
  for (uint32_t i = 0; i < news.size(); ++i)
    if (const auto* step = std::get_if<migrate::Step>(&news[i]))
      out.Set(i, text(env, migrate::step_name(*step)));
    else
      out.Set(i, to_value(env, std::get<migrate::Progress>(news[i])));
  return out;
}

// What a handle is made around.
template <class State>
struct Made {
  std::shared_ptr<State> state;
  std::shared_ptr<Callback> callback;  // that its state signals
};

template <class State>
Napi::Value wrap(Napi::Env env, const Napi::FunctionReference& constructor, Made<State> made) {
  return constructor.New({Napi::External<Made<State>>::New(env, &made)});
}

template <class Handle, class State>
class MigrateHandle : public Napi::ObjectWrap<Handle> {
 public:
  explicit MigrateHandle(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<Handle>(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/migrate");
    made_ = *info[0].As<Napi::External<Made<State>>>().Data();
  }
  ~MigrateHandle() override {
    if (made_.state) env_->abandon(std::move(made_.state));
  }

 protected:
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, made_.state); }
  // `work` on the handle's thread; the handle lives as long.
  template <class R>
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<R()> work,
                        std::function<Napi::Value(Napi::Env, R&)> convert) {
    return run_async<R>(info.Env(), made_.state->thread(), std::move(work),
                        [self = keep(info.This()), convert = std::move(convert)](Napi::Env env, R& result) {
                          return convert(env, result);
                        });
  }

  Made<State> made_;
  std::shared_ptr<MachineEnv> env_;
};

class MigrationHandle : public MigrateHandle<MigrationHandle, OutgoingState> {
 public:
  using MigrateHandle::MigrateHandle;
  static Napi::Function define(Napi::Env env) {
    using H = MigrationHandle;
    return DefineClass(env, "NativeMigration",
                       {InstanceMethod<&H::run>("run"), InstanceMethod<&H::take>("take"),
                        InstanceMethod<&H::cancel>("cancel"), InstanceMethod<&H::limit>("limit"),
                        InstanceMethod("close", &H::close)});
  }

 private:
  // machine, options
  Napi::Value run(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (std::exchange(ran_, true)) throw Error("BAD_STATE", "it runs already");
      auto owner = machine_state(info[0]);
      auto machine = owner->deterministic();
      auto from = object_of(info[1], "the options");
      migrate::MigrateOptions options;
      options.disks = flag_of(from, "copyDisks");
      options.compress = flag_of(from, "compress");
      options.delta = flag_of(from, "delta");
      options.delta_cache_bytes = size_of(from, "deltaCache");
      options.bandwidth = size_of(from, "bandwidth");
      options.max_blackout_ms = number_of(from, "maxBlackoutMs");
      options.max_rounds = static_cast<uint32_t>(size_of(from, "maxRounds"));
      options.must_converge = flag_of(from, "mustConverge");
      options.verify_memory = flag_of(from, "verifyMemory");
      options.patience = milliseconds(size_of(from, "patienceMs"));
      options.claim_patience = milliseconds(size_of(from, "claimPatienceMs"));
      auto address = wire::Address::parse(text_of(from.Get("address"), "address"));
      auto tls = read_tls(from);
      const milliseconds timeout(size_of(from, "connectTimeoutMs"));
      made_.state->use(arbiter_of(from));
      owner->attach(made_.state);
      return on_thread<migrate::MigrateResult>(
          info,
          [state = made_.state.get(), machine = std::move(machine), address = std::move(address),
           tls = std::move(tls), timeout,
           options = std::move(options)] { return state->run(machine, address, tls, timeout, options); },
          [](Napi::Env env, migrate::MigrateResult& result) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("session", migrate::session_text(result.session));
            out.Set("digest", to_value(env, result.digest));
            out.Set("blackoutNs", number(env, result.blackout_ns));
            out.Set("totalNs", number(env, result.total_ns));
            out.Set("progress", to_value(env, result.progress));
            return out;
          });
    });
  }
  Napi::Value take(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return take_news(info.Env(), *made_.state->mailbox()); });
  }
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      made_.state->cancel();
      return info.Env().Undefined();
    });
  }
  Napi::Value limit(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const double bytes = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
      if (!(bytes >= 0 && bytes <= 9007199254740991.0))
        throw Error("EINVAL", "a bandwidth in bytes a second");
      made_.state->limit(static_cast<uint64_t>(bytes));
      return info.Env().Undefined();
    });
  }

  bool ran_ = false;
};

class IncomingHandle : public MigrateHandle<IncomingHandle, IncomingState> {
 public:
  using MigrateHandle::MigrateHandle;
  static Napi::Function define(Napi::Env env) {
    using H = IncomingHandle;
    return DefineClass(env, "NativeIncoming",
                       {InstanceMethod<&H::peer>("peer"), InstanceMethod<&H::receive>("receive"),
                        InstanceMethod<&H::take>("take"), InstanceMethod<&H::cancel>("cancel"),
                        InstanceMethod("close", &H::close)});
  }

 private:
  Napi::Value peer(const Napi::CallbackInfo& info) { return text(info.Env(), made_.state->peer()); }
  // options, notify, notify of the machine
  Napi::Value receive(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (news_) throw Error("BAD_STATE", "it is received already");
      auto from = object_of(info[0], "the options");
      migrate::ReceiveOptions options;
      options.adjust = read_backends(from);
      options.start_paused = flag_of(from, "startPaused");
      options.patience = milliseconds(size_of(from, "patienceMs"));
      made_.state->use(arbiter_of(from));
      made_.callback = callback_of(info.Env(), info[1]);
      auto machine_callback = callback_of(info.Env(), info[2]);
      news_ = std::make_shared<MigrationMailbox>(made_.callback->signal());
      options.on_progress = [news = news_](const migrate::Progress& now) { news->progress(now); };
      options.on_step = [news = news_](migrate::Step step) { news->step(step); };
      auto machine_mailbox = std::make_shared<Mailbox>(machine_callback->signal());
      options.listener = machine_mailbox;
      return on_thread<migrate::ReceiveResult>(
          info, [state = made_.state.get(), options = std::move(options)] { return state->receive(options); },
          [env_state = env_, machine_callback, machine_mailbox](
              Napi::Env env, migrate::ReceiveResult& result) -> Napi::Value {
            auto state = std::make_shared<MachineState>(machine_mailbox);
            env_state->add(state);
            state->adopt(std::move(result.machine));
            Napi::Object out = Napi::Object::New(env);
            out.Set("machine", machine_handle(env, std::move(state), machine_callback));
            out.Set("session", migrate::session_text(result.session));
            out.Set("digest", to_value(env, std::as_const(result.digest)));
            out.Set("progress", to_value(env, result.progress));
            return out;
          });
    });
  }
  Napi::Value take(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      if (!news_) return Napi::Array::New(info.Env());
      return take_news(info.Env(), *news_);
    });
  }
  // Off this thread: it may wait for the source.
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      env_->closer().post([state = made_.state] { state->cancel(); });
      return info.Env().Undefined();
    });
  }

  std::shared_ptr<MigrationMailbox> news_;
};

class ListenerHandle : public MigrateHandle<ListenerHandle, MigrationListenerState> {
 public:
  using MigrateHandle::MigrateHandle;
  static Napi::Function define(Napi::Env env) {
    using H = ListenerHandle;
    return DefineClass(env, "NativeMigrationListener",
                       {InstanceMethod<&H::begin>("begin"), InstanceMethod<&H::address>("address"),
                        InstanceMethod<&H::accept>("accept"), InstanceMethod<&H::take_refused>("takeRefused"),
                        InstanceMethod("close", &H::close)});
  }

 private:
  // options
  Napi::Value begin(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      auto options = object_of(info[0], "the options");
      return on_thread<detail::None>(
          info,
          [state = made_.state.get(), device = text_of(options.Get("device"), "device"),
           address = wire::Address::parse(text_of(options.Get("address"), "address")),
           tls = read_tls(options)] {
            state->begin(device, address, tls);
            return detail::None{};
          },
          [](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
    });
  }
  Napi::Value address(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return text(info.Env(), made_.state->address()); });
  }
  // What peers that were turned away did wrong.
  Napi::Value take_refused(const Napi::CallbackInfo& info) {
    auto refused = made_.state->take_refused();
    Napi::Array out = Napi::Array::New(info.Env(), refused.size());
    for (uint32_t i = 0; i < refused.size(); ++i) out.Set(i, refused[i]);
    return out;
  }
  // Resolves with one that comes in, or undefined once this is closed.
  Napi::Value accept(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      using Incoming = std::shared_ptr<IncomingState>;
      return on_thread<Incoming>(
          info, [state = made_.state.get()] { return state->accept(); },
          [env_state = env_](Napi::Env env, Incoming& incoming) -> Napi::Value {
            if (!incoming) return env.Undefined();
            env_state->add(incoming);
            return wrap(env, env_data(env).slot<Classes>().incoming, Made<IncomingState>{incoming, nullptr});
          });
    });
  }
};

// notify
Napi::Value migration(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Napi::Env env = info.Env();
    auto callback = callback_of(env, info[0]);
    auto state = std::make_shared<OutgoingState>(std::make_shared<MigrationMailbox>(callback->signal()));
    machine_env(env)->add(state);
    return wrap(env, env_data(env).slot<Classes>().migration, Made<OutgoingState>{state, callback});
  });
}

// notify
Napi::Value listener(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Napi::Env env = info.Env();
    auto callback = callback_of(env, info[0]);
    auto state = std::make_shared<MigrationListenerState>(callback->signal());
    machine_env(env)->add(state);
    return wrap(env, env_data(env).slot<Classes>().listener, Made<MigrationListenerState>{state, callback});
  });
}

}  // namespace

void init_migrate(Napi::Env env, Napi::Object exports) {
  auto& classes = env_data(env).slot<Classes>();
  classes.migration = Napi::Persistent(MigrationHandle::define(env));
  classes.incoming = Napi::Persistent(IncomingHandle::define(env));
  classes.listener = Napi::Persistent(ListenerHandle::define(env));
  Napi::Object migrate = Napi::Object::New(env);
  migrate.Set("migration", Napi::Function::New(env, migration, "migration"));
  migrate.Set("listener", Napi::Function::New(env, listener, "listener"));
  exports.Set("migrate", migrate);
}

}  // namespace hypertwin::addon
