// Executor: order, the stop, and that nothing runs after it.
#include "base/executor.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <future>
#include <memory>
#include <vector>

using hypertwin::base::Executor;

TEST(Executor, RunsTasksInOrderOnItsNamedThread) {
  Executor executor("ht-test");
  std::vector<int> order;
  std::promise<std::string> name;
  for (int i = 0; i < 100; ++i) executor.post([&order, i] { order.push_back(i); });
  executor.post([&] {
    EXPECT_TRUE(executor.on_thread());
    char buffer[16] = {};
    pthread_getname_np(pthread_self(), buffer, sizeof buffer);
    name.set_value(buffer);
  });
  EXPECT_EQ(name.get_future().get(), "ht-test");
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_FALSE(executor.on_thread());
}

TEST(Executor, StopDestroysWaitingTasksUnrun) {
  Executor executor("ht-test");
  std::promise<void> started, go;
  auto alive = std::make_shared<int>(0);
  std::atomic<bool> ran{false};
  executor.post([&] {
    started.set_value();
    go.get_future().wait();
  });
  executor.post([&ran, alive] { ran = true; });
  started.get_future().wait();
  std::thread stopper([&] { executor.stop(); });
  while (executor.post([] {})) std::this_thread::yield();
  go.set_value();
  stopper.join();
  EXPECT_FALSE(ran);
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_FALSE(executor.post([] {}));
  executor.stop();
}

TEST(Executor, TaskMayStopItsOwnExecutor) {
  Executor executor("ht-test");
  std::promise<void> done;
  executor.post([&] {
    executor.stop();
    done.set_value();
  });
  done.get_future().wait();
  EXPECT_FALSE(executor.post([] {}));
}
