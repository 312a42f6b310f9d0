// The class behind lib/dirty: a tracker whose work runs on the environment's thread `ht-dirty`. Converts and
// forwards.
#include <napi.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "async.h"
#include "base/executor.h"
#include "dirty/probe.h"
#include "dirty/tracker.h"
#include "dirty_target.h"
#include "env.h"
#include "errors.h"
#include "kvm_args.h"

namespace hypertwin::addon {
namespace {

// A tracker until closed. On the thread `ht-dirty`, but mark().
struct TrackerState {
  std::mutex mutex;  // guards all below
  std::unique_ptr<dirty::Tracker> tracker;
  std::shared_ptr<devices::GuestRam> ram;
  dirty::Harvest spare;  // buffers for the next harvest

  dirty::Tracker& open() {
    std::lock_guard lock(mutex);
    if (!tracker) throw Error("CLOSED", "the tracker is closed");
    return *tracker;
  }
  dirty::Harvest next() {
    dirty::Harvest harvest;
    {
      std::lock_guard lock(mutex);
      harvest = std::move(spare);
    }
    open().harvest(harvest);
    return harvest;
  }
  void give_back(dirty::Harvest harvest) {
    std::lock_guard lock(mutex);
    spare = std::move(harvest);
  }
  void close() {
    std::unique_ptr<dirty::Tracker> last;
    {
      std::lock_guard lock(mutex);
      last = std::move(tracker);
      ram = nullptr;
    }
    if (last) last->stop();
  }
};

struct DirtyEnv {
  base::Executor thread{"ht-dirty"};
  std::vector<std::weak_ptr<TrackerState>> trackers;  // the JavaScript thread only
};

struct Classes {
  Napi::FunctionReference tracker;
};

// Made at first use, with its thread.
const std::shared_ptr<DirtyEnv>& dirty_env(Napi::Env env) {
  EnvData& data = env_data(env);
  auto& found = data.slot<std::shared_ptr<DirtyEnv>>();
  if (!found) {
    found = std::make_shared<DirtyEnv>();
    // What KVM is asked to do here can wait for a vCPU, and that for a page: once the machines are closed
    // none does.
    data.on_last_teardown([dirty = found] {
      dirty->thread.stop();
      for (auto& weak : dirty->trackers)
        if (auto state = weak.lock()) state->close();
    });
  }
  return found;
}

// Memory of a VM whose owner has no GuestRam of its own: the slots of its first address space.
std::shared_ptr<devices::GuestRam> ram_of(const kvm::Vm& vm) {
  std::vector<devices::GuestRam::Region> regions;
  for (const kvm::Slot& memory : vm.slots())
    if (memory.slot >> 16 == 0)
      regions.push_back(
          {memory.guest_address, memory.size, memory.memory->data() + memory.offset, memory.slot});
  return std::make_shared<devices::GuestRam>(std::move(regions));
}

Napi::Value to_value(Napi::Env env, const dirty::Harvest& harvest) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("pages", Napi::Number::New(env, static_cast<double>(harvest.pages)));
  out.Set("sequence", Napi::Number::New(env, static_cast<double>(harvest.sequence)));
  out.Set("startedNs", Napi::BigInt::New(env, harvest.started_ns));
  out.Set("endedNs", Napi::BigInt::New(env, harvest.ended_ns));
  Napi::Array slots = Napi::Array::New(env, harvest.slots.size());
  for (uint32_t i = 0; i < harvest.slots.size(); ++i) {
    const dirty::SlotHarvest& from = harvest.slots[i];
    Napi::Object one = Napi::Object::New(env);
    one.Set("slot", Napi::Number::New(env, from.slot));
    one.Set("guestAddress", Napi::BigInt::New(env, from.guest_address));
    one.Set("pageCount", Napi::Number::New(env, static_cast<double>(from.page_count)));
    one.Set("pages", Napi::Number::New(env, static_cast<double>(from.pages)));
    auto buffer = Napi::ArrayBuffer::New(env, from.bitmap.size() * sizeof(uint64_t));
    std::memcpy(buffer.Data(), from.bitmap.data(), from.bitmap.size() * sizeof(uint64_t));
    one.Set("bitmap", buffer);
    slots.Set(i, one);
  }
  out.Set("slots", slots);
  return out;
}

class TrackerHandle : public Napi::ObjectWrap<TrackerHandle> {
 public:
  explicit TrackerHandle(const Napi::CallbackInfo& info) : ObjectWrap(info), env_(dirty_env(info.Env())) {
    if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use the functions of hypertwin/dirty");
    state_ = *info[0].As<Napi::External<std::shared_ptr<TrackerState>>>().Data();
  }
  // The last use is the thread's, if it still runs.
  ~TrackerHandle() override {
    env_->thread.post([state = std::move(state_)]() mutable { state = nullptr; });
  }
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeDirtyTracker",
                       {InstanceMethod<&TrackerHandle::harvest>("harvest"),
                        InstanceMethod<&TrackerHandle::mark_written>("markWritten"),
                        InstanceMethod<&TrackerHandle::plant_skipped_page>("plantSkippedPage"),
                        InstanceMethod<&TrackerHandle::close>("close")});
  }

 private:
  Napi::Value harvest(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open();
      return run_async<dirty::Harvest>(
          info.Env(), env_->thread, [state = state_] { return state->next(); },
          [state = state_](Napi::Env env, dirty::Harvest& harvest) {
            Napi::Value value = to_value(env, harvest);
            state->give_back(std::move(harvest));
            return value;
          });
    });
  }
  // guest address, size
  Napi::Value mark_written(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      Args args(info);
      state_->open();
      std::shared_ptr<devices::GuestRam> ram;
      {
        std::lock_guard lock(state_->mutex);
        ram = state_->ram;
      }
      uint64_t address = args.u64(0), size = args.u64(1);
      if (!ram || !ram->contains(address, size))
        throw Error("ERANGE", "what was written is not all guest memory");
      ram->mark_written(address, size);
      return info.Env().Undefined();
    });
  }
  Napi::Value plant_skipped_page(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      state_->open().plant_skipped_page();
      return info.Env().Undefined();
    });
  }
  Napi::Value close(const Napi::CallbackInfo& info) {
    return run_async(info.Env(), env_->thread, [state = state_] { state->close(); });
  }

  std::shared_ptr<TrackerState> state_;
  std::shared_ptr<DirtyEnv> env_;
};

// target, mode, slots (empty: all), everything first
Napi::Value attach(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    Args args(info);
    dirty::Target target = dirty_target(info[0]);
    dirty::Tracker::Options options;
    options.mode = dirty::mode_from(args.text(1));
    if (!info[2].IsArray()) throw Error("EINVAL", "slots must be an array");
    auto slots = info[2].As<Napi::Array>();
    for (uint32_t i = 0; i < slots.Length(); ++i) {
      Napi::Value number = slots.Get(i);
      if (!number.IsNumber()) throw Error("EINVAL", "a slot must be a number");
      options.slots.push_back(number.As<Napi::Number>().Uint32Value());
    }
    options.everything_first = args.boolean(3);
    auto state = std::make_shared<TrackerState>();
    DirtyEnv& dirty = *dirty_env(env);
    std::erase_if(dirty.trackers, [](const auto& weak) { return weak.expired(); });
    dirty.trackers.push_back(state);
    return run_async<std::shared_ptr<TrackerState>>(
        env, dirty.thread,
        [state, target = std::move(target), options = std::move(options)]() mutable {
          if (!target.ram) target.ram = ram_of(*target.vm);
          auto ram = target.ram;
          auto tracker = std::make_unique<dirty::Tracker>(std::move(target), std::move(options));
          tracker->start();
          std::lock_guard lock(state->mutex);
          state->tracker = std::move(tracker);
          state->ram = std::move(ram);
          return state;
        },
        [](Napi::Env now, std::shared_ptr<TrackerState>& made) -> Napi::Value {
          return env_data(now).slot<Classes>().tracker.New(
              {Napi::External<std::shared_ptr<TrackerState>>::New(now, &made)});
        });
  });
}

// The target's ring in bytes, 0 when off; how the mode is bound.
Napi::Value ring_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), dirty_target(info[0]).vm->dirty_ring_bytes());
  });
}

// mode, CPL 3?: blocks, and may never return. For a process that can be killed.
Napi::Value probe(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Args args(info);
    auto result = dirty::probe(kvm::System::open(), dirty::mode_from(args.text(0)), args.boolean(1));
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("works", Napi::Boolean::New(info.Env(), result.works));
    out.Set("reason", Napi::String::New(info.Env(), result.reason));
    return out;
  });
}

}  // namespace

void init_dirty(Napi::Env env, Napi::Object exports) {
  env_data(env).slot<Classes>().tracker = Napi::Persistent(TrackerHandle::define(env));
  Napi::Object dirty = Napi::Object::New(env);
  dirty.Set("attach", Napi::Function::New(env, attach, "attach"));
  dirty.Set("ringBytes", Napi::Function::New(env, ring_bytes, "ringBytes"));
  dirty.Set("probe", Napi::Function::New(env, probe, "probe"));
  exports.Set("dirty", dirty);
}

}  // namespace hypertwin::addon
