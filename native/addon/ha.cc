// The classes behind lib/ha: a primary's protection, a listener, a caller, a backup. They convert and
// forward; calls that block run on the handles' own threads.
#include <napi.h>

#include <utility>

#include "arbiter.h"
#include "async.h"
#include "env.h"
#include "errors.h"
#include "ha_state.h"
#include "machine_state.h"
#include "migrate_convert.h"

namespace hypertwin::addon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Classes {
  Napi::FunctionReference protection, listener, caller, backup;
};

// After the arbiter's own: so that its end comes before, and nobody waits for an answer here.
HaEnv& ha_env(Napi::Env env) {
  EnvData& data = env_data(env);
  auto& found = data.slot<std::shared_ptr<HaEnv>>();
  if (!found) {
    machine_env(env);
    found = std::make_shared<HaEnv>();
    data.on_teardown([ha = found] { ha->teardown(); });
  }
  return *found;
}

// -------------------------------------------------------------------------------------------- conversions

// As lib/ha/options.ts has checked them.
void read_common(const Napi::Object& options, ha::CommonOptions& out,
                 const std::shared_ptr<JsArbiter>& arbiter) {
  if (!arbiter) throw Error("EINVAL", "arbiter must be given");
  out.arbiter = arbiter->function();
  out.heartbeats.interval = microseconds(size_of(options, "heartbeatUs"));
  out.heartbeats.min_timeout = microseconds(size_of(options, "minTimeoutUs"));
  out.heartbeats.max_timeout = microseconds(size_of(options, "maxTimeoutUs"));
}

ha::ProtectOptions read_protect(const Napi::Object& options, const std::shared_ptr<JsArbiter>& arbiter) {
  ha::ProtectOptions out;
  read_common(options, out, arbiter);
  out.max_lag = microseconds(size_of(options, "maxLagUs"));
  out.held_bytes = size_of(options, "heldBytes");
  out.on_loss =
      flag_of(options, "stopOnLoss") ? ha::ProtectOptions::Loss::kStop : ha::ProtectOptions::Loss::kContinue;
  out.sync.compress = flag_of(options, "compress");
  out.sync.delta = flag_of(options, "delta");
  out.sync.bandwidth = size_of(options, "bandwidth");
  out.sync.max_blackout_ms = number_of(options, "maxBlackoutMs");
  out.sync.max_rounds = static_cast<uint32_t>(size_of(options, "maxRounds"));
  out.sync.verify_memory = flag_of(options, "verifyMemory");
  out.planted.no_output_rule = flag_of(options, "noOutputRule");
  if (!options.Get("dropRecord").IsUndefined()) out.planted.drop_record = size_of(options, "dropRecord");
  return out;
}

Napi::Value numbers_of(Napi::Env env, std::initializer_list<uint64_t> values) {
  auto out = Napi::BigUint64Array::New(env, values.size());
  std::copy(values.begin(), values.end(), out.Data());
  return out;
}

Napi::Value describe(Napi::Env env, const ha::Stats& s) {
  return numbers_of(
      env, {s.log_bytes,       s.log_records,   s.input_bytes,  s.log_blocks, s.acked_records,
            s.boundary,        s.peer_boundary, s.lag_ns,       s.lag_p50_ns, s.lag_p99_ns,
            s.lag_max_ns,      s.round_trip_ns, s.held_outputs, s.held_bytes, s.released_outputs,
            s.dropped_outputs, s.hold_p50_ns,   s.hold_p99_ns,  s.paced_ns,   s.heartbeat_timeout_ns});
}

Napi::Value describe(Napi::Env env, const std::optional<ha::Timeline>& timeline) {
  if (!timeline) return env.Undefined();
  const ha::Timeline& t = *timeline;
  Napi::Object out = Napi::Object::New(env);
  out.Set("numbers", numbers_of(env, {t.last_heard_ns, t.detected_ns, t.claimed_ns, t.replayed_ns, t.live_ns,
                                      t.announced_ns, t.boundary, t.reissued_packets, t.reissued_requests}));
  out.Set("cause", t.cause);
  return out;
}

Napi::Value describe(Napi::Env env, const HaView& view) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("state", text(env, ha::state_name(view.state)));
  out.Set("session", view.session);
  out.Set("stats", describe(env, view.stats));
  out.Set("timeline", describe(env, view.timeline));
  out.Set("progress", to_value(env, view.progress));
  return out;
}

// Each event an array: state, code, message, nanoseconds; a step is its name.
Napi::Value take_news(Napi::Env env, HaMailbox& mailbox) {
  auto news = mailbox.take();
  Napi::Array out = Napi::Array::New(env, news.size());
  for (uint32_t i = 0; i < news.size(); ++i) {
    if (const auto* step = std::get_if<std::string>(&news[i])) {
      out.Set(i, *step);
      continue;
    }
    const auto& event = std::get<ha::Event>(news[i]);
    Napi::Array one = Napi::Array::New(env, 4);
    one.Set(0u, text(env, ha::state_name(event.state)));
    one.Set(1u, text(env, event.code));
    one.Set(2u, text(env, event.message));
    one.Set(3u, bigint(env, event.at_ns));
    out.Set(i, one);
  }
  return out;
}

std::shared_ptr<Callback> callback_of(Napi::Env env, const Napi::Value& function) {
  if (!function.IsFunction()) throw Error("EINVAL", "notify must be a function");
  return std::make_shared<Callback>(machine_env(env), function.As<Napi::Function>());
}

// ------------------------------------------------------------------------------------------------ handles

// What a handle is made around. The callbacks live as long as it.
template <class State>
struct Made {
  std::shared_ptr<State> state;
  std::function<void()> begin;  // once, on the state's thread
  std::shared_ptr<Callback> callback;
  std::shared_ptr<Callback> machine_callback;
  std::shared_ptr<Mailbox> machine_mailbox;
};

template <class State>
Napi::Value wrap(Napi::Env env, const Napi::FunctionReference& constructor, Made<State> made) {
  return constructor.New({Napi::External<Made<State>>::New(env, &made)});
}

template <class Handle, class State>
class HaHandle : public Napi::ObjectWrap<Handle> {
 public:
  explicit HaHandle(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<Handle>(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/ha");
    made_ = *info[0].As<Napi::External<Made<State>>>().Data();
  }
  ~HaHandle() override {
    if (made_.state) env_->abandon(std::move(made_.state));
  }

 protected:
  Napi::Value view(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return describe(info.Env(), made_.state->view()); });
  }
  Napi::Value take(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return take_news(info.Env(), made_.state->mailbox()); });
  }
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, made_.state); }
  Napi::Value begin(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!made_.begin) throw Error("BAD_STATE", "it has begun already");
      return on_thread(info, std::exchange(made_.begin, nullptr));
    });
  }
  // `work` on the handle's thread; the handle lives as long.
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<void()> work) {
    return run_async<detail::None>(
        info.Env(), made_.state->thread(),
        [work = std::move(work)] {
          work();
          return detail::None{};
        },
        [self = keep(info.This())](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
  }

  Made<State> made_;
  std::shared_ptr<MachineEnv> env_;
};

class ProtectionHandle : public HaHandle<ProtectionHandle, ProtectionState> {
 public:
  using HaHandle::HaHandle;
  static Napi::Function define(Napi::Env env) {
    using H = ProtectionHandle;
    return DefineClass(env, "NativeProtection",
                       {InstanceMethod("begin", &H::begin), InstanceMethod("view", &H::view),
                        InstanceMethod("take", &H::take), InstanceMethod("close", &H::close),
                        InstanceMethod<&H::hand_over>("handOver")});
  }

 private:
  Napi::Value hand_over(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return on_thread(info, [state = made_.state.get()] { state->hand_over(); }); });
  }
};

class BackupHandle : public HaHandle<BackupHandle, BackupState> {
 public:
  using HaHandle::HaHandle;
  static Napi::Function define(Napi::Env env) {
    using H = BackupHandle;
    return DefineClass(env, "NativeBackup",
                       {InstanceMethod("begin", &H::begin), InstanceMethod("view", &H::view),
                        InstanceMethod("take", &H::take), InstanceMethod("close", &H::close),
                        InstanceMethod<&H::machine>("machine")});
  }

 private:
  // The machine's handle, once it is live. The machine ends this backup with itself.
  Napi::Value machine(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      auto found = made_.state->machine();
      auto state = std::make_shared<MachineState>(made_.machine_mailbox);
      env_->add(state);
      state->adopt(std::move(found));
      state->attach(made_.state);
      return machine_handle(info.Env(), std::move(state), made_.machine_callback);
    });
  }
};

class CallerHandle : public HaHandle<CallerHandle, CallerState> {
 public:
  using HaHandle::HaHandle;
  static Napi::Function define(Napi::Env env) {
    using H = CallerHandle;
    return DefineClass(env, "NativeCaller",
                       {InstanceMethod<&H::peer>("peer"), InstanceMethod<&H::refuse>("refuse"),
                        InstanceMethod<&H::follow>("follow"), InstanceMethod("close", &H::close)});
  }

 private:
  Napi::Value peer(const Napi::CallbackInfo& info) { return text(info.Env(), made_.state->peer()); }
  // code, sentence
  Napi::Value refuse(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Args args(info);
      return on_thread(info, [state = made_.state.get(), code = args.text(0), sentence = args.text(1)] {
        state->refuse(code, sentence);
      });
    });
  }
  // options, notify, notify of the machine
  Napi::Value follow(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Env env = info.Env();
      auto options = object_of(info[0], "the options");
      auto arbiter = arbiter_of(options);
      ha::BackupOptions settings;
      read_common(options, settings, arbiter);
      settings.retained_bytes = size_of(options, "retainedBytes");
      settings.announce = flag_of(options, "announce");
      settings.adjust = read_backends(options);
      Made<BackupState> made;
      made.callback = callback_of(env, info[1]);
      made.machine_callback = callback_of(env, info[2]);
      made.machine_mailbox = std::make_shared<Mailbox>(made.machine_callback->signal());
      settings.listener = made.machine_mailbox;
      made.state = std::make_shared<BackupState>(std::make_shared<HaMailbox>(made.callback->signal()),
                                                 [arbiter] { arbiter->give_up(); });
      env_->add(made.state);
      ha_env(env).add(made.state);
      made.begin = [state = made.state.get(), caller = made_.state,
                    device = text_of(options.Get("device"), "device"),
                    settings] { state->begin(device, caller->take(), settings); };
      return wrap(env, env_data(env).slot<Classes>().backup, std::move(made));
    });
  }
};

class ListenerHandle : public HaHandle<ListenerHandle, ListenerState> {
 public:
  using HaHandle::HaHandle;
  static Napi::Function define(Napi::Env env) {
    using H = ListenerHandle;
    return DefineClass(env, "NativeHaListener",
                       {InstanceMethod("begin", &H::begin), InstanceMethod<&H::address>("address"),
                        InstanceMethod<&H::accept>("accept"), InstanceMethod("take", &H::take),
                        InstanceMethod("close", &H::close)});
  }

 private:
  Napi::Value address(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return text(info.Env(), made_.state->address()); });
  }
  // Resolves with a caller, or undefined after close().
  Napi::Value accept(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      using Stream = std::shared_ptr<wire::Stream>;
      return run_async<Stream>(
          info.Env(), made_.state->thread(),
          [state = made_.state.get()]() -> Stream { return state->accept(); },
          [self = keep(info.This()), env = env_](Napi::Env now, Stream& stream) -> Napi::Value {
            if (!stream) return now.Undefined();
            Made<CallerState> made;
            made.state = std::make_shared<CallerState>(std::move(stream));
            env->add(made.state);
            return wrap(now, env_data(now).slot<Classes>().caller, made);
          });
    });
  }
};

// machine, options, notify
Napi::Value protect(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Env env = info.Env();
    auto owner = machine_state(info[0]);
    auto machine = owner->deterministic();
    auto options = object_of(info[1], "the options");
    auto arbiter = arbiter_of(options);
    auto settings = read_protect(options, arbiter);
    Made<ProtectionState> made;
    made.callback = callback_of(env, info[2]);
    made.state = std::make_shared<ProtectionState>(std::make_shared<HaMailbox>(made.callback->signal()),
                                                   [arbiter] { arbiter->give_up(); });
    machine_env(env)->add(made.state);
    ha_env(env).add(made.state);
    owner->attach(made.state);
    made.begin = [state = made.state.get(), machine = std::move(machine),
                  address = wire::Address::parse(text_of(options.Get("address"), "address")),
                  tls = read_tls(options), timeout = milliseconds(size_of(options, "connectTimeoutMs")),
                  settings] { state->begin(machine, address, tls, timeout, settings); };
    return wrap(env, env_data(env).slot<Classes>().protection, std::move(made));
  });
}

// options, notify
Napi::Value listen(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Env env = info.Env();
    auto options = object_of(info[0], "the options");
    Made<ListenerState> made;
    made.callback = callback_of(env, info[1]);
    made.state = std::make_shared<ListenerState>(std::make_shared<HaMailbox>(made.callback->signal()));
    machine_env(env)->add(made.state);
    made.begin = [state = made.state.get(),
                  address = wire::Address::parse(text_of(options.Get("listen"), "listen")),
                  tls = read_tls(options)] { state->listen(address, tls); };
    return wrap(env, env_data(env).slot<Classes>().listener, std::move(made));
  });
}

}  // namespace

void init_ha(Napi::Env env, Napi::Object exports) {
  auto& classes = env_data(env).slot<Classes>();
  classes.protection = Napi::Persistent(ProtectionHandle::define(env));
  classes.listener = Napi::Persistent(ListenerHandle::define(env));
  classes.caller = Napi::Persistent(CallerHandle::define(env));
  classes.backup = Napi::Persistent(BackupHandle::define(env));
  Napi::Object ha = Napi::Object::New(env);
  ha.Set("protect", Napi::Function::New(env, protect, "protect"));
  ha.Set("listen", Napi::Function::New(env, listen, "listen"));
  exports.Set("ha", ha);
}

}  // namespace hypertwin::addon
