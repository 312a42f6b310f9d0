// From C++ exceptions to JavaScript errors: an Error object with the properties code, errno and call, which
// lib/errors.ts turns into its layer's class.
#pragma once

#include <napi.h>

#include <exception>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace hypertwin::addon {

Napi::Error to_js(Napi::Env env, const std::exception& error);
// Of a caught exception, whatever it is.
Napi::Error to_js(Napi::Env env, const std::exception_ptr& error);

// Runs `body`; what it throws arrives in JavaScript. For every function that JavaScript calls.
template <class F>
std::invoke_result_t<F> guarded(Napi::Env env, F&& body) {
  try {
    return std::forward<F>(body)();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw to_js(env, error);
  }
}

}  // namespace hypertwin::addon
