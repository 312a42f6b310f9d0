// The classes behind lib/eventlog: log, reader, recording, replay. They convert and forward; calls that block
// run on the handles' own threads.
#include <napi.h>

#include <utility>

#include "async.h"
#include "env.h"
#include "errors.h"
#include "eventlog_parts.h"
#include "eventlog_state.h"
#include "kvm_args.h"
#include "machine_convert.h"
#include "machine_state.h"

namespace hypertwin::addon {
namespace {

using replay::Recording;
using replay::Replay;

struct Classes {
  Napi::FunctionReference log, reader, recording, replay;
};

template <class State>
Napi::Value wrap(Napi::Env env, const Napi::FunctionReference& constructor, std::shared_ptr<State> state) {
  return constructor.New({Napi::External<std::shared_ptr<State>>::New(env, &state)});
}

template <class State>
std::shared_ptr<State> unwrap(const Napi::CallbackInfo& info) {
  if (!info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/eventlog");
  return *info[0].As<Napi::External<std::shared_ptr<State>>>().Data();
}

// What all these handles do alike.
template <class Handle, class State>
class HandleOf : public Napi::ObjectWrap<Handle> {
 public:
  explicit HandleOf(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<Handle>(info), state_(unwrap<State>(info)), env_(machine_env(info.Env())) {}
  ~HandleOf() override {
    if (state_) env_->abandon(std::move(state_));
  }

 protected:
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, state_); }
  // `work` on the handle's thread; the handle lives as long.
  template <class R>
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<R()> work,
                        std::function<Napi::Value(Napi::Env, R&)> convert) {
    return run_async<R>(info.Env(), state_->thread(), std::move(work),
                        [self = keep(info.This()), convert = std::move(convert)](Napi::Env env, R& result) {
                          return convert(env, result);
                        });
  }

  std::shared_ptr<State> state_;
  std::shared_ptr<MachineEnv> env_;
};

// -------------------------------------------------------------------------------------------- conversions

Napi::Value describe(Napi::Env env, const log::LogHeader& header) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("id", log::hex(header.log_id));
  out.Set("created", Napi::Date::New(env, static_cast<double>(header.created_unix_ns / 1'000'000)));
  out.Set("hypertwin", header.hypertwin_version);
  out.Set("cpuVendor", header.cpu_vendor);
  out.Set("cpuFamily", number(env, header.cpu_family));
  out.Set("cpuModel", number(env, header.cpu_model));
  out.Set("cpuStepping", number(env, header.cpu_stepping));
  out.Set("cpuFeatures", header.cpu_features.hex());
  out.Set("kvmQuirks", header.kvm_quirks);
  out.Set("board", header.board);
  out.Set("boardVersion", number(env, header.board_version));
  out.Set("memorySize", number(env, header.memory_size));
  out.Set("initialState", header.initial_state.hex());
  return out;
}

Napi::Value optional_bigint(Napi::Env env, const std::optional<uint64_t>& value) {
  return value ? bigint(env, *value) : env.Undefined();
}

Napi::Value describe(Napi::Env env, const log::Damage& damage) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("kind", text(env, log::damage_name(damage.kind)));
  out.Set("segment", number(env, damage.segment));
  out.Set("offset", bigint(env, damage.offset));
  out.Set("bytes", bigint(env, damage.bytes));
  out.Set("gap", Napi::Boolean::New(env, damage.gap));
  out.Set("firstLost", bigint(env, damage.first_lost));
  out.Set("endLost", optional_bigint(env, damage.end_lost));
  out.Set("fromBoundary", bigint(env, damage.from_boundary));
  out.Set("toBoundary", optional_bigint(env, damage.to_boundary));
  out.Set("text", damage.text());
  return out;
}

Napi::Value describe(Napi::Env env, const std::vector<log::Damage>& damages) {
  Napi::Array out = Napi::Array::New(env, damages.size());
  for (uint32_t i = 0; i < damages.size(); ++i) out.Set(i, describe(env, damages[i]));
  return out;
}

Napi::Value describe(Napi::Env env, const log::VerifyReport& report) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("ok", Napi::Boolean::New(env, report.ok()));
  out.Set("records", bigint(env, report.records));
  out.Set("blocks", bigint(env, report.blocks));
  out.Set("segments", bigint(env, report.segments));
  out.Set("bytes", bigint(env, report.bytes));
  out.Set("firstBoundary", bigint(env, report.first_boundary));
  out.Set("lastBoundary", bigint(env, report.last_boundary));
  out.Set("replayableRecords", bigint(env, report.replayable_records));
  out.Set("replayableBoundary", bigint(env, report.replayable_boundary));
  out.Set("chainOk", Napi::Boolean::New(env, report.chain_ok));
  out.Set("ended", Napi::Boolean::New(env, report.ended));
  out.Set("chain", report.chain.hex());
  out.Set("damages", describe(env, report.damages));
  return out;
}

Napi::Value describe(Napi::Env env, const std::vector<log::BlockInfo>& blocks) {
  Napi::Array out = Napi::Array::New(env, blocks.size());
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    const auto& from = blocks[i];
    Napi::Object one = Napi::Object::New(env);
    one.Set("segment", number(env, from.segment));
    one.Set("offset", bigint(env, from.offset));
    one.Set("bytes", number(env, from.header.payload_bytes));
    one.Set("records", number(env, from.header.records));
    one.Set("firstRecord", bigint(env, from.header.first_record));
    one.Set("firstBoundary", bigint(env, from.header.first_boundary));
    one.Set("lastBoundary", bigint(env, from.header.last_boundary));
    out.Set(i, one);
  }
  return out;
}

Napi::Value describe(Napi::Env env, const log::WriterStats& stats, uint64_t durable) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("records", bigint(env, stats.records));
  out.Set("durableRecords", bigint(env, durable));
  out.Set("bytes", bigint(env, stats.bytes));
  out.Set("blocks", bigint(env, stats.blocks));
  out.Set("segments", bigint(env, stats.segments));
  out.Set("syncs", bigint(env, stats.syncs));
  out.Set("bufferHighWater", bigint(env, stats.buffer_high_water));
  out.Set("waits", bigint(env, stats.waits));
  out.Set("inputBytes", bigint(env, stats.input_bytes));
  return out;
}

Napi::Value describe(Napi::Env env, const replay::ReplayResult& result) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("stop", text(env, replay::replay_stop_name(result.stop)));
  out.Set("boundary", bigint(env, result.boundary));
  out.Set("state", to_value(env, result.state));
  out.Set("complete", Napi::Boolean::New(env, result.complete));
  out.Set("damages", describe(env, result.damages));
  out.Set("checks", bigint(env, result.checks));
  out.Set("stateChecks", bigint(env, result.state_checks));
  out.Set("message", result.message);
  out.Set("divergence", env.Undefined());
  if (result.divergence) {
    Napi::Object divergence = Napi::Object::New(env);
    divergence.Set("boundary", bigint(env, result.divergence->boundary));
    divergence.Set("kind", result.divergence->kind);
    divergence.Set("message", result.divergence->message);
    divergence.Set("rip", bigint(env, result.divergence->rip));
    divergence.Set("suspects", to_value(env, result.divergence->suspects));
    out.Set("divergence", divergence);
  }
  return out;
}

// ------------------------------------------------------------------------------------------------- reader

class ReaderHandle : public HandleOf<ReaderHandle, ReaderState> {
 public:
  using HandleOf::HandleOf;
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeLogReader",
        {InstanceMethod<&ReaderHandle::take>("take"), InstanceMethod<&ReaderHandle::wait>("wait"),
         InstanceMethod("close", &ReaderHandle::close)});
  }

 private:
  Napi::Value take(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Env env = info.Env();
      Batch batch = state_->take();
      if (batch.empty()) return env.Undefined();
      Napi::Object out = Napi::Object::New(env);
      auto numbers = Napi::BigUint64Array::New(env, batch.numbers.size());
      if (!batch.numbers.empty())
        std::memcpy(numbers.Data(), batch.numbers.data(), batch.numbers.size() * sizeof(uint64_t));
      out.Set("numbers", numbers);
      out.Set("bytes", to_value(env, batch.bytes));
      Napi::Array damages = Napi::Array::New(env, batch.damages.size());
      for (uint32_t i = 0; i < batch.damages.size(); ++i) {
        Napi::Object one = Napi::Object::New(env);
        one.Set("before", number(env, batch.damages[i].before));
        one.Set("damage", describe(env, batch.damages[i].damage));
        damages.Set(i, one);
      }
      out.Set("damages", damages);
      const char* stop = nullptr;
      switch (batch.stop) {
        case log::Stop::kNone:
          break;
        case log::Stop::kEnd:
          stop = "end";
          break;
        case log::Stop::kDataEnds:
          stop = "data-ends";
          break;
        case log::Stop::kGap:
          stop = "gap";
          break;
        case log::Stop::kCancelled:
          stop = "cancelled";
          break;
      }
      if (stop) out.Set("stop", stop);
      if (batch.error) out.Set("error", to_js(env, batch.error).Value());
      return out;
    });
  }
  // Resolves when take() gives something.
  Napi::Value wait(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    auto deferred = Napi::Promise::Deferred::New(env);
    EnvData& data = env_data(env);
    const uint64_t id = data.add_pending(
        [deferred, self = keep(info.This())](Napi::Env now) { deferred.Resolve(now.Undefined()); });
    auto news = [queue = data.queue(), id] {
      queue->post([id](Napi::Env now) { env_data(now).settle(id); });
    };
    if (state_->ready(news)) data.settle(id);
    return deferred.Promise();
  }
};

// ---------------------------------------------------------------------------------------------------- log

class LogHandle : public HandleOf<LogHandle, LogState> {
 public:
  using HandleOf::HandleOf;
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeLog",
        {InstanceMethod<&LogHandle::header>("header"), InstanceMethod<&LogHandle::verify>("verify"),
         InstanceMethod<&LogHandle::index>("index"), InstanceMethod<&LogHandle::read>("read"),
         InstanceMethod("close", &LogHandle::close)});
  }

 private:
  Napi::Value header(const Napi::CallbackInfo& info) { return describe(info.Env(), state_->header()); }
  Napi::Value verify(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      state_->check_open();
      return on_thread<log::VerifyReport>(
          info, [state = state_.get()] { return state->verify(); },
          [](Napi::Env env, log::VerifyReport& report) { return describe(env, report); });
    });
  }
  Napi::Value index(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      state_->check_open();
      using Blocks = std::vector<log::BlockInfo>;
      return on_thread<Blocks>(
          info, [directory = state_->directory()] { return log::Reader::open(directory)->index(); },
          [](Napi::Env env, Blocks& blocks) { return describe(env, blocks); });
    });
  }
  // from, follow?, behind gaps too?, extensions?
  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      state_->check_open();
      Args args(info);
      log::ReaderOptions options;
      options.follow = args.boolean(1);
      options.stop_at_gap = !args.boolean(2);
      options.extensions = args.boolean(3);
      auto reader = std::make_shared<ReaderState>(state_->directory(), options, args.u64(0));
      env_->add(reader);
      state_->attach(reader);
      return wrap(info.Env(), env_data(info.Env()).slot<Classes>().reader, reader);
    });
  }
};

// directory
Napi::Value open_log(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto state = std::make_shared<LogState>(Args(info).text(0));
    machine_env(info.Env())->add(state);
    return run_async<detail::None>(
        info.Env(), state->thread(),
        [target = state.get()] {
          target->read_header();
          return detail::None{};
        },
        [state](Napi::Env env, detail::None&) {
          return wrap(env, env_data(env).slot<Classes>().log, state);
        });
  });
}

// ---------------------------------------------------------------------------------------------- recording

class RecordingHandle : public Napi::ObjectWrap<RecordingHandle> {
 public:
  struct Made {
    std::shared_ptr<RecordingState> state;
    std::shared_ptr<Callback> callback;
  };
  explicit RecordingHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(machine_env(info.Env())) {
    if (!info[0].IsExternal())
      throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/eventlog");
    made_ = *info[0].As<Napi::External<Made>>().Data();
  }
  ~RecordingHandle() override {
    if (made_.state) env_->abandon(std::move(made_.state));
  }
  static Napi::Function define(Napi::Env env) {
    using H = RecordingHandle;
    return DefineClass(
        env, "NativeRecording",
        {InstanceMethod<&H::stop>("stop"), InstanceMethod<&H::checkpoint>("checkpoint"),
         InstanceMethod<&H::retry>("retry"), InstanceMethod<&H::stats>("stats"),
         InstanceMethod<&H::failure>("failure"), InstanceMethod<&H::first_boundary>("firstBoundary"),
         InstanceMethod<&H::suspects>("suspects"), InstanceMethod<&H::close>("close")});
  }

 private:
  template <class R>
  Napi::Value on_thread(const Napi::CallbackInfo& info, std::function<R(Recording&)> work,
                        std::function<Napi::Value(Napi::Env, R&)> convert) {
    return run_async<R>(
        info.Env(), made_.state->thread(),
        [recording = made_.state->open(), work = std::move(work)]() -> R { return work(*recording); },
        [self = keep(info.This()), convert = std::move(convert)](Napi::Env env, R& result) {
          return convert(env, result);
        });
  }
  uint64_t durable() const { return made_.state->durable()->load(std::memory_order_acquire); }

  Napi::Value stop(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      using Result = replay::RecordingResult;
      return on_thread<Result>(
          info, [](Recording& recording) { return recording.stop(); },
          [state = made_.state](Napi::Env env, Result& result) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("firstBoundary", bigint(env, result.first_boundary));
            out.Set("lastBoundary", bigint(env, result.last_boundary));
            out.Set("state", result.state ? to_value(env, *result.state) : env.Undefined());
            out.Set("stats", describe(env, result.log, state->durable()->load()));
            return out;
          });
    });
  }
  Napi::Value checkpoint(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<machine::StateDigest>(
          info, [](Recording& recording) { return recording.checkpoint(); },
          [](Napi::Env env, machine::StateDigest& digest) { return to_value(env, std::as_const(digest)); });
    });
  }
  Napi::Value retry(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<detail::None>(
          info,
          [](Recording& recording) {
            recording.retry();
            return detail::None{};
          },
          [](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
    });
  }
  Napi::Value stats(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return describe(info.Env(), made_.state->open()->stats(), durable()); });
  }
  Napi::Value failure(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      auto error = made_.state->open()->failure();
      if (!error) return info.Env().Undefined();
      return to_js(info.Env(), *error).Value();
    });
  }
  Napi::Value first_boundary(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return bigint(info.Env(), made_.state->open()->first_boundary()); });
  }
  Napi::Value suspects(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_value(info.Env(), made_.state->open()->suspects()); });
  }
  Napi::Value close(const Napi::CallbackInfo& info) { return shut_down(info, *env_, made_.state); }

  Made made_;
  std::shared_ptr<MachineEnv> env_;
};

log::WriterOptions read_writer_options(const Napi::Object& options) {
  log::WriterOptions out;
  uint64_t sync = size_of(options, "sync");
  if (sync > static_cast<uint64_t>(log::SyncPolicy::kAlways)) throw Error("EINVAL", "no such fsync policy");
  out.sync = static_cast<log::SyncPolicy>(sync);
  out.sync_interval = std::chrono::milliseconds(size_of(options, "syncIntervalMs"));
  out.commit_latency = std::chrono::microseconds(size_of(options, "commitLatencyUs"));
  out.commit_bytes = size_of(options, "commitBytes");
  out.buffer_bytes = size_of(options, "bufferBytes");
  out.full = flag_of(options, "failWhenFull") ? log::FullPolicy::kFail : log::FullPolicy::kWait;
  out.segment_bytes = size_of(options, "segmentBytes");
  return out;
}

replay::PlantedFaults read_faults(const Napi::Object& options) {
  replay::PlantedFaults faults;
  auto given = array_of(options, "faults");
  uint64_t* fields[] = {&faults.skip_input, &faults.shift_interrupt, &faults.flip_packet};
  for (uint32_t i = 0; i < std::size(fields) && i < given.Length(); ++i) {
    Napi::Value value = given.Get(i);
    if (value.IsNumber()) *fields[i] = static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
  }
  return faults;
}

// machine, directory, options, function to call when writing fails
Napi::Value record(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Env env = info.Env();
    auto target = machine_state(info[0]);
    auto machine = target->deterministic();
    Args args(info);
    std::string directory = args.text(1);
    auto given = object_of(info[2], "the options");
    auto options = read_writer_options(given);
    auto faults = read_faults(given);
    if (!info[3].IsFunction()) throw Error("EINVAL", "argument 4 must be a function");
    auto machines = machine_env(env);
    auto callback = std::make_shared<Callback>(machines, info[3].As<Napi::Function>());
    auto state = std::make_shared<RecordingState>();
    options.on_durable = [durable = state->durable()](uint64_t index) {
      durable->store(index, std::memory_order_release);
    };
    options.on_failure = [signal = callback->signal()](const Error&) { signal(0); };
    target->attach(state);
    machines->add(state);
    return run_async<detail::None>(
        env, state->thread(),
        [self = state.get(), machine = std::move(machine), directory = std::move(directory),
         options = std::move(options), faults] {
          self->adopt(Recording::start(machine, directory, options, faults));
          return detail::None{};
        },
        [state, callback](Napi::Env now, detail::None&) -> Napi::Value {
          RecordingHandle::Made made{state, callback};
          return env_data(now).slot<Classes>().recording.New(
              {Napi::External<RecordingHandle::Made>::New(now, &made)});
        });
  });
}

// ------------------------------------------------------------------------------------------------- replay

class ReplayHandle : public HandleOf<ReplayHandle, ReplayState> {
 public:
  using HandleOf::HandleOf;
  static Napi::Function define(Napi::Env env) {
    using H = ReplayHandle;
    return DefineClass(
        env, "NativeReplay",
        {InstanceMethod<&H::run>("run"), InstanceMethod<&H::cancel>("cancel"),
         InstanceMethod<&H::boundary>("boundary"), InstanceMethod<&H::first_boundary>("firstBoundary"),
         InstanceMethod<&H::last_boundary>("lastBoundary"), InstanceMethod<&H::header>("header"),
         InstanceMethod<&H::console>("console"), InstanceMethod<&H::memory_size>("memorySize"),
         InstanceMethod<&H::read_memory>("readMemory"), InstanceMethod<&H::registers>("registers"),
         InstanceMethod<&H::state_digest>("stateDigest"), InstanceMethod("close", &H::close)});
  }

 private:
  // to (or undefined: the log's end), back too?
  Napi::Value run(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      state_->open();
      Args args(info);
      std::optional<uint64_t> to;
      if (args.has(0)) to = args.u64(0);
      return on_thread<replay::ReplayResult>(
          info, [state = state_.get(), to, back = args.boolean(1)] { return state->run(to, back); },
          [](Napi::Env env, replay::ReplayResult& result) { return describe(env, result); });
    });
  }
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open();
      return run_async<detail::None>(
          info.Env(), env_->closer(),
          [state = state_] {
            state->cancel();
            return detail::None{};
          },
          [](Napi::Env env, detail::None&) -> Napi::Value { return env.Undefined(); });
    });
  }
  Napi::Value boundary(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return bigint(info.Env(), state_->open()->boundary()); });
  }
  Napi::Value first_boundary(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return bigint(info.Env(), state_->open()->first_boundary()); });
  }
  Napi::Value last_boundary(const Napi::CallbackInfo& info) {
    return optional_bigint(info.Env(), state_->last_boundary());
  }
  Napi::Value header(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return describe(info.Env(), state_->open()->header()); });
  }
  Napi::Value console(const Napi::CallbackInfo& info) {
    return to_value(info.Env(), state_->console()->take());
  }
  Napi::Value memory_size(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return number(info.Env(), state_->open()->machine()->config().memory_size); });
  }
  Napi::Value read_memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      state_->open()->machine()->read_memory(args.u64(0), args.view(1));
      return info.Env().Undefined();
    });
  }
  Napi::Value registers(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<machine::VcpuState>(
          info, [replay = state_->open()] { return replay->machine()->vcpu_state(); },
          [](Napi::Env env, machine::VcpuState& state) { return to_value(env, std::as_const(state)); });
    });
  }
  Napi::Value state_digest(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return on_thread<machine::StateDigest>(
          info, [replay = state_->open()] { return replay->machine()->state_digest(); },
          [](Napi::Env env, machine::StateDigest& digest) { return to_value(env, std::as_const(digest)); });
    });
  }
};

// device, directory, follow?, milliseconds that count as a stall
Napi::Value open_replay(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Args args(info);
    replay::ReplayOptions options;
    options.follow = args.boolean(2);
    options.stall = std::chrono::milliseconds(args.u32(3));
    auto state = std::make_shared<ReplayState>();
    machine_env(info.Env())->add(state);
    return run_async<detail::None>(
        info.Env(), state->thread(),
        [self = state.get(), device = args.text(0), directory = args.text(1), options] {
          std::optional<uint64_t> last;
          if (!options.follow) {
            auto blocks = log::Reader::open(directory)->index();
            if (!blocks.empty()) last = blocks.back().header.last_boundary;
          }
          self->adopt(Replay::open(kvm::System::open(device), directory, self->console(), options), last);
          return detail::None{};
        },
        [state](Napi::Env env, detail::None&) {
          return wrap(env, env_data(env).slot<Classes>().replay, state);
        });
  });
}

}  // namespace

void init_eventlog(Napi::Env env, Napi::Object exports) {
  auto& classes = env_data(env).slot<Classes>();
  classes.log = Napi::Persistent(LogHandle::define(env));
  classes.reader = Napi::Persistent(ReaderHandle::define(env));
  classes.recording = Napi::Persistent(RecordingHandle::define(env));
  classes.replay = Napi::Persistent(ReplayHandle::define(env));
  Napi::Object eventlog = Napi::Object::New(env);
  eventlog.Set("open", Napi::Function::New(env, open_log, "open"));
  eventlog.Set("record", Napi::Function::New(env, record, "record"));
  eventlog.Set("replay", Napi::Function::New(env, open_replay, "replay"));
  init_eventlog_writer(env, eventlog);
  exports.Set("eventlog", eventlog);
}

}  // namespace hypertwin::addon
