// For tests of what is refused.
#pragma once

#include <string>

#include "base/error.h"

namespace hypertwin {

// The code of the Error that `call` throws, or "none".
std::string code_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "none";
}

}  // namespace hypertwin
