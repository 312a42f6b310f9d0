// The pool of libvirt's calls: it grows where calls block, keeps to its maximum, shrinks, stops.
#include "libvirt/pool.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace hypertwin::libvirt {
namespace {

using namespace std::chrono_literals;

constexpr size_t kQuick = 0, kSlow = 1, kStream = 2;

TEST(LibvirtPool, RunsTasksOnNamedThreads) {
  Pool pool;
  std::promise<std::string> name;
  EXPECT_FALSE(on_pool());
  ASSERT_TRUE(pool.post(Lane::quick, [&] {
    char buffer[16] = {};
    pthread_getname_np(pthread_self(), buffer, sizeof buffer);
    name.set_value(on_pool() ? buffer : "not on the pool");
  }));
  EXPECT_EQ(name.get_future().get().substr(0, 7), "ht-virt");
}

TEST(LibvirtPool, StartsTasksInOrder) {
  Pool pool({.quick_threads = 1});
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) pool.post(Lane::quick, [&order, i] { order.push_back(i); });
  pool.drain();
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

// All block until all have begun: fewer threads than tasks would hang.
TEST(LibvirtPool, GrowsWhereQuickCallsBlock) {
  Pool pool({.quick_threads = 32});
  std::atomic<int> begun{0};
  std::promise<void> all;
  std::shared_future<void> go = all.get_future().share();
  for (int i = 0; i < 32; ++i)
    pool.post(Lane::quick, [&, go] {
      if (++begun == 32) all.set_value();
      go.wait();
    });
  pool.drain();
  EXPECT_EQ(begun, 32);
  EXPECT_EQ(pool.stats().threads[kQuick], 32u);
  EXPECT_EQ(pool.stats().threads[kSlow], 0u);
}

TEST(LibvirtPool, GrowsWhereCallsBlockAfterShortOnes) {
  Pool pool({.quick_threads = 16});
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> ran{0};
    for (int i = 0; i < 2000; ++i) pool.post(Lane::quick, [&] { ++ran; });
    std::atomic<int> begun{0};
    std::promise<void> all;
    std::shared_future<void> go = all.get_future().share();
    for (int i = 0; i < 16; ++i)
      pool.post(Lane::quick, [&, go] {
        if (++begun == 16) all.set_value();
        go.wait();
      });
    pool.drain();
    EXPECT_EQ(ran, 2000);
    EXPECT_EQ(begun, 16);
  }
}

// Each posted when the one before has ended.
TEST(LibvirtPool, RunsCallsOneByOne) {
  Pool pool;
  int ran = 0;
  for (int i = 0; i < 2000; ++i) {
    std::promise<void> done;
    ASSERT_TRUE(pool.post(Lane::quick, [&] {
      ++ran;
      done.set_value();
    }));
    done.get_future().wait();
  }
  EXPECT_EQ(ran, 2000);
}

TEST(LibvirtPool, SlowCallsDoNotHoldUpQuickOnes) {
  Pool pool({.quick_threads = 1, .slow_threads = 4});
  std::promise<void> end;
  std::shared_future<void> ended = end.get_future().share();
  for (int i = 0; i < 4; ++i) pool.post(Lane::slow, [ended] { ended.wait(); });
  std::atomic<bool> ran{false};
  pool.post(Lane::slow, [&] { ran = true; });
  std::promise<void> quick;
  pool.post(Lane::quick, [&] { quick.set_value(); });
  quick.get_future().wait();
  while (pool.stats().waiting[kSlow] > 1) std::this_thread::yield();
  EXPECT_EQ(pool.stats().waiting[kSlow], 1u);
  EXPECT_EQ(pool.stats().threads[kSlow], 4u);
  EXPECT_FALSE(ran) << "a fifth slow one while there are four threads";
  end.set_value();
  pool.drain();
  EXPECT_TRUE(ran);
}

// Streams whose other side is silent: theirs is the only lane that fills up.
TEST(LibvirtPool, StreamsHoldUpNobody) {
  Pool pool({.quick_threads = 2, .slow_threads = 2, .stream_threads = 3});
  std::promise<void> end;
  std::shared_future<void> ended = end.get_future().share();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(pool.post(Lane::stream, [ended] { ended.wait(); }));
  for (const Lane lane : {Lane::quick, Lane::slow}) {
    std::promise<void> ran;
    ASSERT_TRUE(pool.post(lane, [&] { ran.set_value(); }));
    ran.get_future().wait();
  }
  while (pool.stats().waiting[kStream] > 7) std::this_thread::yield();
  EXPECT_EQ(pool.stats().threads[kStream], 3u);
  end.set_value();
  pool.drain();
}

TEST(LibvirtPool, RefusesWhatNoThreadCanRun) {
  bool there = false;
  Pool pool({.start = [&](const std::string& name, std::function<void()> run) {
    if (!there) throw std::system_error(EAGAIN, std::generic_category());
    start_thread(name, std::move(run));
  }});
  bool ran = false;
  for (const Lane lane : {Lane::quick, Lane::slow, Lane::stream}) {
    auto held = std::make_shared<int>(0);
    const std::weak_ptr<int> dropped = held;
    EXPECT_FALSE(pool.post(lane, [&ran, held = std::move(held)] { ran = true; }));
    EXPECT_TRUE(dropped.expired());
  }
  EXPECT_EQ(pool.stats().waiting[kQuick] + pool.stats().waiting[kSlow] + pool.stats().waiting[kStream], 0u);
  EXPECT_FALSE(ran);
  there = true;
  std::promise<void> blocking, go;
  ASSERT_TRUE(pool.post(Lane::slow, [&] {
    blocking.set_value();
    go.get_future().wait();
  }));
  blocking.get_future().wait();
  there = false;
  EXPECT_TRUE(pool.post(Lane::slow, [&] { ran = true; })) << "one that is there will come to it";
  go.set_value();
  pool.drain();
  EXPECT_TRUE(ran);
}

TEST(LibvirtPool, KeepsToItsMaximum) {
  Pool pool({.quick_threads = 3});
  std::atomic<int> now{0}, most{0};
  for (int i = 0; i < 200; ++i)
    pool.post(Lane::quick, [&] {
      const int here = ++now;
      for (int seen = most; here > seen && !most.compare_exchange_weak(seen, here);) {
      }
      std::this_thread::sleep_for(1ms);
      --now;
    });
  pool.drain();
  EXPECT_LE(most, 3);
  EXPECT_GT(most, 1);
}

TEST(LibvirtPool, ShrinksWhenIdle) {
  Pool pool({.idle = 5ms});
  for (int i = 0; i < 8; ++i) pool.post(Lane::slow, [] { std::this_thread::sleep_for(1ms); });
  while (pool.stats().threads[kSlow] > 0) std::this_thread::yield();
  std::promise<void> again;
  ASSERT_TRUE(pool.post(Lane::slow, [&] { again.set_value(); }));
  again.get_future().wait();
}

TEST(LibvirtPool, StopRunsWhatWaitsAndTakesNoMore) {
  Pool pool({.quick_threads = 1});
  int ran = 0;
  for (int i = 0; i < 100; ++i) pool.post(Lane::quick, [&] { ++ran; });
  pool.stop();
  EXPECT_EQ(ran, 100);
  EXPECT_FALSE(pool.post(Lane::quick, [&] { ++ran; }));
  EXPECT_FALSE(pool.post(Lane::slow, [&] { ++ran; }));
  pool.stop();
  EXPECT_EQ(ran, 100);
  EXPECT_EQ(pool.stats().threads[kQuick] + pool.stats().threads[kSlow], 0u);
}

TEST(LibvirtPool, ManyThreadsMayPost) {
  Pool pool({.quick_threads = 4});
  std::atomic<int> ran{0};
  std::vector<std::thread> posters;
  for (int i = 0; i < 4; ++i)
    posters.emplace_back([&] {
      for (int n = 0; n < 2000; ++n) pool.post(n % 16 ? Lane::quick : Lane::slow, [&] { ++ran; });
    });
  for (std::thread& one : posters) one.join();
  pool.drain();
  EXPECT_EQ(ran, 8000);
}

}  // namespace
}  // namespace hypertwin::libvirt
