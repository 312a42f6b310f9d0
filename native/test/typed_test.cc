// What is typed to a machine whose memory has not come: who types does not wait for it.
#include "machine/typed.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <string>

namespace hypertwin::machine {
namespace {

std::span<const uint8_t> bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(Typed, IsAddedWhileTheConsoleWaits) {
  Typed typed;
  EXPECT_TRUE(typed.add(bytes("first")));
  std::promise<void> begun, go_on;
  std::string got;
  auto taken = std::async(std::launch::async, [&] {
    typed.take(3, [&](std::span<const uint8_t> some) {
      begun.set_value();
      go_on.get_future().wait();
      got.assign(some.begin(), some.end());
      return some.size();
    });
  });
  begun.get_future().wait();
  auto added = std::async(std::launch::async, [&] { return typed.add(bytes(", second")); });
  EXPECT_EQ(added.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  go_on.set_value();
  taken.get();
  EXPECT_TRUE(added.get());
  EXPECT_EQ(got, "fir");
  typed.take(100, [&](std::span<const uint8_t> some) {
    got.append(some.begin(), some.end());
    return some.size() - 1;
  });
  EXPECT_EQ(got, "first, second");
  typed.take(100, [&](std::span<const uint8_t> some) {
    got.append(some.begin(), some.end());
    return some.size();
  });
  EXPECT_EQ(got, "first, secondd") << "what was not taken comes again";
}

TEST(Typed, IsBounded) {
  Typed typed;
  EXPECT_TRUE(typed.add(std::vector<uint8_t>(Typed::kMax - 1)));
  EXPECT_FALSE(typed.add(bytes("ab")));
  EXPECT_TRUE(typed.add(bytes("a")));
  EXPECT_FALSE(typed.add(bytes("a")));
}

}  // namespace
}  // namespace hypertwin::machine
