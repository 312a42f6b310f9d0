#include "libvirt/stream.h"

#include <algorithm>
#include <shared_mutex>
#include <utility>

#include "base/error.h"
#include "libvirt/abi.h"
#include "libvirt/error.h"
#include "libvirt/event_loop.h"
#include "libvirt/events.h"
#include "libvirt/loader.h"
#include "libvirt/pool.h"

namespace hypertwin::libvirt {

namespace {

// virStreamEventType, and what the calls answer.
constexpr int kReadable = 1, kWritable = 2, kError = 4, kHangUp = 8;
constexpr int kWouldBlock = -2, kInHole = -3;
constexpr unsigned kStopAtHole = 1;
// VIR_ERR_NO_SUPPORT.
constexpr int kNoSupport = 3;
// What one message of libvirt's protocol carries.
constexpr size_t kMessage = 262120;

// Streams came with 0.7.2, holes with 3.4.0.
constexpr uint32_t kStreams = 7002, kHoles = 3004000;

template <class F>
F* function(const char* name, uint32_t since = kStreams) {
  return loader().get<F>(name, since);
}

std::exception_ptr caught(const char* name) { return std::make_exception_ptr(last_error(name)); }

std::exception_ptr over() {
  return std::make_exception_ptr(Error("CLOSED", "the stream is finished, aborted or closed"));
}

EventTopic end_of_connection() {
  EventTopic topic;
  topic.event = find_event(EventFamily::close, 0);
  return topic;
}

std::exception_ptr lost() {
  return std::make_exception_ptr(Error("CONNECTION_LOST", "the stream's connection to libvirt was lost"));
}

// A driver within this process works on the stream's state in a call of the loop that has begun before.
void remove_callback(void* stream) {
  function<int(void*)>("virStreamEventRemoveCallback")(stream);
  pass_event_loop();
}

}  // namespace

class StreamIo::Loss final : public EventTarget {
 public:
  explicit Loss(std::weak_ptr<StreamIo> stream) : stream_(std::move(stream)) {}
  void deliver(const Event&, const Slot*) override {
    if (auto stream = stream_.lock()) stream->on_loss();
  }

 private:
  const std::weak_ptr<StreamIo> stream_;
};

StreamIo::StreamIo(std::shared_ptr<Handle> stream)
    : stream_(std::move(stream)), connection_([this]() -> std::shared_ptr<Handle> {
        // A reference of its own: the handle that it comes from may be closed meanwhile.
        const auto origin = stream_->origin();
        return origin ? Handle::share(origin->type(), origin->object()) : nullptr;
      }()) {}

std::shared_ptr<StreamIo> StreamIo::make(std::shared_ptr<Handle> stream) {
  return std::shared_ptr<StreamIo>(new StreamIo(std::move(stream)));
}

StreamIo::~StreamIo() {
  if (over_ || (!loss_ && !has_callback_)) return;
  // Without a thread they stay, and tell nobody any more.
  pool().post(Lane::stream,
              [stream = stream_, has_callback = has_callback_, connection = connection_, loss = loss_] {
                unwatch_connection(connection, loss);
                if (has_callback) remove_callback(stream->object());
              });
}

void StreamIo::watch_connection() {
  if (!connection_) return;
  std::shared_ptr<Loss> loss;
  {
    std::lock_guard lock(mutex_);
    if (over_ || loss_) return;
    loss = loss_ = std::make_shared<Loss>(weak_from_this());
  }
  void* connection = connection_->object();
  try {
    join_event_hub(end_of_connection(), connection, nullptr, loss);
  } catch (const Error&) {
    // A driver without connections that could be lost; or it is lost, and the next line says so.
    std::lock_guard lock(mutex_);
    if (loss_ == loss) loss_ = nullptr;
  }
  bool ended = false;
  {
    std::lock_guard lock(mutex_);
    ended = over_;
  }
  // Whoever ended it meanwhile may have been there before.
  if (ended)
    unwatch_connection(connection_, loss);
  else if (function<int(void*)>("virConnectIsAlive", 9008)(connection) == 0)
    on_loss();
}

void StreamIo::unwatch_connection(const std::shared_ptr<Handle>& connection,
                                  const std::shared_ptr<Loss>& loss) {
  if (loss) leave_event_hub(end_of_connection(), connection->object(), loss.get());
}

void StreamIo::on_loss() {
  {
    std::lock_guard lock(mutex_);
    if (over_) return;
    lost_ = true;
  }
  give_up(kError | kHangUp, lost());
}

void StreamIo::give_up(int events, const std::exception_ptr& error) {
  Attempt waiting[2];
  Notify notify;
  {
    std::lock_guard lock(mutex_);
    for (const Direction direction : {kReading, kWriting})
      waiting[direction] = std::exchange(waiting_[direction], nullptr);
    if (std::exchange(armed_, false)) notify = notify_;
  }
  if (notify) notify(events);
  for (const Attempt& run : waiting)
    if (run) run(error);
}

void StreamIo::begin(Direction direction) {
  std::lock_guard lock(mutex_);
  if (over_) std::rethrow_exception(over());
  if (busy_[direction])
    throw Error("BUSY", direction == kReading ? "the stream is being read from already"
                                              : "the stream is being written to already");
  busy_[direction] = true;
}

void StreamIo::finished(Direction direction) {
  std::lock_guard lock(mutex_);
  busy_[direction] = false;
}

bool StreamIo::is_over() {
  std::lock_guard lock(mutex_);
  return over_;
}

void StreamIo::attempt(When when, Direction direction, Attempt run) {
  const bool posted = pool().post(Lane::stream, [self = shared_from_this(), when, direction, run] {
    self->try_it(when, direction, run);
  });
  if (!posted) run(std::make_exception_ptr(no_thread()));
}

void StreamIo::try_it(When when, Direction direction, const Attempt& run) {
  if (when == When::first && stream_->blocking()) try {
      wait(direction, run);
      return;
    } catch (const Error&) {
      // Without events it blocks, or fails and says why.
    }
  {
    // Held alone only by who ends it.
    const std::shared_lock use(stream_->in_use(), std::try_to_lock);
    if (!use || is_over()) {
      run(over());
      return;
    }
    if (run(nullptr)) return;
  }
  try {
    wait(direction, run);
  } catch (...) {
    run(std::current_exception());
  }
}

void StreamIo::wait(Direction direction, const Attempt& run) {
  watch_connection();
  bool ended = false;
  {
    std::lock_guard lock(mutex_);
    ended = over_;
    if (!over_ && !lost_) try {
        waiting_[direction] = run;
        watch_waiting();
        return;
      } catch (...) {
        waiting_[direction] = nullptr;
        throw;
      }
  }
  run(ended ? over() : lost());
}

void StreamIo::watch_waiting() {
  const int events =
      (waiting_[kReading] ? kReadable : 0) | (waiting_[kWriting] ? kWritable : 0) | (armed_ ? listened_ : 0);
  if (!has_callback_ && events == 0) return;
  void* stream = stream_->object();
  reset_error();
  if (has_callback_) {
    if (function<int(void*, int)>("virStreamEventUpdateCallback")(stream, events) < 0)
      throw last_error("virStreamEventUpdateCallback");
    return;
  }
  using Callback = void (*)(void*, int, void*);
  auto holder = std::make_unique<std::weak_ptr<StreamIo>>(weak_from_this());
  const Callback callback = [](void*, int now, void* opaque) {
    if (auto self = static_cast<std::weak_ptr<StreamIo>*>(opaque)->lock()) self->on_event(now);
  };
  const abi::FreeCallback free_holder = [](void* opaque) {
    delete static_cast<std::weak_ptr<StreamIo>*>(opaque);
  };
  using Add = int(void*, int, Callback, void*, abi::FreeCallback);
  if (function<Add>("virStreamEventAddCallback")(stream, events, callback, holder.get(), free_holder) < 0)
    throw last_error("virStreamEventAddCallback");
  holder.release();  // libvirt frees it
  has_callback_ = true;
}

void StreamIo::on_event(int events) {
  Attempt ready[2];
  Notify notify;
  std::exception_ptr failed;
  {
    std::lock_guard lock(mutex_);
    if (over_) return;
    const bool broken = events & (kError | kHangUp);
    if (broken || (events & kReadable)) ready[kReading] = std::exchange(waiting_[kReading], nullptr);
    if (broken || (events & kWritable)) ready[kWriting] = std::exchange(waiting_[kWriting], nullptr);
    if (armed_ && (broken || (events & listened_))) {
      armed_ = false;
      notify = notify_;
    }
    try {
      watch_waiting();
    } catch (const Error&) {
      failed = std::current_exception();
    }
  }
  if (notify) notify(events);
  for (const Direction direction : {kReading, kWriting})
    if (ready[direction]) attempt(When::now, direction, std::move(ready[direction]));
  if (failed) give_up(kError, failed);
}

void StreamIo::read(size_t most, bool sparse, ReadDone done) {
  begin(kReading);
  attempt(When::first, kReading,
          [self = shared_from_this(), most, sparse, done = std::move(done)](std::exception_ptr error) {
            StreamChunk chunk;
            if (!error) try {
                void* stream = self->stream_->object();
                Bytes bytes(most);
                auto* memory = reinterpret_cast<char*>(bytes.data());
                reset_error();
                int got = -1;
                bool holes = sparse && loader().version() >= kHoles;
                if (holes) {
                  got = function<int(void*, char*, size_t, unsigned)>("virStreamRecvFlags", kHoles)(
                      stream, memory, most, kStopAtHole);
                  // A driver that knows no holes has none.
                  if (got == -1 && last_error("").details().code == kNoSupport) holes = false;
                }
                if (!holes) {
                  reset_error();
                  got = function<int(void*, char*, size_t)>("virStreamRecv")(stream, memory, most);
                }
                if (got == kWouldBlock) return false;
                if (got > 0) {
                  bytes.resize(static_cast<size_t>(got));
                  chunk = std::move(bytes);
                } else if (got == 0) {
                  chunk = StreamEnd{};
                } else if (got == kInHole) {
                  long long length = 0;
                  if (function<int(void*, long long*, unsigned)>("virStreamRecvHole", kHoles)(stream, &length,
                                                                                              0) < 0)
                    throw last_error("virStreamRecvHole");
                  chunk = StreamHole{length};
                } else {
                  throw last_error(holes ? "virStreamRecvFlags" : "virStreamRecv");
                }
              } catch (...) {
                error = std::current_exception();
              }
            self->finished(kReading);
            done(std::move(chunk), error);
            return true;
          });
}

void StreamIo::write(Bytes bytes, Done done) {
  begin(kWriting);
  struct Progress {
    Bytes bytes;
    size_t sent = 0;
  };
  auto progress = std::make_shared<Progress>(Progress{std::move(bytes)});
  attempt(When::first, kWriting,
          [self = shared_from_this(), progress, done = std::move(done)](std::exception_ptr error) {
            while (!error && progress->sent < progress->bytes.size()) try {
                reset_error();
                const int sent = function<int(void*, const char*, size_t)>("virStreamSend")(
                    self->stream_->object(),
                    reinterpret_cast<const char*>(progress->bytes.data()) + progress->sent,
                    std::min(kMessage, progress->bytes.size() - progress->sent));
                if (sent == kWouldBlock) return false;
                if (sent < 0) throw last_error("virStreamSend");
                progress->sent += static_cast<size_t>(sent);
              } catch (...) {
                error = std::current_exception();
              }
            self->finished(kWriting);
            done(error);
            return true;
          });
}

void StreamIo::write_hole(int64_t length, uint32_t flags, Done done) {
  begin(kWriting);
  attempt(When::first, kWriting,
          [self = shared_from_this(), length, flags, done = std::move(done)](std::exception_ptr error) {
            if (!error) try {
                reset_error();
                const int result = function<int(void*, long long, unsigned)>("virStreamSendHole", kHoles)(
                    self->stream_->object(), length, flags);
                if (result == kWouldBlock) return false;
                if (result < 0) throw last_error("virStreamSendHole");
              } catch (...) {
                error = std::current_exception();
              }
            self->finished(kWriting);
            done(error);
            return true;
          });
}

void StreamIo::listen(int events, Notify notify, Done done) {
  const bool posted = pool().post(Lane::stream, [self = shared_from_this(), events, notify, done] {
    std::exception_ptr error;
    Notify before;  // destroyed without the lock
    try {
      if (notify) self->watch_connection();
      std::lock_guard lock(self->mutex_);
      if (self->over_) std::rethrow_exception(over());
      if (notify && self->lost_) std::rethrow_exception(lost());
      before = std::exchange(self->notify_, notify);
      self->listened_ = notify ? events : 0;
      self->armed_ = self->listened_ != 0;
      try {
        self->watch_waiting();
      } catch (...) {
        self->listened_ = 0;
        self->armed_ = false;
        throw;
      }
    } catch (...) {
      error = std::current_exception();
    }
    done(error);
  });
  if (!posted) done(std::make_exception_ptr(no_thread()));
}

bool StreamIo::rearm() {
  {
    std::lock_guard lock(mutex_);
    if (over_ || lost_ || listened_ == 0) return false;
    armed_ = true;
  }
  return pool().post(Lane::stream, [self = shared_from_this()] {
    try {
      std::lock_guard lock(self->mutex_);
      if (!self->over_) self->watch_waiting();
    } catch (const Error&) {
      self->give_up(kError, std::current_exception());
    }
  });
}

void StreamIo::finish(Done done) { end(true, std::move(done)); }

void StreamIo::abort(Done done) { end(false, std::move(done)); }

void StreamIo::end(bool finish, Done done) {
  bool ended = false, has_callback = false;
  std::shared_ptr<Loss> loss;
  Attempt waiting[2];
  Notify notify;  // destroyed without the lock
  {
    std::lock_guard lock(mutex_);
    ended = std::exchange(over_, true);
    has_callback = has_callback_;
    loss = std::exchange(loss_, nullptr);
    notify = std::exchange(notify_, nullptr);
    armed_ = false;
    for (const Direction direction : {kReading, kWriting})
      waiting[direction] = std::exchange(waiting_[direction], nullptr);
  }
  for (const Attempt& run : waiting)
    if (run) run(over());
  const bool posted =
      pool().post(Lane::stream, [self = shared_from_this(), finish, ended, has_callback, loss, done] {
        std::exception_ptr error;
        if (!ended) {
          unwatch_connection(self->connection_, loss);
          void* stream = self->stream_->object();
          const std::lock_guard alone(self->stream_->in_use());
          reset_error();
          if (has_callback) remove_callback(stream);
          // The abort of a stream that nothing was opened on fails, which is as good.
          if (!finish)
            function<int(void*)>("virStreamAbort")(stream);
          else if (function<int(void*)>("virStreamFinish")(stream) < 0)
            error = caught("virStreamFinish");
        } else if (finish) {
          error = over();
        }
        if (done) done(error);
      });
  if (!posted && done) done(std::make_exception_ptr(no_thread()));
}

}  // namespace hypertwin::libvirt
