#include "libvirt/pool.h"

#include <atomic>
#include <exception>
#include <string>
#include <utility>

#include "libvirt/threads.h"

namespace hypertwin::libvirt {

namespace {

using Clock = std::chrono::steady_clock;

thread_local bool is_pool_thread = false;

std::string next_name() {
  static std::atomic<uint32_t> number{1};
  return "ht-virt" + std::to_string(number++);
}

}  // namespace

struct Pool::State {
  struct Waiting {
    Task task;
    Clock::time_point since;
  };
  struct LaneState {
    std::deque<Waiting> waiting;
    std::condition_variable wake;
    size_t threads = 0;
    size_t idle = 0;
  };

  explicit State(PoolOptions o) : options(o) {}
  LaneState& of(Lane lane) { return lanes[static_cast<size_t>(lane)]; }
  bool empty() const {
    for (const LaneState& lane : lanes)
      if (!lane.waiting.empty() || lane.idle != lane.threads) return false;
    return true;
  }

  const PoolOptions options;
  mutable std::mutex mutex;  // guards all below
  LaneState lanes[2];
  bool stopping = false;
  bool watched = false;             // the watching thread is there
  std::condition_variable watch;    // tells it that quick work waits
  std::condition_variable settled;  // tells stop() and drain()
};

Pool::Pool(PoolOptions options) : state_(std::make_shared<State>(options)) {}

Pool::~Pool() { stop(); }

bool Pool::post(Lane lane, Task task) {
  State::LaneState& mine = state_->of(lane);
  std::lock_guard lock(state_->mutex);
  if (state_->stopping) return false;
  mine.waiting.push_back({std::move(task), Clock::now()});
  const PoolOptions& options = state_->options;
  if (mine.idle >= mine.waiting.size())
    mine.wake.notify_one();
  else if (mine.threads < (lane == Lane::slow ? options.slow_threads : options.eager_threads))
    grow(state_, lane);
  else if (lane == Lane::quick && mine.threads < options.quick_threads)
    watch(state_);
  return true;
}

void Pool::grow(const std::shared_ptr<State>& state, Lane lane) {
  // Counted before it runs. Without memory for a thread the work is left to those that are there.
  ++state->of(lane).threads;
  try {
    start_thread(next_name(), [state, lane] { work(state, lane); });
  } catch (const std::exception&) {
    --state->of(lane).threads;
  }
}

void Pool::work(const std::shared_ptr<State>& state, Lane lane) {
  is_pool_thread = true;
  State::LaneState& mine = state->of(lane);
  std::unique_lock lock(state->mutex);
  for (;;) {
    if (mine.waiting.empty()) {
      ++mine.idle;
      if (state->empty()) state->settled.notify_all();
      const bool told = mine.wake.wait_for(lock, state->options.idle,
                                           [&] { return state->stopping || !mine.waiting.empty(); });
      --mine.idle;
      if (mine.waiting.empty() && (!told || state->stopping)) break;
      continue;
    }
    Task task = std::move(mine.waiting.front().task);
    mine.waiting.pop_front();
    lock.unlock();
    park_at_exit();
    task();
    task = nullptr;
    lock.lock();
  }
  --mine.threads;
  state->settled.notify_all();
}

// One thread watches whether quick work waits for too long: then those that run are blocked, and it starts
// another.
void Pool::watch(const std::shared_ptr<State>& state) {
  if (state->watched) {
    state->watch.notify_one();
    return;
  }
  state->watched = true;
  try {
    start_thread("ht-virt-watch", [state] {
      State::LaneState& quick = state->of(Lane::quick);
      std::unique_lock lock(state->mutex);
      while (!state->stopping) {
        if (quick.waiting.empty() || quick.threads >= state->options.quick_threads) {
          state->watch.wait(lock);
          continue;
        }
        const auto due = quick.waiting.front().since + state->options.patience;
        if (Clock::now() >= due) {
          const size_t before = quick.threads;
          grow(state, Lane::quick);
          // The new one needs its time to come; where there is none, so does the system.
          const auto pause = state->options.patience * (quick.threads > before ? 1 : 100);
          state->watch.wait_for(lock, pause, [&] { return state->stopping; });
        } else {
          state->watch.wait_until(lock, due, [&] { return state->stopping; });
        }
      }
      state->watched = false;
      state->settled.notify_all();
    });
  } catch (const std::exception&) {
    state->watched = false;
  }
}

void Pool::stop() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->watch.notify_all();
  for (State::LaneState& lane : state_->lanes) lane.wake.notify_all();
  state_->settled.wait(lock, [this] {
    return !state_->watched && state_->lanes[0].threads == 0 && state_->lanes[1].threads == 0;
  });
}

void Pool::drain() {
  std::unique_lock lock(state_->mutex);
  state_->settled.wait(lock, [this] { return state_->empty(); });
}

PoolStats Pool::stats() const {
  std::lock_guard lock(state_->mutex);
  PoolStats out;
  for (size_t i = 0; i < 2; ++i) {
    out.threads[i] = state_->lanes[i].threads;
    out.idle[i] = state_->lanes[i].idle;
    out.waiting[i] = state_->lanes[i].waiting.size();
  }
  return out;
}

Pool& pool() {
  static Pool& one = *std::make_unique<Pool>().release();
  return one;
}

bool on_pool() { return is_pool_thread; }

}  // namespace hypertwin::libvirt
