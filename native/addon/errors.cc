#include "errors.h"

#include <new>

namespace hypertwin::addon {

namespace {
Napi::Error make(Napi::Env env, const char* message, const std::string& code, int err,
                 const std::string& call) {
  Napi::Error result = Napi::Error::New(env, message);
  Napi::Object object = result.Value();
  object.Set("code", Napi::String::New(env, code));
  if (err != 0) object.Set("errno", Napi::Number::New(env, err));
  if (!call.empty()) object.Set("call", Napi::String::New(env, call));
  return result;
}
}  // namespace

Napi::Error to_js(Napi::Env env, const std::exception& error) {
  if (const auto* ours = dynamic_cast<const Error*>(&error))
    return make(env, ours->what(), ours->code(), ours->err(), ours->call());
  if (dynamic_cast<const std::bad_alloc*>(&error)) return make(env, "out of memory", "ENOMEM", 0, "");
  return make(env, error.what(), "EINTERNAL", 0, "");
}

Napi::Error to_js(Napi::Env env, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Napi::Error& js) {
    return js;
  } catch (const std::exception& known) {
    return to_js(env, known);
  } catch (...) {
    return make(env, "an unknown native error", "EINTERNAL", 0, "");
  }
}

}  // namespace hypertwin::addon
