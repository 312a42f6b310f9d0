#include "backends/nbd_disk.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "backends/nbd_tls.h"
#include "base/event.h"

namespace hypertwin::backends {

using devices::BlockOperation;
using devices::BlockRequest;
using devices::BlockStatus;
using std::chrono::milliseconds;

namespace {

constexpr size_t kMaxUnderWay = 64;
// One attempt to connect may take so long; between two there is so much.
constexpr std::chrono::seconds kAttempt{10};
constexpr milliseconds kFirstPause{100}, kLongestPause{500};
// A server that has answered nothing for so long is told of.
constexpr std::chrono::seconds kSilence{10};
// A request that was under way when so many connections broke is taken for the reason.
constexpr unsigned kMaxCuts = 10;
// Of one read or write where the server says nothing, and of what moves no data.
constexpr uint64_t kLargest = 32u << 20;
constexpr uint64_t kLargestRange = 1u << 30;
constexpr uint64_t kSmallest = 512;
constexpr uint64_t kMostBytes = uint64_t{1} << 46;
// Where zeros are written.
constexpr uint64_t kZeros = 1u << 20;

// Whether an error says that the server cannot do it, or not with this alignment.
bool cannot(int err) { return err == EOPNOTSUPP || err == EINVAL; }

// A peer that is cut off, and not only silent, is noticed after 30 s. Means nothing to a UNIX socket.
void notice_silence(int socket) {
  auto set = [socket](int level, int option, int value) {
    (void)::setsockopt(socket, level, option, &value, sizeof(value));
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
}

// What a buffer holds to or from where the owner's data lies.
template <class Move>
void for_parts(const std::vector<iovec>& parts, std::span<uint8_t> bytes, Move&& move) {
  for (const iovec& part : parts) {
    const size_t n = std::min(part.iov_len, bytes.size());
    move(static_cast<uint8_t*>(part.iov_base), bytes.data(), n);
    bytes = bytes.subspan(n);
  }
}

}  // namespace

bool NbdDisk::Request::changes() const {
  return what.operation != BlockOperation::kRead && what.operation != BlockOperation::kFlush;
}

bool NbdDisk::Request::conflicts(const Request& earlier) const {
  if (what.operation == BlockOperation::kFlush) return earlier.changes();
  return (changes() || earlier.changes()) && what.offset < earlier.what.offset + earlier.size() &&
         earlier.what.offset < what.offset + size();
}

// ---- The owner's side

NbdDisk::NbdDisk(const std::string& uri, Options options, OnComplete on_complete)
    : Disk(std::move(options)),
      nbd_(NbdLibrary::get()),
      uri_(uri),
      name_(without_secrets(uri)),
      on_complete_(std::move(on_complete)) {
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) throw_errno("eventfd", "for the disk " + name_);
  driver_ = std::thread([this] { drive(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return opened_ || failure_; });
  if (!failure_) {
    try {
      teller_ = std::thread([this] { tell(); });
      return;
    } catch (const std::system_error& error) {
      failure_ = Error::system(error.code().value(), "pthread_create", "for the disk " + name_);
      stop_ = true;
    }
  }
  lock.unlock();
  wake();
  driver_.join();
  throw Error(*failure_);
}

NbdDisk::~NbdDisk() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    stop_until_ = Clock::now() + kPatience;
  }
  wake();
  changed_.notify_all();
  driver_.join();
  teller_.join();
}

void NbdDisk::wake() const { ring(wake_.get()); }

void NbdDisk::submit(BlockRequest what) {
  std::lock_guard lock(mutex_);
  Request request{.sequence = next_sequence_++, .what = std::move(what), .waiter = {}};
  const bool full = queue_.size() >= kMaxQueued;
  if (request.changes()) changes_.insert(request.sequence);
  if (full)
    finish(request, EAGAIN, {});
  else
    queue_.push_back(std::move(request));
  wake();
}

void NbdDisk::drain() {
  std::unique_lock lock(mutex_);
  const uint64_t target = next_sequence_;
  const auto since = Clock::now();
  while (!changes_.empty() && *changes_.begin() < target) {
    const auto until =
        std::max(since, last_answer_) + std::max<Clock::duration>(options_.reconnect, kPatience);
    if (overdue_ < target && Clock::now() >= until) {
      overdue_ = target;
      wake();
    }
    changed_.wait_until(lock, std::max(until, Clock::now() + kFirstPause));
  }
}

void NbdDisk::hold() {
  std::unique_lock lock(mutex_);
  held_ = true;
  changed_.wait_for(lock, kPatience, [this] { return under_way_ == 0; });
  changed_.wait(lock, [this] { return !copying_; });
}

void NbdDisk::release() {
  {
    std::lock_guard lock(mutex_);
    held_ = false;
    if (!given_up_) give_up_at_ = Clock::now() + options_.reconnect;
  }
  wake();
  changed_.notify_all();
}

void NbdDisk::cancel() {
  std::unique_lock lock(mutex_);
  forgotten_ = next_sequence_;
  std::erase_if(queue_, [this](const Request& request) {
    if (request.waiter) return false;
    changes_.erase(request.sequence);
    return true;
  });
  changed_.notify_all();
  changed_.wait(lock, [this] { return !copying_ && !starting_; });
}

void NbdDisk::perform(BlockRequest what, std::vector<uint8_t>* data, const char* call,
                      const char* attempted) {
  auto waiter = std::make_shared<Waiter>();
  std::unique_lock lock(mutex_);
  const auto since = Clock::now();
  queue_.push_back({.sequence = next_sequence_++, .what = std::move(what), .waiter = waiter});
  wake();
  while (!waiter->done) {
    const auto until =
        std::max(since, last_answer_) + std::max<Clock::duration>(options_.reconnect, kPatience);
    if (Clock::now() >= until) throw Error::system(ETIMEDOUT, call, attempted + name_);
    changed_.wait_until(lock, until);
  }
  if (waiter->err) throw Error::system(waiter->err, call, attempted + name_);
  if (data) *data = std::move(waiter->data);
}

void NbdDisk::read_at(uint64_t offset, std::span<uint8_t> into) {
  if (offset > size_ || into.size() > size_ - offset)
    throw Error("ERANGE", "reading beyond the end of the disk " + name_);
  std::vector<uint8_t> data;
  for (size_t done = 0; done < into.size(); done += data.size()) {
    const size_t n = std::min<size_t>(into.size() - done, kBlockBytes);
    perform({.operation = BlockOperation::kRead,
             .offset = offset + done,
             .size = static_cast<uint32_t>(n),
             .data = {}},
            &data, "nbd_aio_pread", "reading the disk ");
    std::memcpy(into.data() + done, data.data(), n);
  }
}

void NbdDisk::sync() {
  if (!options_.read_only)
    perform({.operation = BlockOperation::kFlush, .data = {}}, nullptr, "nbd_aio_flush", "writing the disk ");
}

// ---- The connection

void NbdDisk::drive() {
  pthread_setname_np(pthread_self(), "ht-nbd");
  while (step()) poll_once();
  if (handle_) {
    nbd_.aio_disconnect(handle_, 0);
    nbd_.close(std::exchange(handle_, nullptr));
  }
  std::lock_guard lock(mutex_);
  for (auto& [sequence, flight] : flights_)
    if (flight.request.waiter) finish(flight.request, ECANCELED, {});
  for (Request& request : queue_)
    if (request.waiter) finish(request, ECANCELED, {});
  driven_ = false;
  changed_.notify_all();
}

// All that can be done without waiting; false when it is the end.
bool NbdDisk::step() {
  for (;;) {
    settle();
    std::vector<Request> ready;
    bool given_up = false;
    {
      std::unique_lock lock(mutex_);
      const auto now = Clock::now();
      if (failure_) return false;
      if (stop_) {
        std::erase_if(queue_, [](const Request& request) { return !request.changes() && !request.waiter; });
        if (link_ != Link::kUp || now >= stop_until_ || (queue_.empty() && under_way_ == 0)) return false;
      }
      if (const uint64_t overdue = std::exchange(overdue_, 0)) {
        lock.unlock();
        lose(Error::system(ETIMEDOUT, "nbd", "waiting for an answer of " + name_));
        lock.lock();
        fail_queued(ETIMEDOUT, [&](const Request& one) { return one.changes() && one.sequence < overdue; });
      }
      if (link_ == Link::kUp) {
        ready = take();
        starting_ = !ready.empty();
      } else if (opened_ && !held_ && now >= give_up_at_) {
        given_up = given_up_ = true;
        fail_queued(EIO, [](const Request&) { return true; });
      }
    }
    if (given_up)
      notify(DiskNotice::Link::kGivenUp,
             "the disk " + name_ + ": its server was sought for " +
                 std::to_string(options_.reconnect.count()) +
                 " s, and requests fail until it is back. The last attempt: " + last_trouble_);
    else if (silent_at() <= Clock::now())
      notify(DiskNotice::Link::kSilent, "the disk " + name_ + ": the server has answered nothing for " +
                                            std::to_string(kSilence.count()) + " s; requests wait");
    if (flights_.empty()) asked_since_ = Clock::now();
    for (Request& request : ready) {
      Flight& flight = flights_[request.sequence];
      flight.request = std::move(request);
      flight.disk = this;
      start(flight);
    }
    if (!ready.empty()) {
      std::lock_guard lock(mutex_);
      starting_ = false;
      changed_.notify_all();
    }
    if (!answered_.empty()) continue;
    if (handle_ || Clock::now() < retry_at_) return true;
    connect();
  }
}

std::vector<NbdDisk::Request> NbdDisk::take() {
  std::vector<Request> ready;
  auto conflicts = [&](const Request& request) {
    return std::any_of(flights_.begin(), flights_.end(),
                       [&](const auto& flight) { return request.conflicts(flight.second.request); }) ||
           std::any_of(ready.begin(), ready.end(),
                       [&](const Request& earlier) { return request.conflicts(earlier); });
  };
  for (auto next = queue_.begin(); next != queue_.end() && flights_.size() + ready.size() < kMaxUnderWay;) {
    if (held_ && !stop_ && !next->waiter) {
      ++next;
      continue;
    }
    if (conflicts(*next)) break;
    if (next->changes()) ++under_way_;
    ready.push_back(std::move(*next));
    next = queue_.erase(next);
  }
  return ready;
}

void NbdDisk::connect() {
  handle_ = nbd_.create();
  attempt_until_ = Clock::now() + kAttempt;
  {
    std::lock_guard lock(mutex_);
    link_ = Link::kConnecting;
  }
  try {
    const TlsFiles tls = tls_files(uri_);
    // Whoever gives the URI may name files of this host's: certificates, keys. Before version 1.10 libnbd
    // reads no certificates' folder from it.
    if (!handle_ || nbd_.set_uri_allow_local_file(handle_, true) < 0 ||
        (!tls.certificates.empty() && nbd_.set_tls_certificates(handle_, tls.certificates.c_str()) < 0) ||
        (!tls.psk_file.empty() && nbd_.set_tls_psk_file(handle_, tls.psk_file.c_str()) < 0) ||
        nbd_.aio_connect_uri(handle_, uri_.c_str()) < 0)
      lose(said());
  } catch (const Error& why) {
    lose(why);
  }
}

// What libnbd says of the last call that failed.
Error NbdDisk::said() const {
  const int err = nbd_.get_errno();
  const char* text = nbd_.get_error();
  std::string what = text ? text : "libnbd gives no reason";
  // It quotes the URI as it is.
  for (size_t at = 0; !uri_.empty() && (at = what.find(uri_, at)) != std::string::npos; at += name_.size())
    what.replace(at, uri_.size(), name_);
  if (what.find("certificate verification") != std::string::npos)
    return Error("BAD_CERTIFICATE",
                 "the disk " + name_ +
                     ": its server's certificate is not by an authority in ca-cert.pem, or "
                     "of another host, or out of date (" +
                     what + ")");
  return Error(err ? errno_name(err) : "EIO", "the disk " + name_ + ": " + what);
}

void NbdDisk::adopt() {
  const int64_t size = nbd_.get_size(handle_);
  const int64_t smallest = nbd_.get_block_size(handle_, NbdLibrary::kSmallestBlock);
  const int64_t largest = nbd_.get_block_size(handle_, NbdLibrary::kLargestBlock);
  if (size < 0 || smallest < 0 || largest < 0) return lose(said());
  if (smallest > int64_t{kSmallest})
    return lose(
        Error("BAD_CONFIG", "the disk " + name_ + ": its server takes blocks of " + std::to_string(smallest) +
                                " bytes or more, and a guest's have 512 (nbdkit: --filter=blocksize)"));
  if (static_cast<uint64_t>(size) > kMostBytes)
    return lose(Error("BAD_CONFIG", "the disk " + name_ + ": its server says that it has " +
                                        std::to_string(size) + " bytes, and 2^46 (64 TiB) is the most"));
  if (!options_.read_only && nbd_.is_read_only(handle_) != 0)
    return lose(Error(
        "EROFS",
        "the disk " + name_ + ": its server gives it for reading only, so the disk must be read-only too"));
  std::unique_lock lock(mutex_);
  if (opened_ && static_cast<uint64_t>(size) != size_) {
    // Perhaps the right one comes back.
    last_trouble_ = "the disk " + name_ + ": another one of " + std::to_string(size) +
                    " bytes is there, not of " + std::to_string(size_);
    nbd_.close(std::exchange(handle_, nullptr));
    link_ = Link::kDown;
    retry_at_ = Clock::now() + kLongestPause;
    return;
  }
  can_flush_ = nbd_.can_flush(handle_) == 1;
  can_fua_ = nbd_.can_fua(handle_) == 1;
  can_trim_ = nbd_.can_trim(handle_) == 1;
  can_zero_ = nbd_.can_zero(handle_) == 1;
  largest_ =
      largest > 0 ? std::clamp<uint64_t>(static_cast<uint64_t>(largest), kSmallest, kLargest) : kLargest;
  largest_ -= largest_ % kSmallest;
  notice_silence(nbd_.aio_get_fd(handle_));
  if (!opened_) set_size(static_cast<uint64_t>(size));
  opened_ = true;
  given_up_ = false;
  link_ = Link::kUp;
  last_answer_ = Clock::now();
  changed_.notify_all();
  lock.unlock();
  notify(DiskNotice::Link::kBack, "the disk " + name_ + ": the server is reached again");
}

// There is no connection any more, or none came about. What was under way is again to be begun.
void NbdDisk::lose(const Error& why) {
  if (handle_) nbd_.close(std::exchange(handle_, nullptr));
  answered_.clear();
  last_trouble_ = why.what();
  std::unique_lock lock(mutex_);
  if (!opened_) {
    failure_ = why;
    changed_.notify_all();
    return;
  }
  const auto now = Clock::now();
  if (link_ == Link::kUp) give_up_at_ = now + options_.reconnect;
  link_ = Link::kDown;
  retry_at_ = now + retry_delay_;
  retry_delay_ = std::clamp(retry_delay_ * 2, kFirstPause, kLongestPause);
  under_way_ = 0;
  for (auto flight = flights_.rbegin(); flight != flights_.rend(); ++flight) {
    Request& request = flight->second.request;
    if (!request.waiter && request.sequence < forgotten_)
      changes_.erase(request.sequence);
    else if (++request.cuts >= kMaxCuts)
      finish(request, EIO, {});
    else
      queue_.push_front(std::move(request));
  }
  flights_.clear();
  changed_.notify_all();
  lock.unlock();
  notify(DiskNotice::Link::kLost, last_trouble_);
}

// Tells of what is new.
void NbdDisk::notify(DiskNotice::Link link, const std::string& message) {
  using enum DiskNotice::Link;
  const bool again = link == kLost ? told_ == kLost || told_ == kGivenUp : link == told_;
  if (again) return;
  told_ = link;
  if (options_.on_notice) options_.on_notice({.link = link, .uri = name_, .message = message});
}

// When the server is to be called silent.
NbdDisk::Clock::time_point NbdDisk::silent_at() const {
  if (flights_.empty() || told_ != DiskNotice::Link::kBack) return Clock::time_point::max();
  std::lock_guard lock(mutex_);
  return link_ == Link::kUp ? std::max(last_answer_, asked_since_) + kSilence : Clock::time_point::max();
}

void NbdDisk::poll_once() {
  pollfd fds[2] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                   {.fd = -1, .events = 0, .revents = 0}};
  unsigned direction = 0;
  if (handle_) {
    direction = nbd_.aio_get_direction(handle_);
    fds[1].fd = nbd_.aio_get_fd(handle_);
    fds[1].events = static_cast<short>((direction & NbdLibrary::kReads ? POLLIN : 0) |
                                       (direction & NbdLibrary::kWrites ? POLLOUT : 0));
  }
  int timeout = -1;
  if (const auto next = next_time()) {
    const auto left = std::chrono::ceil<milliseconds>(*next - Clock::now()).count();
    timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 60000));
  }
  if (::poll(fds, 2, timeout) < 0) return;  // EINTR
  if (fds[0].revents) unring(wake_.get());
  if (handle_ && connecting() && Clock::now() >= attempt_until_)
    return lose(Error("ETIMEDOUT", "the disk " + name_ + ": the server does not answer"));
  const short seen = fds[1].revents;
  int result = 0;
  // One of the two: the first may change what the handle waits for. The end is told to it as what it waits
  // for.
  if ((direction & NbdLibrary::kReads) && (seen & (POLLIN | POLLHUP | POLLERR)))
    result = nbd_.aio_notify_read(handle_);
  else if ((direction & NbdLibrary::kWrites) && (seen & (POLLOUT | POLLHUP | POLLERR)))
    result = nbd_.aio_notify_write(handle_);
  else if (seen)
    return lose(Error("EIO", "the disk " + name_ + ": the connection failed"));
  if (result < 0) trouble_ = said();
}

bool NbdDisk::connecting() const {
  std::lock_guard lock(mutex_);
  return link_ == Link::kConnecting;
}

// When there is something to do though nothing happens.
std::optional<NbdDisk::Clock::time_point> NbdDisk::next_time() const {
  std::optional<Clock::time_point> next;
  if (const auto silent = silent_at(); silent != Clock::time_point::max()) next = silent;
  auto consider = [&](Clock::time_point time) { next = next ? std::min(*next, time) : time; };
  std::lock_guard lock(mutex_);
  if (!handle_) consider(retry_at_);
  if (handle_ && link_ == Link::kConnecting) consider(attempt_until_);
  if (link_ != Link::kUp && !held_ && !queue_.empty()) consider(give_up_at_);
  if (stop_) consider(stop_until_);
  return next;
}

// ---- Requests

void NbdDisk::start(Flight& flight) {
  const BlockRequest& what = flight.request.what;
  const uint64_t size = flight.request.size();
  if (out_of_range(flight.request))
    flight.err = EINVAL;
  else if (flight.request.changes() && options_.read_only)
    flight.err = EROFS;
  if (flight.err) return answered_.push_back(&flight);
  if (what.operation == BlockOperation::kRead) flight.buffer.resize(size);
  if (what.operation == BlockOperation::kWrite && !what.parts.empty()) {
    flight.buffer.resize(size);
    for_parts(what.parts, flight.buffer,
              [](uint8_t* part, uint8_t* bytes, size_t n) { std::memcpy(bytes, part, n); });
  }
  issue(flight);
}

void NbdDisk::issue(Flight& flight) {
  const BlockRequest& what = flight.request.what;
  const uint32_t durable = what.durable && can_fua_ ? NbdLibrary::kFua : 0;
  switch (what.operation) {
    case BlockOperation::kRead:
      return in_pieces(flight, largest_, [&](uint64_t at, uint64_t n, NbdCallback callback) {
        return nbd_.aio_pread(handle_, flight.buffer.data() + at, n, what.offset + at, callback, 0);
      });
    case BlockOperation::kWrite: {
      const uint8_t* bytes = what.parts.empty() ? what.data.data() : flight.buffer.data();
      return in_pieces(flight, largest_, [&, bytes](uint64_t at, uint64_t n, NbdCallback callback) {
        return nbd_.aio_pwrite(handle_, bytes + at, n, what.offset + at, callback, durable);
      });
    }
    case BlockOperation::kFlush:
      return flush(flight);
    case BlockOperation::kDiscard:
      if (!can_trim_) return answered_.push_back(&flight);  // a wish
      return in_pieces(flight, kLargestRange, [&](uint64_t at, uint64_t n, NbdCallback callback) {
        return nbd_.aio_trim(handle_, n, what.offset + at, callback, durable);
      });
    case BlockOperation::kWriteZeroes:
      if (!can_zero_) flight.by_writing = true;
      if (flight.by_writing) {
        const uint64_t piece = std::min<uint64_t>(largest_, kZeros);
        flight.buffer.assign(std::min(piece, flight.request.size()), 0);
        return in_pieces(flight, piece, [&](uint64_t at, uint64_t n, NbdCallback callback) {
          return nbd_.aio_pwrite(handle_, flight.buffer.data(), n, what.offset + at, callback, durable);
        });
      }
      return in_pieces(flight, kLargestRange, [&](uint64_t at, uint64_t n, NbdCallback callback) {
        return nbd_.aio_zero(handle_, n, what.offset + at, callback,
                             durable | (what.unmap ? 0 : NbdLibrary::kNoHole));
      });
  }
  flight.err = EOPNOTSUPP;
  answered_.push_back(&flight);
}

void NbdDisk::flush(Flight& flight) {
  if (!can_flush_) return answered_.push_back(&flight);
  in_pieces(flight, 0,
            [&](uint64_t, uint64_t, NbdCallback callback) { return nbd_.aio_flush(handle_, callback, 0); });
}

// Cuts the range in pieces of at most `largest`; 0: there is nothing to cut. `call` issues one.
template <class Call>
void NbdDisk::in_pieces(Flight& flight, uint64_t largest, Call&& call) {
  const uint64_t size = flight.request.size();
  const uint64_t pieces = largest == 0 ? 1 : (size + largest - 1) / largest;
  if (pieces == 0) return answered_.push_back(&flight);
  // All of them at first: one may be answered before the next is issued.
  flight.pieces = pieces;
  const NbdCallback callback{&NbdDisk::on_answer, &flight, nullptr};
  for (uint64_t i = 0; i < pieces; ++i) {
    const uint64_t at = i * largest;
    if (call(at, std::min(largest, size - at), callback) >= 0) continue;
    const int err = nbd_.get_errno();
    if (!flight.err) flight.err = err ? err : EIO;
    flight.pieces -= pieces - i;
    if (flight.pieces == 0) answered_.push_back(&flight);
    return;
  }
}

int NbdDisk::on_answer(void* user, int* error) {
  auto& flight = *static_cast<Flight*>(user);
  flight.heard = true;
  if (*error && !flight.err) flight.err = *error;
  if (--flight.pieces == 0) flight.disk->answered_.push_back(&flight);
  return 1;
}

// What came of the calls before: answers, the end of the connection, or its beginning.
void NbdDisk::settle() {
  if (!handle_) return;
  bool broken = false;
  auto look = [&] { broken |= nbd_.aio_is_dead(handle_) != 0 || nbd_.aio_is_closed(handle_) != 0; };
  for (look(); !answered_.empty(); look()) {
    for (Flight* flight : std::exchange(answered_, {})) {
      // A server that shuts down may come back, as one that is gone.
      if (flight->err == ESHUTDOWN) broken = true;
      const Step next = further_step(*flight);
      // It stays under way, and is begun again.
      if (broken && (flight->err || next != Step::kNone)) continue;
      if (next != Step::kNone) {
        go_on(*flight, next);
        continue;
      }
      if (flight->heard) {
        retry_delay_ = milliseconds(0);
        notify(DiskNotice::Link::kBack, "the disk " + name_ + ": the server answers again");
      }
      std::lock_guard lock(mutex_);
      if (flight->heard) last_answer_ = Clock::now();
      if (flight->request.changes()) --under_way_;
      finish(flight->request, flight->err, std::move(flight->buffer));
      flights_.erase(flight->request.sequence);
    }
  }
  if (broken) {
    const auto why = std::exchange(trouble_, std::nullopt);
    lose(why ? *why : Error("EIO", "the disk " + name_ + ": the server ended the connection"));
  } else if (connecting() && nbd_.aio_is_connecting(handle_) == 0) {
    adopt();
  }
}

NbdDisk::Step NbdDisk::further_step(const Flight& flight) const {
  const BlockRequest& what = flight.request.what;
  if (what.operation == BlockOperation::kWriteZeroes && !flight.by_writing && cannot(flight.err) &&
      !out_of_range(flight.request))
    return Step::kWriteZeros;
  if (!flight.err && flight.request.changes() && what.durable && !can_fua_ && can_flush_ && !flight.flushing)
    return Step::kFlush;
  return Step::kNone;
}

void NbdDisk::go_on(Flight& flight, Step next) {
  flight.err = 0;
  if (next == Step::kFlush) {
    flight.flushing = true;
    flush(flight);
  } else {
    flight.by_writing = true;
    issue(flight);
  }
}

template <class Which>
void NbdDisk::fail_queued(int err, Which&& which) {
  for (Request& request : queue_)
    if (which(request)) finish(request, err, {});
  std::erase_if(queue_, [&](const Request& request) { return which(request); });
}

void NbdDisk::finish(Request& request, int err, std::vector<uint8_t> data) {
  const BlockRequest& what = request.what;
  if (request.changes()) {
    // Also one that failed may have changed a part.
    if (err != EINVAL && err != EROFS) mark_written(what.offset, request.size());
    if (what.operation == BlockOperation::kDiscard && cannot(err) && !out_of_range(request)) err = 0;
  }
  if (err || what.operation != BlockOperation::kRead) data.clear();
  if (request.waiter) {
    request.waiter->err = err;
    request.waiter->data = std::move(data);
    request.waiter->done = true;
  } else if (request.sequence < forgotten_) {
    changes_.erase(request.sequence);
  } else {
    Done done{.sequence = request.sequence, .completion = {}, .parts = {}};
    done.completion.ordinal = what.ordinal;
    done.completion.err = err;
    if (err) done.completion.status = BlockStatus::kIoError;
    done.completion.data = std::move(data);
    if (what.operation == BlockOperation::kRead && !err) done.parts = std::move(request.what.parts);
    done_.push_back(std::move(done));
  }
  changed_.notify_all();
}

// ---- What is completed

void NbdDisk::tell() {
  pthread_setname_np(pthread_self(), "ht-nbd-done");
  std::vector<Done> batch;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return done_.empty() ? !driven_ : !held_ || stop_; });
    if (done_.empty()) return;
    while (!done_.empty() && batch.size() < options_.batch) {
      if (done_.front().sequence >= forgotten_)
        batch.push_back(std::move(done_.front()));
      else
        changes_.erase(done_.front().sequence);
      done_.pop_front();
    }
    copying_ = true;
    lock.unlock();
    for (Done& done : batch) {
      if (done.parts.empty()) continue;
      for_parts(done.parts, done.completion.data,
                [](uint8_t* part, uint8_t* bytes, size_t n) { std::memcpy(part, bytes, n); });
      done.completion.data.clear();
    }
    lock.lock();
    copying_ = false;
    changed_.notify_all();
    lock.unlock();
    for (Done& done : batch) on_complete_(std::move(done.completion));
    if (options_.on_pause) options_.on_pause();
    lock.lock();
    for (const Done& done : batch) changes_.erase(done.sequence);
    batch.clear();
    changed_.notify_all();
  }
}

}  // namespace hypertwin::backends
