// A disk on an NBD server, by libnbd. One thread (`ht-nbd`) drives one connection, with many requests under
// way, and another (`ht-nbd-done`) tells of what is completed, so that whoever is told may wait.
//
//   submit -> queue -> under way -> answered -> told
//               ^          |
//               +----------+  the connection broke: again, on the next one
//
// Requests begin in order of submission; one that overlaps an unfinished one, where either writes, waits for
// it, and a flush for the writes before it. A server that is gone is sought for Options::reconnect; after
// that requests fail (EIO) until it is back. Data goes through buffers of the disk's own: nothing here waits
// for a server that does not answer, but for a few seconds where that could lose a write.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "backends/disk.h"
#include "backends/nbd_library.h"
#include "base/error.h"
#include "base/fd.h"

namespace hypertwin::backends {

class NbdDisk final : public Disk {
 public:
  // How long hold() and the destructor wait for writes that the server has not answered.
  static constexpr std::chrono::seconds kPatience{5};

  // Connects. Throws Error: as libnbd says (ECONNREFUSED, ENOENT, ETIMEDOUT, ...); EROFS when the server
  // gives it for reading only and that was not asked for; BAD_CONFIG when it takes no blocks of 512 bytes, or
  // could not be verified; BAD_CERTIFICATE; LIBNBD_MISSING.
  NbdDisk(const std::string& uri, Options options, OnComplete on_complete);
  // Writes that were submitted are given kPatience; what else there is is dropped.
  ~NbdDisk() override;

  // Never waits: what exceeds kMaxQueued fails.
  void submit(devices::BlockRequest request) override;
  // Writes that a silent server has not answered within Options::reconnect fail.
  void drain() override;
  // Waits up to kPatience for writes under way. Reads are told of after release().
  void hold() override;
  void release() override;
  void cancel() override;
  void read_at(uint64_t offset, std::span<uint8_t> into) override;
  void sync() override;

 private:
  using Clock = std::chrono::steady_clock;

  // Who waits for a request of the owner's, rather than the guest's.
  struct Waiter {
    bool done = false;
    int err = 0;
    std::vector<uint8_t> data;
  };
  struct Request {
    uint64_t sequence = 0;  // in order of submission
    devices::BlockRequest what;
    std::shared_ptr<Waiter> waiter;
    unsigned cuts = 0;  // connections that broke while it was under way

    bool changes() const;
    uint64_t size() const { return std::max<uint64_t>(what.size, what.data.size()); }
    bool conflicts(const Request& earlier) const;
  };
  struct Flight {
    Request request;
    NbdDisk* disk = nullptr;
    std::vector<uint8_t> buffer;
    size_t pieces = 0;   // that are not answered
    bool heard = false;  // the server has answered, rather than this side alone
    int err = 0;
    bool by_writing = false;  // zeros, where the server cannot
    bool flushing = false;    // what the server would not make durable at once
  };
  struct Done {
    uint64_t sequence = 0;
    Completion completion;
    std::vector<iovec> parts;  // where its data goes
  };
  // What follows an answer.
  enum class Step { kNone, kWriteZeros, kFlush };
  enum class Link { kDown, kConnecting, kUp };

  // ---- On ht-nbd.
  void drive();
  bool step();
  void connect();
  void adopt();
  void lose(const Error& why);
  void poll_once();
  void settle();
  void start(Flight& flight);
  void issue(Flight& flight);
  void flush(Flight& flight);
  template <class Call>
  void in_pieces(Flight& flight, uint64_t largest, Call&& call);
  Step further_step(const Flight& flight) const;
  void go_on(Flight& flight, Step next);
  static int on_answer(void* user, int* error);
  Error said() const;
  void notify(DiskNotice::Link link, const std::string& message);
  Clock::time_point silent_at() const;
  bool connecting() const;
  std::optional<Clock::time_point> next_time() const;
  // The mutex is held. What can begin now.
  std::vector<Request> take();
  template <class Which>
  void fail_queued(int err, Which&& which);
  // `data`: of a read.
  void finish(Request& request, int err, std::vector<uint8_t> data);

  void tell();
  void perform(devices::BlockRequest what, std::vector<uint8_t>* data, const char* call,
               const char* attempted);
  void wake() const;
  bool out_of_range(const Request& request) const {
    return request.what.offset > size_ || request.size() > size_ - request.what.offset;
  }

  const NbdLibrary& nbd_;
  const std::string uri_;
  const std::string name_;  // the URI without secrets
  OnComplete on_complete_;
  Fd wake_;

  // Of ht-nbd alone.
  NbdHandle* handle_ = nullptr;
  std::map<uint64_t, Flight> flights_;  // by sequence
  std::vector<Flight*> answered_;
  std::optional<Error> trouble_;  // that libnbd told of last
  std::string last_trouble_;
  DiskNotice::Link told_ = DiskNotice::Link::kBack;
  Clock::time_point attempt_until_{}, retry_at_{}, asked_since_{};
  std::chrono::milliseconds retry_delay_{0};
  bool can_flush_ = false, can_fua_ = false, can_trim_ = false, can_zero_ = false;
  uint64_t largest_ = 0;  // bytes of one read or write

  mutable std::mutex mutex_;  // guards the following
  std::condition_variable changed_;
  Link link_ = Link::kDown;
  bool opened_ = false;
  std::optional<Error> failure_;  // of the first attempt
  std::deque<Request> queue_;
  std::set<uint64_t> changes_;  // sequences of writes and the like that are not completed
  unsigned under_way_ = 0;      // of these, at the server
  std::deque<Done> done_;
  uint64_t next_sequence_ = 0;
  uint64_t forgotten_ = 0;  // the guest's requests before that sequence are nobody's any more
  uint64_t overdue_ = 0;    // requests that change something before that sequence are to fail
  bool given_up_ = false;
  Clock::time_point give_up_at_{}, last_answer_{}, stop_until_{};
  bool copying_ = false;   // into its owner's memory
  bool starting_ = false;  // copying out of it
  bool held_ = false;
  bool stop_ = false;
  bool driven_ = true;  // ht-nbd runs
  std::thread driver_, teller_;
};

}  // namespace hypertwin::backends
