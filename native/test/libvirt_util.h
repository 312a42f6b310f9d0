// What tests of native/core/libvirt share: the real library, its test driver, and how it is skipped without.
#pragma once

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "libvirt/auth.h"
#include "libvirt/call.h"
#include "libvirt/handle.h"
#include "libvirt/loader.h"
#include "libvirt/pool.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt::test {

class Libvirt : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      loader().load();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    pool().drain();
    before_ = handle_count();
  }
  // Every test gives back what it took.
  void TearDown() override {
    if (IsSkipped()) return;
    pool().drain();
    EXPECT_EQ(handle_count(), before_);
  }

 private:
  size_t before_ = 0;
};

inline std::shared_ptr<Handle> open_test() { return open_connection("test:///default", 0, {}, nullptr); }

inline Value call(const char* name, const std::vector<Value>& arguments) {
  const Function* function = find_function(name);
  if (!function) throw Error("ENOENT", std::string("the table has no ") + name);
  return Call(*function, arguments).run();
}

inline Value of(const std::shared_ptr<Handle>& handle) { return Value(HandleValue{handle->type(), handle}); }
inline Value text(const char* value) { return Value(std::string(value)); }
inline Value number(double value) { return Value(value); }

inline std::shared_ptr<Handle> handle_in(const Value& value) {
  const auto* handle = value.as<HandleValue>();
  return handle ? handle->handle : nullptr;
}

// The code and message of the Error that `body` throws.
template <class F>
std::pair<std::string, std::string> failure(F&& body) {
  try {
    body();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {"", "it threw nothing"};
}

}  // namespace hypertwin::libvirt::test
