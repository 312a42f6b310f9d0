// Reading and writing of a libvirt stream, non-blocking or not, without a thread that waits: where libvirt
// would block, the event loop says when to go on. Of a blocking stream it says that before each attempt.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>

#include "libvirt/descriptor.h"
#include "libvirt/event_hub.h"
#include "libvirt/handle.h"
#include "libvirt/value.h"

namespace hypertwin::libvirt {

struct StreamEnd {};
struct StreamHole {
  int64_t length = 0;
};
using StreamChunk = std::variant<Bytes, StreamHole, StreamEnd>;

class StreamIo final : public std::enable_shared_from_this<StreamIo> {
 public:
  // All are called once, on any thread, and must not block. The error is null when it went well.
  using ReadDone = std::function<void(StreamChunk, std::exception_ptr)>;
  using Done = std::function<void(std::exception_ptr)>;

  // Throws LibvirtError.
  static std::shared_ptr<StreamIo> make(std::shared_ptr<Handle> stream);
  // A stream that was neither finished nor aborted is aborted when nobody shares its handle any more.
  ~StreamIo();
  StreamIo(const StreamIo&) = delete;
  StreamIo& operator=(const StreamIo&) = delete;

  // Any thread, none blocks. One read and one write at a time; another one meanwhile fails with
  // Error("BUSY"). `sparse`: a hole comes as such, where libvirt is 3.4.0 or later; otherwise as zeroes.
  void read(size_t most, bool sparse, ReadDone done);
  // All of it.
  void write(Bytes bytes, Done done);
  void write_hole(int64_t length, uint32_t flags, Done done);
  // Tells `notify` when one of `events` (an OR of virStreamEventType) holds, and then not again before
  // rearm(); of the end of the connection as an error and a hang-up. Replaces what was there; without
  // `notify` nothing is told any more.
  using Notify = std::function<void(int events)>;
  void listen(int events, Notify notify, Done done);
  // False: nothing will be told any more.
  bool rearm();
  // Both end at once a read or write that waits, with Error("CLOSED"). One that runs comes to its own end
  // first, as do other calls on the stream: drivers free the stream's state under them. What begins later
  // fails.
  void finish(Done done);
  void abort(Done done);

 private:
  // One attempt, on the pool; given an error it only reports it. False: libvirt would block.
  using Attempt = std::function<bool(std::exception_ptr)>;
  enum Direction : size_t { kReading, kWriting };

  // libvirt tells a stream that waits nothing of the end of its connection.
  class Loss;

  explicit StreamIo(std::shared_ptr<Handle> stream);
  // On the pool, before the first wait and after the end.
  void watch_connection();
  static void unwatch_connection(const std::shared_ptr<Handle>& connection,
                                 const std::shared_ptr<Loss>& loss);
  void on_loss();
  // Ends what waits and tells who listens, when libvirt will not.
  void give_up(int events, const std::exception_ptr& error);
  // Throws Error("BUSY"), Error("CLOSED").
  void begin(Direction direction);
  void finished(Direction direction);
  bool is_over();
  enum class When { now, first };
  void attempt(When when, Direction direction, Attempt run);
  void try_it(When when, Direction direction, const Attempt& run);
  // Throws what libvirt says against it.
  void wait(Direction direction, const Attempt& run);
  void watch_waiting();
  void on_event(int events);
  void end(bool finish, Done done);

  const std::shared_ptr<Handle> stream_;
  const std::shared_ptr<Handle> connection_;  // null: closed before the stream was used
  // Guards all below. Taken on the event loop's thread, and held while libvirt is told what to wait for: that
  // calls no callback.
  std::mutex mutex_;
  bool busy_[2] = {};  // by Direction
  bool over_ = false;
  bool lost_ = false;
  std::shared_ptr<Loss> loss_;  // while the connection is watched
  bool has_callback_ = false;
  Attempt waiting_[2];
  int listened_ = 0;
  bool armed_ = false;
  Notify notify_;
};

}  // namespace hypertwin::libvirt
