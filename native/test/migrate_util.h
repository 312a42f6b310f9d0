// What the tests of native/core/migrate share: two ends of a connection, guests worth moving, and mail users
// who work through a move.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "code_of.h"
#include "machine_util.h"
#include "mail_client.h"
#include "migrate/migration.h"
#include "wire/channel.h"

namespace hypertwin::migrate {

using namespace std::chrono_literals;

struct Ends {
  std::unique_ptr<wire::Channel> source, destination;
};

inline Ends connect_ends() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_errno("socketpair", "testing");
  return {std::make_unique<wire::Channel>(wire::adopt(Fd(fds[0]), "destination")),
          std::make_unique<wire::Channel>(wire::adopt(Fd(fds[1]), "source"))};
}

inline std::shared_ptr<machine::Machine> boot_dirtier(const std::shared_ptr<kvm::System>& system,
                                                      const std::shared_ptr<machine::TestListener>& listener,
                                                      const std::string& options) {
  machine::MachineConfig config;
  config.memory_size = 32u << 20;
  config.command_line = options;
  std::shared_ptr<machine::Machine> machine =
      machine::Machine::create(system, config, machine::guest_image("dirtier"), listener);
  machine->start();
  if (!listener->wait_console("dirtier image")) throw Error("TEST", "the dirtier did not start");
  return machine;
}

struct Moved {
  MigrateResult sent;
  ReceiveResult received;
  std::string source_code = "none", destination_code = "none";
  std::string source_text, destination_text;
};

// Both sides, each in a thread. `started` is given the migration before it runs.
inline Moved move(const std::shared_ptr<kvm::System>& system,
                  const std::shared_ptr<machine::Machine>& machine, MigrateOptions send, ReceiveOptions take,
                  Ends ends = connect_ends(), const std::function<void(Migration&)>& started = {},
                  const std::function<void()>& ended = {}) {
  struct Last {
    const std::function<void()>& run;
    ~Last() {
      if (run) run();
    }
  };
  Moved moved;
  auto destination = std::async(std::launch::async, [&] {
    try {
      moved.received = receive(system, *ends.destination, std::move(take));
    } catch (const Error& error) {
      moved.destination_code = error.code();
      moved.destination_text = error.what();
    }
    ends.destination->close();
  });
  try {
    Migration migration(machine, std::move(ends.source), std::move(send));
    const Last last{ended};
    if (started) started(migration);
    moved.sent = migration.run();
  } catch (const Error& error) {
    moved.source_code = error.code();
    moved.source_text = error.what();
  }
  destination.get();
  return moved;
}

// With the first disk's image there, if it is another one.
inline ReceiveOptions take(std::shared_ptr<machine::Listener> listener, const std::string& disk = "") {
  ReceiveOptions options;
  options.listener = std::move(listener);
  if (!disk.empty())
    options.adjust = [disk](machine::MachineConfig& config) { config.disks.at(0).path = disk; };
  return options;
}

#define ASSERT_MOVED(moved)                                      \
  ASSERT_EQ((moved).source_code, "none") << (moved).source_text; \
  ASSERT_EQ((moved).destination_code, "none") << (moved).destination_text

// It runs: a round of the dirtier comes to its end. (Its listener hears of each.)
inline bool goes_on(machine::TestListener& listener) {
  size_t before = 0;
  {
    std::lock_guard lock(listener.mutex_);
    before = listener.markers_.size();
  }
  return listener.wait([&] { return listener.markers_.size() > before + 1; });
}

// No page of it is watched any more: writes cost nothing.
inline bool tracked(const machine::Machine& machine) {
  for (const kvm::Slot& slot : machine.vm()->slots())
    if (slot.flags & KVM_MEM_LOG_DIRTY_PAGES) return true;
  return false;
}

// Users of one mailroom, each one request at a time and again until it is answered, wherever it runs.
class MailUsers {
 public:
  explicit MailUsers(uint16_t count) : users_(count) {}
  ~MailUsers() { stop(); }

  class Side final : public machine::TestListener {
   public:
    explicit Side(MailUsers& users) : users_(users) {}
    void on_packet(uint32_t, std::span<const uint8_t> packet) override { users_.on_packet(this, packet); }

   private:
    MailUsers& users_;
  };
  std::shared_ptr<Side> side() { return std::make_shared<Side>(*this); }

  template <class M = machine::Machine>
  static std::shared_ptr<M> boot(const std::shared_ptr<kvm::System>& system,
                                 const std::shared_ptr<Side>& side, const std::string& disk,
                                 machine::MachineConfig config = {}) {
    std::ofstream(disk).close();
    std::filesystem::resize_file(disk, 8u << 20);
    config.memory_size = 32u << 20;
    config.nets.emplace_back();
    config.disks.push_back({.path = disk});
    std::shared_ptr<M> machine = M::create(system, config, machine::guest_image("mailroom"), side);
    machine->start();
    if (!side->wait_console("mailroom ready")) throw Error("TEST", "the mailroom did not start");
    return machine;
  }

  // From now on requests go there.
  void use(std::shared_ptr<machine::VirtualMachine> machine) {
    {
      std::lock_guard lock(mutex_);
      machine_.swap(machine);
    }
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  void stop() {
    quit_ = true;
    if (thread_.joinable()) thread_.join();
    // It may go with this, and call back meanwhile.
    std::shared_ptr<machine::VirtualMachine> last;
    std::lock_guard lock(mutex_);
    machine_.swap(last);
  }
  bool wait_answers(uint64_t more, std::chrono::seconds limit = 60s) {
    const uint64_t until = answers_ + more;
    const auto end = std::chrono::steady_clock::now() + limit;
    std::unique_lock lock(mutex_);
    return answered_.wait_until(lock, end, [&] { return answers_ >= until; });
  }
  uint64_t answers() const { return answers_; }
  // Every mail whose sending was acknowledged is in its owner's room, in `machine`: the number missing.
  uint64_t missing(const std::shared_ptr<machine::VirtualMachine>& machine) {
    quit_ = true;
    if (thread_.joinable()) thread_.join();
    uint64_t missing = 0;
    for (uint16_t id = 0; id < users_.size(); ++id) {
      std::unique_lock lock(mutex_);
      User& user = users_[id];
      user.listing = true;
      user.listed = 0;
      user.packet = mail::request(MAILROOM_LIST, id, ++user.seq, user.session, 0);
      while (user.listing) {
        auto packet = user.packet;
        lock.unlock();
        machine->send_packet(0, packet);
        lock.lock();
        answered_.wait_for(lock, 200ms, [&] { return !user.listing; });
      }
      if (user.listed < user.sent) missing += user.sent - user.listed;
    }
    return missing;
  }

 private:
  static constexpr uint64_t kMostMails = 40;
  struct User {
    uint64_t seq = 0;
    uint32_t session = 0;
    uint64_t sent = 0;    // mails acknowledged
    uint64_t listed = 0;  // entries in the last list
    bool listing = false;
    bool sending = false;
    uint32_t last_mail = 0;
    std::vector<uint8_t> packet;  // the request under way
  };

  void next(uint16_t id) {
    User& user = users_[id];
    ++user.seq;
    user.sending = false;
    if (user.session == 0) {
      user.packet = mail::request(MAILROOM_LOGIN, id, user.seq, 0);
    } else if (user.sent < kMostMails && user.seq % 3 == 0) {
      user.sending = true;
      std::vector<uint8_t> body(100 + user.seq % 300, static_cast<uint8_t>(user.seq));
      user.packet = mail::request(MAILROOM_SEND, id, user.seq, user.session, id, 0, body);
    } else if (user.last_mail) {
      user.packet = mail::request(MAILROOM_FLAG, id, user.seq, user.session, user.last_mail,
                                  static_cast<uint32_t>(user.seq % 256));
    } else {
      user.packet = mail::request(MAILROOM_LIST, id, user.seq, user.session);
    }
  }

  void on_packet(Side*, std::span<const uint8_t> packet) {
    auto reply = mail::parse(packet);
    if (!reply || reply->head.user >= users_.size()) return;
    const uint16_t id = reply->head.user;
    std::shared_ptr<machine::VirtualMachine> machine;
    std::vector<uint8_t> request;
    {
      std::lock_guard lock(mutex_);
      User& user = users_[id];
      if (reply->head.seq != user.seq) return;  // an answer to a repeated request
      if (reply->head.status != MAILROOM_OK) ++refused_;
      ++answers_;
      if (user.listing) {
        user.listed = reply->head.body_size / sizeof(mailroom_list_entry);
        user.listing = false;
      } else {
        if (reply->head.op == MAILROOM_LOGIN) user.session = reply->head.arg0;
        if (user.sending && reply->head.status == MAILROOM_OK) {
          ++user.sent;
          user.last_mail = reply->head.arg0;
        }
        if (!quit_) {
          next(id);
          machine = machine_;
          request = user.packet;
        }
      }
      answered_.notify_all();
    }
    if (machine) machine->send_packet(0, request);
  }

  // Whatever was not answered is sent again.
  void run() {
    std::vector<uint64_t> seen(users_.size(), ~uint64_t{0});
    {
      std::lock_guard lock(mutex_);
      for (uint16_t id = 0; id < users_.size(); ++id) next(id);
    }
    while (!quit_) {
      for (uint16_t id = 0; id < users_.size(); ++id) {
        std::shared_ptr<machine::VirtualMachine> machine;
        std::vector<uint8_t> packet;
        {
          std::lock_guard lock(mutex_);
          if (users_[id].seq == seen[id] || seen[id] == ~uint64_t{0}) {
            machine = machine_;
            packet = users_[id].packet;
          }
          seen[id] = users_[id].seq;
        }
        if (machine) machine->send_packet(0, packet);
      }
      std::this_thread::sleep_for(50ms);
    }
  }

  std::mutex mutex_;  // guards users_, machine_
  std::condition_variable answered_;
  std::vector<User> users_;
  std::shared_ptr<machine::VirtualMachine> machine_;
  std::atomic<uint64_t> answers_{0}, refused_{0};
  std::atomic<bool> quit_{false};
  std::thread thread_;
};

}  // namespace hypertwin::migrate
