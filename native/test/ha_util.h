// What the tests of native/core/ha share: mail users who outlive a host, an arbiter, a primary and a backup
// in one process, and streams that misbehave.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "ha/ha.h"
#include "machine_util.h"
#include "mail_client.h"

namespace hypertwin::ha {

using namespace std::chrono_literals;
using machine::Machine;
using machine::Reason;

// Users in a closed loop, each one request at a time; an answer that was missed is asked for again. What they
// were told is what must never be forgotten.
class Users {
 public:
  explicit Users(uint16_t count) : users_(count) {}

  // Requests go there from now on; what is outstanding is sent again.
  void use(std::shared_ptr<Machine> machine) {
    std::lock_guard lock(mutex_);
    machine_ = std::move(machine);
    for (uint16_t user = 0; user < users_.size(); ++user) send(user);
  }
  void answer(std::span<const uint8_t> packet) {
    const auto reply = mail::parse(packet);
    if (!reply || reply->head.user >= users_.size()) return;
    std::lock_guard lock(mutex_);
    ++replies_;
    const uint16_t id = reply->head.user;
    User& user = users_[id];
    if (reply->head.seq == 0) {
      // The answer to `last_seq()`.
      if (reply->head.status == MAILROOM_STALE) known_[id] = reply->head.value;
      wake_.notify_all();
      return;
    }
    if (reply->head.seq != user.acknowledged + 1) return;  // a duplicate
    if (reply->head.status != MAILROOM_OK) ++refused_;
    if (reply->head.op == MAILROOM_LOGIN) user.session = reply->head.arg0;
    ++user.acknowledged;
    ++acknowledged_;
    wake_.notify_all();
    if (!quiet_) send(id);
  }

  bool wait_acknowledged(uint64_t count) {
    std::unique_lock lock(mutex_);
    return wake_.wait_for(lock, 60s, [&] { return acknowledged_ >= count; });
  }
  // No new requests; waits for those under way. Then nothing more goes to the machine.
  bool settle() {
    std::unique_lock lock(mutex_);
    quiet_ = true;
    return wake_.wait_for(lock, 60s, [&] {
      for (const User& user : users_)
        if (user.sent != user.acknowledged) return false;
      return true;
    });
  }
  void forget_machine() {
    std::lock_guard lock(mutex_);
    machine_.reset();
  }
  void resume() {
    std::lock_guard lock(mutex_);
    quiet_ = false;
    for (uint16_t user = 0; user < users_.size(); ++user) send(user);
  }
  // As use(), having looked whether the guest there knows all that the users were told: it takes any later
  // request for the next one.
  testing::AssertionResult move_to(std::shared_ptr<Machine> machine) {
    {
      std::lock_guard lock(mutex_);
      machine_ = machine;
    }
    auto result = nothing_lost();
    use(std::move(machine));
    return result;
  }
  // What the guest knows of each user is what the user was told.
  testing::AssertionResult nothing_lost() {
    std::unique_lock lock(mutex_);
    known_.clear();
    // They may go on meanwhile.
    const auto told = users_;
    for (uint16_t user = 0; user < users_.size(); ++user)
      machine_->send_packet(0, mail::request(MAILROOM_LIST, user, 0, users_[user].session));
    if (!wake_.wait_for(lock, 60s, [&] { return known_.size() == users_.size(); }))
      return testing::AssertionFailure() << "only " << known_.size() << " users got an answer";
    for (uint16_t user = 0; user < users_.size(); ++user)
      if (known_[user] < told[user].acknowledged)
        return testing::AssertionFailure()
               << "user " << user << " was told that " << told[user].acknowledged
               << " operations were done, but the guest knows of " << known_[user];
    if (refused_) return testing::AssertionFailure() << refused_ << " operations were refused";
    return testing::AssertionSuccess();
  }
  uint64_t acknowledged() {
    std::lock_guard lock(mutex_);
    return acknowledged_;
  }
  uint64_t replies() {
    std::lock_guard lock(mutex_);
    return replies_;
  }

 private:
  struct User {
    uint64_t acknowledged = 0, sent = 0;
    uint32_t session = 0;
  };
  // The mutex is held.
  void send(uint16_t id) {
    if (!machine_) return;
    User& user = users_[id];
    const uint64_t seq = user.sent = user.acknowledged + 1;
    uint8_t body[64];
    std::memset(body, static_cast<int>(seq), sizeof(body));
    const auto to = static_cast<uint32_t>((id + 1u) % users_.size());
    if (user.session == 0)
      machine_->send_packet(0, mail::request(MAILROOM_LOGIN, id, seq, 0));
    else if (seq % 3 == 0 && seq < 60)
      machine_->send_packet(0, mail::request(MAILROOM_SEND, id, seq, user.session, to, 0, body));
    else
      machine_->send_packet(0, mail::request(MAILROOM_LIST, id, seq, user.session));
  }

  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::shared_ptr<Machine> machine_;
  std::vector<User> users_;
  std::map<uint16_t, uint64_t> known_;
  uint64_t acknowledged_ = 0, replies_ = 0, refused_ = 0;
  bool quiet_ = false;
};

class UserListener final : public machine::TestListener {
 public:
  explicit UserListener(std::shared_ptr<Users> users) : users_(std::move(users)) {}
  void on_packet(uint32_t, std::span<const uint8_t> packet) override {
    packets.fetch_add(1);
    if (users_) users_->answer(packet);
  }
  std::atomic<uint64_t> packets{0};

 private:
  const std::shared_ptr<Users> users_;
};

// One winner for each key; can be made to answer nobody, or only one.
class TestArbiter {
 public:
  migrate::Arbiter arbiter() {
    return [this](const std::string& key, const std::string& who) {
      std::lock_guard lock(mutex_);
      ++asked_;
      changed_.notify_all();
      if (unreachable_) return migrate::Claim::kUnreachable;
      if (yes_to_all_) return migrate::Claim::kWon;
      if (!only_.empty() && who != only_) return migrate::Claim::kLost;
      auto [it, fresh] = winners_.try_emplace(key, who);
      return it->second == who ? migrate::Claim::kWon : migrate::Claim::kLost;
    };
  }
  void only(const std::string& who) {
    with_lock([&] { only_ = who; });
  }
  void unreachable(bool is) {
    with_lock([&] { unreachable_ = is; });
  }
  void yes_to_all() {
    with_lock([&] { yes_to_all_ = true; });
  }
  bool wait_asked(int times) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 60s, [&] { return asked_ >= times; });
  }
  std::string winner(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto it = winners_.find(key);
    return it == winners_.end() ? "" : it->second;
  }

 private:
  void with_lock(const std::function<void()>& change) {
    std::lock_guard lock(mutex_);
    change();
  }
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::string, std::string> winners_;
  std::string only_;
  bool unreachable_ = false, yes_to_all_ = false;
  int asked_ = 0;
};

// Events as they come.
class Events {
 public:
  std::function<void(const Event&)> take() {
    return [this](const Event& event) {
      std::lock_guard lock(mutex_);
      events_.push_back(event);
      changed_.notify_all();
    };
  }
  bool wait(State state) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 60s, [&] { return find(state) != nullptr; });
  }
  std::string code(State state) {
    std::lock_guard lock(mutex_);
    const Event* event = find(state);
    return event ? event->code : "none";
  }
  std::string text() {
    std::lock_guard lock(mutex_);
    std::string out;
    for (const auto& event : events_)
      out += std::string(state_name(event.state)) + " " + event.code + ": " + event.message + "\n";
    return out;
  }

 private:
  const Event* find(State state) const {
    for (const auto& event : events_)
      if (event.state == state) return &event;
    return nullptr;
  }
  std::mutex mutex_;  // guards events_
  std::condition_variable changed_;
  std::vector<Event> events_;
};

// A stream whose cable can be cut: what is written vanishes, and nothing comes.
struct Cable {
  std::atomic<bool> cut{false};
  std::atomic<uint64_t> written{0};  // times
};
class CuttableStream final : public wire::Stream {
 public:
  CuttableStream(std::unique_ptr<wire::Stream> inner, std::shared_ptr<Cable> cable)
      : inner_(std::move(inner)), cable_(std::move(cable)) {}
  size_t read(std::span<uint8_t> into) override { return inner_->read(into); }
  void write(std::span<const std::span<const uint8_t>> parts) override {
    if (!cable_->cut.load()) inner_->write(parts);
    cable_->written.fetch_add(1);
  }
  void shutdown() noexcept override {
    // The other side hears nothing of that either.
    inner_->shutdown();
  }
  std::string peer() const override { return inner_->peer(); }

 private:
  const std::unique_ptr<wire::Stream> inner_;
  const std::shared_ptr<Cable> cable_;
};

// A stream whose reader can be kept waiting: what came is told only later.
struct Delay {
  void hold(bool is) {
    std::lock_guard lock(mutex);
    held = is;
    changed.notify_all();
  }
  std::mutex mutex;  // guards held
  std::condition_variable changed;
  bool held = false;
};
class LateStream final : public wire::Stream {
 public:
  LateStream(std::unique_ptr<wire::Stream> inner, std::shared_ptr<Delay> delay)
      : inner_(std::move(inner)), delay_(std::move(delay)) {}
  size_t read(std::span<uint8_t> into) override {
    const size_t size = inner_->read(into);
    std::unique_lock lock(delay_->mutex);
    delay_->changed.wait(lock, [this] { return !delay_->held; });
    return size;
  }
  void write(std::span<const std::span<const uint8_t>> parts) override { inner_->write(parts); }
  void shutdown() noexcept override {
    delay_->hold(false);
    inner_->shutdown();
  }
  std::string peer() const override { return inner_->peer(); }

 private:
  const std::unique_ptr<wire::Stream> inner_;
  const std::shared_ptr<Delay> delay_;
};

struct Ends {
  std::unique_ptr<wire::Channel> primary, backup;
};

inline std::pair<std::unique_ptr<wire::Stream>, std::unique_ptr<wire::Stream>> streams() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
  return {wire::adopt(Fd(fds[0]), "backup"), wire::adopt(Fd(fds[1]), "primary")};
}

inline Ends connect_ends() {
  auto [primary, backup] = streams();
  return {std::make_unique<wire::Channel>(std::move(primary)),
          std::make_unique<wire::Channel>(std::move(backup))};
}

// Generous: these tests are not about time.
inline Heartbeats calm() { return {2000us, 5s, 10s}; }

inline machine::MachineConfig mail_config(const std::string& disk) {
  std::ofstream(disk).close();
  std::filesystem::resize_file(disk, 8u << 20);
  machine::MachineConfig config;
  config.memory_size = 32u << 20;
  config.nets.emplace_back();
  config.disks.push_back({.path = disk});
  return config;
}

inline std::shared_ptr<Machine> boot_mailroom(const std::shared_ptr<kvm::System>& system,
                                              const std::shared_ptr<machine::TestListener>& listener,
                                              const std::string& disk) {
  std::shared_ptr<Machine> machine =
      Machine::create(system, mail_config(disk), machine::guest_image("mailroom"), listener);
  machine->start();
  if (!listener->wait_console("mailroom ready")) throw Error("TEST", "no mailroom: " + listener->console());
  return machine;
}

// Keeps a machine's thread from running its guest until it goes.
class Standstill {
 public:
  explicit Standstill(std::shared_ptr<Machine> machine) {
    std::promise<void> begun;
    thread_ = std::thread([this, machine = std::move(machine), &begun] {
      machine->call(machine::At::kAnywhere, [&] {
        begun.set_value();
        over_.get_future().wait();
      });
    });
    begun.get_future().wait();
  }
  ~Standstill() { end(); }
  void end() {
    if (!thread_.joinable()) return;
    over_.set_value();
    thread_.join();
  }

 private:
  std::promise<void> over_;
  std::thread thread_;
};

inline bool soon(const std::function<bool()>& done) {
  for (const auto until = std::chrono::steady_clock::now() + 60s; !done(); std::this_thread::sleep_for(1ms))
    if (std::chrono::steady_clock::now() > until) return false;
  return true;
}

// A machine under protection and its replica.
struct Pair {
  std::shared_ptr<kvm::System> system;
  std::shared_ptr<Users> users;
  machine::TempDir dir;
  TestArbiter arbiter;
  Events primary_events, backup_events;
  std::shared_ptr<UserListener> primary_listener, backup_listener;
  std::shared_ptr<Machine> machine;
  std::unique_ptr<Primary> primary;
  std::unique_ptr<Backup> backup;
  ProtectOptions protect;
  BackupOptions follow;

  explicit Pair(std::shared_ptr<kvm::System> kvm, uint16_t user_count = 8)
      : system(std::move(kvm)), users(std::make_shared<Users>(user_count)) {
    protect.heartbeats = follow.heartbeats = calm();
    protect.max_lag = 10s;
    protect.arbiter = follow.arbiter = arbiter.arbiter();
    protect.on_event = primary_events.take();
    follow.on_event = backup_events.take();
    follow.adjust = [this](machine::MachineConfig& config) {
      for (auto& disk : config.disks) disk.path = dir.file("backup.img");
    };
    primary_listener = std::make_shared<UserListener>(users);
    backup_listener = std::make_shared<UserListener>(users);
    follow.listener = backup_listener;
  }
  // A machine tells its listener, which tells the users, who hold the machine.
  ~Pair() { users->use(nullptr); }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  void boot() {
    machine = boot_mailroom(system, primary_listener, dir.file("primary.img"));
    users->use(machine);
  }
  // Both sides; returns when the machine is protected.
  testing::AssertionResult protect_it(Ends ends = connect_ends()) {
    backup = Backup::follow(system, std::move(ends.backup), follow);
    primary = Primary::protect(machine, std::move(ends.primary), protect);
    if (!primary_events.wait(State::kProtected) || !backup_events.wait(State::kProtected))
      return testing::AssertionFailure() << "primary:\n"
                                         << primary_events.text() << "backup:\n"
                                         << backup_events.text();
    return testing::AssertionSuccess();
  }
  std::string text() { return "primary:\n" + primary_events.text() + "backup:\n" + backup_events.text(); }
};

}  // namespace hypertwin::ha
