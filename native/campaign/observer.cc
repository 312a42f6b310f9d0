#include "observer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "../test/mail_client.h"
#include "base/digest.h"
#include "base/error.h"
#include "messages.h"

namespace hypertwin::campaign {

namespace {

constexpr uint16_t kProbeUser = 200;  // and up, one for each host
constexpr uint64_t kMostMails = 6;    // of a user, before one is deleted
constexpr size_t kPayloadAt = 14 + 20 + 8;
// While something is awaited so many looks are taken at whether the kernel keeps a host; found so in so many
// it is not the host that is late.
constexpr int kLooks = 16, kKept = 3;

// What each of a process's threads is doing, by the kernel's word.
std::string threads_of(pid_t pid) {
  std::string text;
  std::error_code ignored;
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(folder, ignored)) {
    std::string comm, wchan, status, state;
    std::getline(std::ifstream(task.path() / "comm"), comm);
    std::getline(std::ifstream(task.path() / "wchan"), wchan);
    for (std::ifstream in(task.path() / "status"); std::getline(in, status);)
      if (status.compare(0, 6, "State:") == 0) state = status.substr(7, 1);
    text += " " + comm + ":" + state + ":" + wchan;
  }
  return text;
}

}  // namespace

uint64_t monotonic_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// ---- Relay

namespace {

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) throw Error("CAMPAIGN", "too long a path: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

Relay::Relay(const std::string& path, std::string onward)
    : address_("unix:" + path), path_(path), onward_(std::move(onward)) {
  listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto address = unix_address(path);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_.get(), 1) != 0)
    throw_errno("bind", "a relay at " + path);
}

Relay::~Relay() { ::unlink(path_.c_str()); }

std::vector<int> Relay::descriptors() const {
  std::vector<int> all;
  if (!ends_[0]) all.push_back(listener_.get());
  for (int i = 0; i < 2; ++i)
    if (ends_[i] && !over_[i]) all.push_back(ends_[i].get());
  return all;
}

void Relay::pump(std::mt19937_64& random) {
  if (!ends_[0]) {
    ends_[0] = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!ends_[0]) return;
    ends_[1] = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto address = unix_address(onward_.substr(5));
    if (::connect(ends_[1].get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
      throw_errno("connect", "a relay onward to " + onward_);
  }
  const uint64_t now = monotonic_ns();
  for (int from = 0; from < 2; ++from) {
    const int to = 1 - from;
    while (!over_[from] && ends_[from]) {
      std::vector<uint8_t> bytes(65536);
      const ssize_t size = ::recv(ends_[from].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (size < 0 && (errno == EAGAIN || errno == EINTR)) break;
      if (size <= 0) {
        over_[from] = true;
        break;
      }
      bytes.resize(static_cast<size_t>(size));
      const uint64_t wait =
          delay_.count() > 0 ? random() % (static_cast<uint64_t>(delay_.count()) * 1000) : 0;
      uint64_t due = now + wait;
      if (!buffers_[from].empty()) due = std::max(due, buffers_[from].back().due);
      buffers_[from].push_back({due, std::move(bytes)});
    }
    while (!held_[from] && !buffers_[from].empty() && buffers_[from].front().due <= now) {
      auto& bytes = buffers_[from].front().bytes;
      const ssize_t sent = ::send(ends_[to].get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && (errno == EAGAIN || errno == EINTR)) break;
      if (sent < 0) {
        buffers_[from].clear();
        break;
      }
      bytes.erase(bytes.begin(), bytes.begin() + sent);
      if (bytes.empty()) buffers_[from].pop_front();
    }
    if (over_[from] && buffers_[from].empty() && !held_[from] && !swallow_end_ && ends_[to])
      ::shutdown(ends_[to].get(), SHUT_WR);
  }
}

// ---- Hosts

Observer::Observer(std::string folder, uint64_t seed)
    : folder_(std::move(folder)), random_(seed), users_(kUsers) {
  std::filesystem::create_directories(folder_ + "/arbiter");
}

Observer::~Observer() {
  for (auto& [number, host] : hosts_)
    if (host.alive) ::kill(host.pid, SIGKILL);
  for (auto& [number, host] : hosts_)
    if (host.alive) ::waitpid(host.pid, nullptr, 0);
  relays_.clear();
  lan_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

namespace {

// In the node's process: a network of its own, whose tap goes to the observer.
void give_tap(const NodeOptions& options, const Weather& weather, int socket) {
  try {
    const Fd tap = enter_lan(static_cast<unsigned>(options.lan_port), weather);
    send_descriptor(socket, tap.get());
  } catch (const std::exception& error) {
    send_text(options.socket, Tag::kEvent, std::string("failed ") + error.what());
    ::_exit(1);
  }
}

}  // namespace

unsigned Observer::start(NodeOptions options, const std::string& disk_from) {
  const unsigned number = next_host_++;
  options.number = number;
  if (options.disk.empty()) options.disk = folder_ + "/disk" + std::to_string(number);
  if (!disk_from.empty()) std::filesystem::copy_file(disk_from, options.disk);
  if (options.listen.empty()) options.listen = "unix:" + folder_ + "/n" + std::to_string(number);
  if (options.arbiter.empty()) options.arbiter = folder_ + "/arbiter";
  if (options.arbiter == "none") options.arbiter.clear();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) throw_errno("socketpair", "a node");
  Fd ours(ends[0]);
  options.socket = ends[1];
  const int room = 1 << 20;
  ::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  int taps[2] = {-1, -1};
  if (options.lan_port >= 0 && ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, taps) != 0)
    throw_errno("socketpair", "a node's tap");
  Fd tap_here(taps[0]), tap_there(taps[1]);
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno("fork", "a node");
  if (pid == 0) {
    // What the observer holds is not a node's, and would keep connections open.
    for (auto& [other, host] : hosts_) host.socket.reset();
    relays_.clear();
    lan_.reset();
    ours.reset();
    tap_here.reset();
    if (tap_there) give_tap(options, kernel_has_netem() ? weather_ : Weather{}, tap_there.get());
    tap_there.reset();
    run_node(std::move(options));
  }
  ::close(ends[1]);
  tap_there.reset();
  if (tap_here) lan_->plug(static_cast<unsigned>(options.lan_port), receive_descriptor(tap_here.get()));
  Host& host = hosts_[number];
  host.pid = pid;
  host.socket = std::move(ours);
  host.alive = true;
  host.disk = options.disk;
  story_.push_back("node " + std::to_string(number) + " begins" +
                   (options.kill.step.empty()
                        ? ""
                        : ", to end at " + options.kill.step + " " + std::to_string(options.kill.nth)));
  return number;
}

const std::string* Observer::Host::event(const std::string& begin) const {
  for (size_t i = events.size(); i-- > heard;)
    if (events[i].compare(0, begin.size(), begin) == 0) return &events[i];
  return nullptr;
}

void Observer::command(unsigned number, const std::string& text) {
  Host& to = host(number);
  story_.push_back("to node " + std::to_string(number) + ": " + text);
  if (to.alive) send_text(to.socket.get(), Tag::kCommand, text);
}

void Observer::signal(unsigned number, int which) {
  Host& to = host(number);
  story_.push_back("signal " + std::to_string(which) + " to node " + std::to_string(number));
  if (!to.alive) return;
  ::kill(to.pid, which);
  if (which == SIGSTOP) to.stopped = true;
  if (which == SIGCONT) to.stopped = false;
  if (which != SIGKILL) return;
  // Dead from here on, also for who looks at once.
  ::waitpid(to.pid, nullptr, 0);
  to.alive = false;
}

void Observer::remove(unsigned number) {
  Host& gone = host(number);
  if (gone.alive) {
    ::kill(gone.pid, SIGKILL);
    ::waitpid(gone.pid, nullptr, 0);
    gone.alive = false;
  }
}

void Observer::reap() {
  for (auto& [number, host] : hosts_) {
    int status = 0;
    if (!host.alive || ::waitpid(host.pid, &status, WNOHANG) != host.pid) continue;
    host.alive = false;
    story_.push_back("node " + std::to_string(number) + " is dead (" +
                     (WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                          : "exit " + std::to_string(WEXITSTATUS(status))) +
                     ")");
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
      violated("node " + std::to_string(number) +
               " ended by itself: " + (host.events.empty() ? "without a word" : host.events.back()));
  }
}

Lan& Observer::make_lan(const Weather& weather) {
  weather_ = weather;
  lan_ = std::make_unique<Lan>(kernel_has_netem() ? Weather{} : weather);
  return *lan_;
}

Relay& Observer::relay(const std::string& onward) {
  relays_.push_back(std::make_unique<Relay>(folder_ + "/r" + std::to_string(relays_.size()), onward));
  return *relays_.back();
}

uint64_t Observer::disk_digest(unsigned number) const {
  std::ifstream in(hosts_.at(number).disk, std::ios::binary);
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(in), {}};
  return checksum64(bytes);
}

std::string Observer::story() const {
  std::string text;
  for (const auto& line : story_) text += line + "\n";
  return text;
}

void Observer::violated(const std::string& what) {
  for (auto& [number, host] : hosts_)
    if (host.alive) story_.push_back("node " + std::to_string(number) + " now:" + threads_of(host.pid));
  story_.push_back("VIOLATION: " + what);
  throw Violation{what};
}

// ---- The network

void Observer::pump(std::chrono::microseconds wait) {
  std::vector<pollfd> polls;
  std::vector<unsigned> numbers;
  for (auto& [number, host] : hosts_)
    if (host.socket) {
      polls.push_back({host.socket.get(), POLLIN, 0});
      numbers.push_back(number);
    }
  for (auto& relay : relays_)
    for (int fd : relay->descriptors()) polls.push_back({fd, POLLIN, 0});
  if (lan_)
    for (int fd : lan_->descriptors()) polls.push_back({fd, POLLIN, 0});
  const timespec time{wait.count() / 1'000'000, (wait.count() % 1'000'000) * 1000};
  const int ready = ::ppoll(polls.data(), polls.size(), &time, nullptr);
  for (auto& relay : relays_) relay->pump(random_);
  if (lan_) lan_->pump(random_);
  if (ready > 0) {
    // Newest host first, so that what an older one had sent before is read after it, and then handled before.
    std::vector<std::pair<unsigned, std::vector<std::vector<uint8_t>>>> read;
    for (size_t i = numbers.size(); i-- > 0;) {
      Host& from = hosts_.at(numbers[i]);
      std::vector<std::vector<uint8_t>> messages;
      for (;;) {
        std::vector<uint8_t> message(kLargestMessage);
        const ssize_t size = ::recv(from.socket.get(), message.data(), message.size(), MSG_DONTWAIT);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) {
          if (size == 0 || errno != EAGAIN) from.socket.reset();
          break;
        }
        message.resize(static_cast<size_t>(size));
        messages.push_back(std::move(message));
        if (messages.size() >= 256) break;
      }
      read.emplace_back(numbers[i], std::move(messages));
    }
    for (auto it = read.rbegin(); it != read.rend(); ++it)
      for (auto& message : it->second) {
        const std::span<const uint8_t> rest(message.data() + 1, message.size() - 1);
        if (message[0] == static_cast<uint8_t>(Tag::kFrame)) {
          on_frame(it->first, rest);
        } else {
          std::string text(reinterpret_cast<const char*>(rest.data()), rest.size());
          story_.push_back("node " + std::to_string(it->first) + ": " + text);
          hosts_.at(it->first).events.push_back(std::move(text));
        }
      }
  }
  const uint64_t now = monotonic_ns(), patience = static_cast<uint64_t>(retransmit_.count()) * 1000;
  for (uint16_t user = 0; user < kUsers; ++user)
    if (users_[user].waiting && now - users_[user].sent_at > patience) transmit(user, true);
}

bool Observer::run(const std::function<bool()>& done, std::chrono::milliseconds limit) {
  const uint64_t until = monotonic_ns() + static_cast<uint64_t>(limit.count()) * 1'000'000;
  while (!done()) {
    if (monotonic_ns() > until) return false;
    pump(std::chrono::microseconds(500));
    reap();
  }
  return true;
}

void Observer::expect(const std::string& what, const std::function<bool()>& done,
                      std::chrono::milliseconds limit) {
  // Of each host: how often it was found in a call that the kernel keeps, and where.
  std::map<unsigned, std::pair<int, std::string>> kept;
  for (int look = 1; look <= kLooks; ++look) {
    if (run(done, limit / kLooks)) return;
    for (auto& [number, host] : hosts_)
      if (host.alive)
        if (auto threads = threads_of(host.pid); threads.find(":D:") != threads.npos) {
          kept[number].first += look == kLooks ? kKept : 1;
          kept[number].second = std::move(threads);
        }
  }
  for (const auto& [number, where] : kept)
    if (where.first >= kKept)
      throw Stalled{"node " + std::to_string(number) + " hangs in the kernel:" + where.second};
  violated("in vain awaited: " + what);
}

void Observer::pass(std::chrono::microseconds time) {
  const uint64_t until = monotonic_ns() + static_cast<uint64_t>(time.count()) * 1000;
  for (uint64_t now = monotonic_ns(); now < until; now = monotonic_ns()) {
    pump(std::chrono::microseconds(std::min<uint64_t>((until - now) / 1000 + 1, 500)));
    reap();
  }
}

void Observer::expect_service(const std::string& when, std::optional<unsigned> number, uint64_t answers) {
  traffic(true);
  const uint64_t before = number ? host(*number).firsts : answered_;
  expect("service " + when, [&] { return (number ? host(*number).firsts : answered_) >= before + answers; });
}

bool Observer::answers(unsigned number, std::chrono::milliseconds limit) {
  Host& to = host(number);
  const uint64_t before = to.probes;
  const uint64_t until = monotonic_ns() + static_cast<uint64_t>(limit.count()) * 1'000'000;
  while (to.probes == before && monotonic_ns() < until) {
    const auto frame =
        mail::request(MAILROOM_DIGEST, static_cast<uint16_t>(kProbeUser + number % 50), ++to.asked, 0);
    if (to.socket) send_message(to.socket.get(), Tag::kFrame, frame);
    run([&] { return to.probes != before; }, std::chrono::milliseconds(5));
  }
  return to.probes != before;
}

// ---- The users

void Observer::traffic(bool on) {
  if (on && !traffic_) last_answer_at_ = monotonic_ns();
  traffic_ = on;
  if (on)
    for (uint16_t user = 0; user < kUsers; ++user)
      if (!users_[user].waiting) next(user);
}

uint64_t Observer::take_longest_pause() { return std::exchange(longest_pause_, 0); }

void Observer::ask(uint16_t user, uint8_t op, uint32_t arg0, uint32_t arg1, std::vector<uint8_t> body) {
  User& who = users_[user];
  who.op = op;
  ++who.seq;
  who.frame = mail::request(static_cast<mailroom_op>(op), user, who.seq, who.session, arg0, arg1, body);
  who.body = std::move(body);
  who.waiting = true;
  transmit(user, false);
}

void Observer::next(uint16_t user) {
  User& who = users_[user];
  auto& room = rooms_[user];
  if (who.session == 0) return ask(user, MAILROOM_LOGIN);
  const uint64_t choice = below(4);
  if (choice < 2 || room.empty()) {
    std::vector<uint8_t> body(8 + below(56));
    for (uint8_t& byte : body) byte = static_cast<uint8_t>(random_());
    who.to = static_cast<uint16_t>(below(kUsers));
    if (rooms_[who.to].size() < kMostMails || room.empty())
      return ask(user, MAILROOM_SEND, who.to, 0, std::move(body));
  }
  auto mail = room.begin();
  std::advance(mail, static_cast<long>(below(room.size())));
  who.mail = mail->first;
  if (choice == 3 || room.size() >= kMostMails) return ask(user, MAILROOM_DELETE, who.mail);
  who.flags = static_cast<uint8_t>(random_());
  ask(user, MAILROOM_FLAG, who.mail, who.flags);
}

void Observer::transmit(uint16_t user, bool everywhere) {
  User& who = users_[user];
  who.sent_at = monotonic_ns();
  for (auto& [number, host] : hosts_)
    if (host.alive && host.socket && (everywhere || !port_ || *port_ == number))
      send_message(host.socket.get(), Tag::kFrame, who.frame);
}

void Observer::on_frame(unsigned number, std::span<const uint8_t> frame) {
  Host& from = hosts_.at(number);
  ++from.frames;
  const auto reply = mail::parse(frame);
  if (!reply) return;  // an announcement
  const auto& head = reply->head;
  if (head.user >= kProbeUser) {
    ++from.probes;
    return;
  }
  if (head.user >= kUsers) violated("an answer to user " + std::to_string(head.user) + ", who asked nothing");
  User& who = users_[head.user];
  const std::vector<uint8_t> bytes(frame.begin() + kPayloadAt, frame.end());
  const std::string name = "node " + std::to_string(number) + ", user " + std::to_string(head.user) +
                           ", request " + std::to_string(head.seq);
  if (head.seq > who.seq) violated(name + ": an answer to what was not asked yet");
  if (!who.waiting || head.seq != who.seq) {
    // A repeat. What an older request is answered with now depends on what came after it.
    if (head.seq == who.last_seq && head.status != MAILROOM_STALE && bytes != who.last_reply)
      violated(name + ": two answers that differ");
    return;
  }
  if (former_.contains(number))
    violated(name + ": does new work after node " + std::to_string(*author_) + " took over: two are live");
  if (author_ && *author_ != number) {
    former_.insert(*author_);
    story_.push_back("node " + std::to_string(number) + " answers now");
  }
  const uint64_t now = monotonic_ns();
  author_ = port_ = number;
  if (from.firsts++ == 0) from.first_at = now;
  longest_pause_ = std::max(longest_pause_, now - last_answer_at_);
  last_answer_at_ = now;
  ++answered_;
  ++operations_;
  who.waiting = false;
  who.last_seq = who.seq;
  who.last_reply = bytes;
  const auto fail = [&] { violated(name + ": status " + std::to_string(head.status)); };
  if (queries_) {
    answer_ = Answer{head.status, head.arg0, head.value, reply->body};
    return;
  }
  auto& room = rooms_[head.user];
  switch (who.op) {
    case MAILROOM_LOGIN:
      if (head.status != MAILROOM_OK) fail();
      who.session = head.arg0;
      break;
    case MAILROOM_SEND:
      if (head.status != MAILROOM_OK) fail();
      if (rooms_[who.to].contains(head.arg0)) violated(name + ": a mail's number is given twice");
      rooms_[who.to][head.arg0] = Mail{who.body, head.user, 0};
      break;
    case MAILROOM_FLAG:
      if (head.status != MAILROOM_OK) fail();
      room.at(who.mail).flags = who.flags;
      break;
    case MAILROOM_DELETE:
      if (head.status != MAILROOM_OK) fail();
      room.erase(who.mail);
      break;
    default:
      break;
  }
  if (traffic_) next(head.user);
}

Observer::Answer Observer::query(uint16_t user, uint8_t op, uint32_t arg0, uint32_t arg1) {
  queries_ = true;
  answer_.reset();
  ask(user, op, arg0, arg1);
  const bool got = run([&] { return answer_.has_value(); });
  queries_ = false;
  if (!got) violated("in vain awaited: an answer to a question");
  return *std::move(answer_);
}

void Observer::verify(bool exactly) {
  traffic(false);
  expect("answers to all that was asked", [&] {
    return std::none_of(users_.begin(), users_.end(), [](const User& user) { return user.waiting; });
  });
  const uint64_t operations = operations_;
  const Answer digest = query(0, MAILROOM_DIGEST);
  --operations_;  // a question that does not count
  mailroom_digest held{};
  if (digest.body.size() < sizeof(held)) violated("no digest");
  std::memcpy(&held, digest.body.data(), sizeof(held));
  if (exactly && held.operations != operations)
    violated("the machine did " + std::to_string(held.operations) + " operations, " +
             std::to_string(operations) + " were acknowledged");
  for (uint16_t user = 0; user < kUsers; ++user) {
    if (users_[user].session == 0) continue;
    std::map<uint32_t, Mail> rest = rooms_[user];
    const Answer list = query(user, MAILROOM_LIST);
    if (list.status != MAILROOM_OK)
      violated("user " + std::to_string(user) + " cannot list: status " + std::to_string(list.status));
    for (size_t at = 0; at + sizeof(mailroom_list_entry) <= list.body.size();
         at += sizeof(mailroom_list_entry)) {
      mailroom_list_entry entry{};
      std::memcpy(&entry, list.body.data() + at, sizeof(entry));
      const auto found = rest.find(entry.id);
      if (found == rest.end()) violated("a mail that nobody was told of, or one that was deleted");
      if (entry.flags != found->second.flags || entry.from != found->second.from)
        violated("a mail's flags or sender are not what was acknowledged");
      const Answer mail = query(user, MAILROOM_READ, entry.id);
      if (mail.status != MAILROOM_OK || mail.body != found->second.body)
        violated("a mail is not what was sent");
      rest.erase(found);
    }
    if (!rest.empty())
      violated(std::to_string(rest.size()) + " acknowledged mails of user " + std::to_string(user) +
               " are lost");
  }
}

}  // namespace hypertwin::campaign
