// What the addon says of itself, and a native thread to try promises on.
#include <napi.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "async.h"
#include "base/executor.h"
#include "base/fd.h"
#include "env.h"
#include "errors.h"

namespace hypertwin::addon {

namespace {

struct SelfTest {
  std::unique_ptr<base::Executor> executor;
};

// (value, milliseconds, errno): resolves with value after that time on a native thread; rejects with that
// errno's error unless it is 0.
Napi::Value self_test(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    double value = info[0].ToNumber().DoubleValue();
    uint32_t milliseconds = info[1].ToNumber().Uint32Value();
    int err = info[2].ToNumber().Int32Value();
    EnvData& data = env_data(env);
    auto& self = data.slot<SelfTest>();
    if (!self.executor) {
      self.executor = std::make_unique<base::Executor>("ht-selftest");
      data.on_teardown([&self] { self.executor.reset(); });
    }
    return run_async<double>(
        env, *self.executor,
        [value, milliseconds, err] {
          std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
          if (err != 0) throw Error::system(err, "selftest", "trying the way of an error");
          return value;
        },
        [](Napi::Env now, double& result) -> Napi::Value { return Napi::Number::New(now, result); });
  });
}

// (descriptor): whether its file is locked by it now.
Napi::Value try_lock_file(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), try_lock(info[0].ToNumber().Int32Value()));
  });
}

}  // namespace

void init_base(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::String::New(env, HYPERTWIN_VERSION));
  exports.Set("tryLock", Napi::Function::New(env, try_lock_file, "tryLock"));
  exports.Set("selfTest", Napi::Function::New(env, self_test, "selfTest"));
}

}  // namespace hypertwin::addon
