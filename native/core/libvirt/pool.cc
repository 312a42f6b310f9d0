#include "libvirt/pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <iterator>
#include <string>
#include <utility>

namespace hypertwin::libvirt {

namespace {

thread_local bool is_pool_thread = false;

std::string next_name() {
  static std::atomic<uint32_t> number{1};
  return "ht-virt" + std::to_string(number++);
}

}  // namespace

// While work waits one thread more is on its way to it, and only one: when it has taken its task it calls the
// next before it runs that. So calls that block get a thread each, short ones are done by the few that are
// awake, and who posts wakes nobody most of the time.
struct Pool::LaneState {
  std::deque<Task> waiting;
  std::condition_variable wake;
  size_t threads = 0;
  size_t idle = 0;    // they sleep
  size_t called = 0;  // woken or started, and not there yet
};

struct Pool::State {
  explicit State(PoolOptions o) : options(o) {}
  LaneState& of(Lane lane) { return lanes[static_cast<size_t>(lane)]; }
  size_t most(Lane lane) const {
    return lane == Lane::quick  ? options.quick_threads
           : lane == Lane::slow ? options.slow_threads
                                : options.stream_threads;
  }
  bool empty() const {
    return std::all_of(std::begin(lanes), std::end(lanes), [](const LaneState& lane) {
      return lane.waiting.empty() && lane.idle == lane.threads;
    });
  }

  const PoolOptions options;
  mutable std::mutex mutex;  // guards all below
  LaneState lanes[kLanes];
  bool stopping = false;
  std::condition_variable settled;  // tells stop() and drain()
};

Pool::Pool(PoolOptions options) : state_(std::make_shared<State>(options)) {}

Pool::~Pool() { stop(); }

bool Pool::post(Lane lane, Task task) {
  LaneState& mine = state_->of(lane);
  std::unique_lock lock(state_->mutex);
  if (state_->stopping) return false;
  mine.waiting.push_back(std::move(task));
  const bool woken = call(state_, lane);
  if (mine.threads == 0) {
    task = std::move(mine.waiting.back());  // destroyed without the lock
    mine.waiting.pop_back();
    return false;
  }
  lock.unlock();
  // Without the lock, which the one that wakes needs.
  if (woken) mine.wake.notify_one();
  return true;
}

bool Pool::call(const std::shared_ptr<State>& state, Lane lane) {
  LaneState& mine = state->of(lane);
  if (mine.called > 0 || mine.waiting.empty()) return false;
  if (mine.idle > 0) {
    --mine.idle;
    ++mine.called;
    return true;
  }
  if (mine.threads == state->most(lane)) return false;
  // Counted before it runs. Where the system gives none the work is left to those that are there.
  ++mine.threads;
  ++mine.called;
  try {
    state->options.start(next_name(), [state, lane] { work(state, lane); });
  } catch (const std::exception&) {
    --mine.threads;
    --mine.called;
  }
  return false;
}

void Pool::work(const std::shared_ptr<State>& state, Lane lane) {
  is_pool_thread = true;
  LaneState& mine = state->of(lane);
  std::unique_lock lock(state->mutex);
  // One that ran may have answered the call meanwhile; then this one counts as asleep.
  --(mine.called > 0 ? mine.called : mine.idle);
  for (;;) {
    if (mine.waiting.empty()) {
      if (state->stopping) break;
      ++mine.idle;
      if (state->empty()) state->settled.notify_all();
      const bool told =
          mine.wake.wait_for(lock, state->options.idle, [&] { return state->stopping || mine.called > 0; });
      if (mine.called > 0) {
        --mine.called;
        continue;
      }
      --mine.idle;
      if (!told) break;
      continue;
    }
    Task task = std::move(mine.waiting.front());
    mine.waiting.pop_front();
    const bool woken = call(state, lane);
    lock.unlock();
    if (woken) mine.wake.notify_one();
    {
      const Working working(Working::Kind::call);
      task();
      task = nullptr;
    }
    lock.lock();
  }
  --mine.threads;
  state->settled.notify_all();
}

void Pool::stop() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  for (LaneState& lane : state_->lanes) lane.wake.notify_all();
  state_->settled.wait(lock, [this] {
    return std::all_of(std::begin(state_->lanes), std::end(state_->lanes),
                       [](const LaneState& lane) { return lane.threads == 0; });
  });
}

void Pool::drain() {
  std::unique_lock lock(state_->mutex);
  state_->settled.wait(lock, [this] { return state_->empty(); });
}

PoolStats Pool::stats() const {
  std::lock_guard lock(state_->mutex);
  PoolStats out;
  for (size_t i = 0; i < kLanes; ++i) {
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

Error no_thread() {
  return Error(
      "EAGAIN",
      "the system gives no thread for a call of libvirt's: end other processes, or raise the limit of "
      "tasks (`ulimit -u`, the control group's pids.max)");
}

bool on_pool() { return is_pool_thread; }

}  // namespace hypertwin::libvirt
