#include "libvirt/pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <iterator>
#include <list>
#include <string>
#include <utility>

namespace hypertwin::libvirt {

namespace {

using Clock = std::chrono::steady_clock;

// With more long calls than that nothing is left to those who run.
constexpr double kMostLong = 0.3;

thread_local bool is_pool_thread = false;

std::string next_name() {
  static std::atomic<uint32_t> number{1};
  return "ht-virt" + std::to_string(number++);
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until `count` is no longer `seen`, or the time is over. It does not yield: on a busy host that would be for
// longer than it lingers.
void linger(const std::atomic<uint64_t>& count, uint64_t seen, std::chrono::microseconds most) {
  const Clock::time_point end = Clock::now() + most;
  while (count.load(std::memory_order_relaxed) == seen && Clock::now() < end)
    for (int i = 0; i < 16; ++i) relax();
}

}  // namespace

struct Pool::LaneState {
  struct Waiting {
    Task task;
    Clock::time_point since;
  };
  std::deque<Waiting> waiting;
  std::condition_variable wake;
  size_t threads = 0;
  size_t idle = 0;    // they sleep
  size_t called = 0;  // they were woken, and do not know it yet
  // One without work is awake; it pays when work comes soon after another; since when all slept.
  bool lingering = false;
  bool linger_pays = false;
  Clock::time_point asleep;
  // For it to look at without the lock: how many tasks there have been.
  std::atomic<uint64_t> posted{0};
  // When those that run were begun, in order.
  std::list<Clock::time_point> running;
  // Of late: the share of calls that took longer than it is worth to wake a thread, and what the others took.
  double long_share = 1;
  std::chrono::nanoseconds average{0};

  // Threads that will come for work soon.
  size_t coming(Clock::time_point now, std::chrono::nanoseconds worth) const {
    const auto blocked = std::find_if(running.begin(), running.end(),
                                      [&](Clock::time_point begun) { return now - begun < worth; });
    return called + (lingering ? 1 : 0) + static_cast<size_t>(std::distance(blocked, running.end()));
  }
  // Whether they will have done what waits before another could.
  bool suffice(size_t threads_coming, std::chrono::nanoseconds worth) const {
    return threads_coming > 0 && long_share < kMostLong &&
           average * static_cast<int64_t>(waiting.size()) < worth * static_cast<int64_t>(threads_coming);
  }
  void learn(std::chrono::nanoseconds took, std::chrono::nanoseconds worth) {
    long_share += ((took > worth ? 1 : 0) - long_share) / 16;
    if (took <= worth) average += (took - average) / 8;
  }
};

struct Pool::State {
  explicit State(PoolOptions o) : options(o) {}
  LaneState& of(Lane lane) { return lanes[static_cast<size_t>(lane)]; }
  bool empty() const {
    for (const LaneState& lane : lanes)
      if (!lane.waiting.empty() || lane.idle != lane.threads) return false;
    return true;
  }

  const PoolOptions options;
  mutable std::mutex mutex;  // guards all below
  LaneState lanes[kLanes];
  bool stopping = false;
  bool watched = false;             // the watching thread is there
  bool watch_sleeps = false;        // until it is told
  std::condition_variable watch;    // tells it that quick work waits
  std::condition_variable settled;  // tells stop() and drain()
};

Pool::Pool(PoolOptions options) : state_(std::make_shared<State>(options)) {}

Pool::~Pool() { stop(); }

bool Pool::post(Lane lane, Task task) {
  LaneState& mine = state_->of(lane);
  const PoolOptions& options = state_->options;
  std::unique_lock lock(state_->mutex);
  if (state_->stopping) return false;
  const Clock::time_point now = Clock::now();
  mine.waiting.push_back({std::move(task), now});
  mine.posted.fetch_add(1, std::memory_order_relaxed);
  Help help = Help::none;
  if (lane != Lane::quick) {
    help = wake_or_grow(state_, lane, lane == Lane::slow ? options.slow_threads : options.stream_threads);
  } else {
    if (mine.threads == mine.idle && now - mine.asleep < options.linger) mine.linger_pays = true;
    if (!mine.suffice(mine.coming(now, options.worth), options.worth))
      help = wake_or_grow(state_, lane, options.eager_threads);
    if (help == Help::none && (mine.idle > 0 || mine.threads < options.quick_threads)) watch(state_);
  }
  if (mine.threads == 0) {
    task = std::move(mine.waiting.back().task);  // destroyed without the lock
    mine.waiting.pop_back();
    return false;
  }
  lock.unlock();
  // Without the lock, which the one that wakes needs.
  if (help == Help::woken) mine.wake.notify_one();
  return true;
}

Pool::Help Pool::wake_or_grow(const std::shared_ptr<State>& state, Lane lane, size_t most) {
  LaneState& mine = state->of(lane);
  if (mine.idle > 0) {
    --mine.idle;
    ++mine.called;
    return Help::woken;
  }
  if (mine.threads >= most) return Help::none;
  const size_t before = mine.threads;
  grow(state, lane);
  return mine.threads > before ? Help::grown : Help::none;
}

void Pool::grow(const std::shared_ptr<State>& state, Lane lane) {
  // Counted before it runs. Where the system gives none the work is left to those that are there.
  ++state->of(lane).threads;
  try {
    state->options.start(next_name(), [state, lane] { work(state, lane); });
  } catch (const std::exception&) {
    --state->of(lane).threads;
  }
}

bool Pool::sleep(State& state, LaneState& mine, std::unique_lock<std::mutex>& lock) {
  ++mine.idle;
  mine.asleep = Clock::now();
  if (state.empty()) state.settled.notify_all();
  const bool told =
      mine.wake.wait_for(lock, state.options.idle, [&] { return state.stopping || mine.called > 0; });
  if (mine.called > 0) {
    --mine.called;
    return true;
  }
  --mine.idle;
  return told;
}

void Pool::work(const std::shared_ptr<State>& state, Lane lane) {
  is_pool_thread = true;
  LaneState& mine = state->of(lane);
  const auto worth = std::chrono::nanoseconds(state->options.worth);
  std::list<Clock::time_point> own(1);
  std::unique_lock lock(state->mutex);
  for (;;) {
    if (mine.waiting.empty()) {
      if (state->stopping) break;
      if (lane == Lane::quick && mine.linger_pays && !mine.lingering) {
        mine.lingering = true;
        const uint64_t seen = mine.posted.load(std::memory_order_relaxed);
        lock.unlock();
        linger(mine.posted, seen, state->options.linger);
        lock.lock();
        mine.lingering = false;
        mine.linger_pays = !mine.waiting.empty();
        if (mine.linger_pays) continue;
      }
      if (!sleep(*state, mine, lock)) break;
      continue;
    }
    const Clock::time_point begun = Clock::now();
    // One too many while calls are short would only be in the others' way.
    const bool late = begun - mine.waiting.front().since >= state->options.patience;
    if (lane == Lane::quick && !late && !state->stopping &&
        mine.suffice(mine.coming(begun, worth), worth / 2)) {
      if (!sleep(*state, mine, lock)) break;
      continue;
    }
    Task task = std::move(mine.waiting.front().task);
    mine.waiting.pop_front();
    own.front() = begun;
    mine.running.splice(mine.running.end(), own);
    const auto self = std::prev(mine.running.end());
    lock.unlock();
    park_at_exit();
    task();
    task = nullptr;
    const std::chrono::nanoseconds took = Clock::now() - begun;
    lock.lock();
    own.splice(own.end(), mine.running, self);
    mine.learn(took, worth);
  }
  --mine.threads;
  state->settled.notify_all();
}

// One thread watches whether quick work waits for too long: then those that run are blocked, and it starts
// another.
void Pool::watch(const std::shared_ptr<State>& state) {
  if (state->watched) {
    if (std::exchange(state->watch_sleeps, false)) state->watch.notify_one();
    return;
  }
  state->watched = true;
  try {
    state->options.start("ht-virt-watch", [state] {
      LaneState& quick = state->of(Lane::quick);
      std::unique_lock lock(state->mutex);
      while (!state->stopping) {
        if (quick.waiting.empty() || (quick.idle == 0 && quick.threads >= state->options.quick_threads)) {
          state->watch_sleeps = true;
          state->watch.wait(lock, [&] { return state->stopping || !state->watch_sleeps; });
          continue;
        }
        const auto due = quick.waiting.front().since + state->options.patience;
        if (Clock::now() >= due) {
          const Help more = wake_or_grow(state, Lane::quick, state->options.quick_threads);
          if (more == Help::woken) quick.wake.notify_one();
          // It needs its time to come; where there is none, so does the system.
          const auto pause = state->options.patience * (more == Help::none ? 100 : 1);
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
  for (LaneState& lane : state_->lanes) lane.wake.notify_all();
  state_->settled.wait(lock, [this] {
    return !state_->watched && std::all_of(std::begin(state_->lanes), std::end(state_->lanes),
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
