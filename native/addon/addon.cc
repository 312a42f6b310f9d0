// The module's entry: one EnvData an environment, then each part adds its functions and classes.
#include <napi.h>

#include <memory>

#include "env.h"

namespace hypertwin::addon {

void init_base(Napi::Env env, Napi::Object exports);
void init_kvm(Napi::Env env, Napi::Object exports);
void init_dirty(Napi::Env env, Napi::Object exports);
void init_machine(Napi::Env env, Napi::Object exports);
void init_eventlog(Napi::Env env, Napi::Object exports);
void init_migrate(Napi::Env env, Napi::Object exports);
void init_ha(Napi::Env env, Napi::Object exports);
void init_libvirt(Napi::Env env, Napi::Object exports);
void init_nbd(Napi::Env env, Napi::Object exports);

}  // namespace hypertwin::addon

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  using namespace hypertwin::addon;
  env.SetInstanceData(std::make_unique<EnvData>(env).release());
  init_base(env, exports);
  init_kvm(env, exports);
  init_dirty(env, exports);
  init_machine(env, exports);
  init_eventlog(env, exports);
  init_migrate(env, exports);
  init_ha(env, exports);
  init_libvirt(env, exports);
  init_nbd(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(hypertwin, init)
