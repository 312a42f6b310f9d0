// Users of a mailroom in a closed loop. They answer on the thread that lets the packet out, the vCPU's own:
// no thread is woken for a packet, so the load generator is not what limits the mailroom. Or on a thread of
// their own, as users behind a network do. The same mix as the load generator in JavaScript has.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../test/mail_client.h"
#include "bench.h"
#include "machine_bench.h"
#include "replay/recorder.h"

namespace hypertwin::bench {

class MailLoad final : public Watch {
 public:
  struct Options {
    uint16_t users = 50;
    std::string log;     // folder of a log, "" for no recording
    bool timed = false;  // measures the load's own time
    bool apart = false;  // the users have a thread of their own
  };

  static std::shared_ptr<MailLoad> boot(const std::shared_ptr<kvm::System>& system, const TempDir& dir,
                                        const Options& options) {
    auto self = std::make_shared<MailLoad>();
    self->users_.resize(options.users);
    self->timed_ = options.timed;
    if (options.apart) self->thread_ = std::thread([load = self.get()] { load->work(); });
    const std::string disk = dir.file("mail.img");
    std::ofstream(disk).close();
    std::filesystem::resize_file(disk, 64u << 20);
    machine::MachineConfig config;
    config.memory_size = 32u << 20;
    config.nets.emplace_back();
    config.disks.push_back({.path = disk});
    self->machine = machine::Machine::create(system, config, guest_image("mailroom"), self);
    if (!options.log.empty()) self->recording = replay::Recording::start(self->machine, options.log);
    self->started = now();
    self->machine->start();
    self->wait_console("mailroom ready");
    return self;
  }

  MailLoad() = default;
  MailLoad(const MailLoad&) = delete;
  MailLoad& operator=(const MailLoad&) = delete;
  ~MailLoad() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(arrived_mutex_);
      leave_ = true;
    }
    arrive_.notify_one();
    thread_.join();
  }

  // All users log in; each goes on when it is answered.
  void start() {
    for (uint16_t user = 0; user < users_.size(); ++user) send(user, MAILROOM_LOGIN);
  }
  void wait_answers(uint64_t count) {
    awaited_.store(count);
    wait([&] { return answered_.load() >= count; });
  }
  // No more requests; waits for what is under way.
  void finish() {
    quiet_.store(true);
    wait([&] { return under_way_.load() == 0; });
  }

  uint64_t answered() const { return answered_.load(); }
  uint64_t refused() const { return refused_.load(); }
  // Of the vCPU's thread, seconds; the machine must be running or paused.
  double cpu() {
    double seconds = 0;
    machine->call(machine::At::kAnywhere, [&] { seconds = clock_seconds(CLOCK_THREAD_CPUTIME_ID); });
    return seconds;
  }
  double own_time() const { return own_.load(); }

  std::shared_ptr<machine::Machine> machine;
  std::unique_ptr<replay::Recording> recording;
  double started = 0;

  void on_packet(uint32_t, std::span<const uint8_t> packet) override {
    if (thread_.joinable()) {
      std::lock_guard lock(arrived_mutex_);
      arrived_.emplace_back(packet.begin(), packet.end());
      if (arrived_.size() == 1) arrive_.notify_one();
      return;
    }
    const double begun = timed_ ? now() : 0;
    if (auto reply = mail::parse(packet)) answer(*reply);
    if (timed_) own_.store(own_.load() + now() - begun);
  }

 private:
  void work() {
    ::pthread_setname_np(::pthread_self(), "users");
    std::vector<std::vector<uint8_t>> packets;
    for (;;) {
      packets.clear();
      {
        std::unique_lock lock(arrived_mutex_);
        arrive_.wait(lock, [this] { return leave_ || !arrived_.empty(); });
        if (leave_) return;
        packets.swap(arrived_);
      }
      for (const auto& packet : packets)
        if (auto reply = mail::parse(packet)) answer(*reply);
    }
  }

  static constexpr size_t kMailboxMax = 32;

  struct User {
    uint32_t session = 0;
    uint64_t seq = 0;
    uint32_t mail = 0;  // of the operation under way
    uint16_t to = 0;
    std::vector<uint32_t> mails;
  };

  uint32_t draw(uint32_t below) {
    random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
    return static_cast<uint32_t>(random_ >> 32) % below;
  }

  void answer(const mail::Reply& reply) {
    const uint16_t id = reply.head.user;
    if (id >= users_.size()) return;
    User& user = users_[id];
    if (reply.head.seq != user.seq) return;
    if (reply.head.status != MAILROOM_OK) {
      refused_.fetch_add(1);
    } else if (reply.head.op == MAILROOM_LOGIN) {
      user.session = reply.head.arg0;
    } else if (reply.head.op == MAILROOM_SEND) {
      users_[user.to].mails.push_back(reply.head.arg0);
    } else if (reply.head.op == MAILROOM_DELETE) {
      std::erase(user.mails, user.mail);
    }
    under_way_.fetch_sub(1);
    const uint64_t answered = answered_.fetch_add(1) + 1;
    if (!quiet_.load(std::memory_order_relaxed)) next(id);
    if (answered == awaited_.load() || under_way_.load() == 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
  }

  void next(uint16_t id) {
    User& user = users_[id];
    const uint32_t pick = draw(100);
    mailroom_op op = pick < 15   ? MAILROOM_LIST
                     : pick < 55 ? MAILROOM_READ
                     : pick < 80 ? MAILROOM_SEND
                     : pick < 90 ? MAILROOM_FLAG
                                 : MAILROOM_DELETE;
    user.to = static_cast<uint16_t>(draw(static_cast<uint32_t>(users_.size())));
    if (user.mails.empty() && op != MAILROOM_LIST) op = MAILROOM_SEND;
    if (op == MAILROOM_SEND && users_[user.to].mails.size() >= kMailboxMax) {
      if (user.mails.empty())
        op = MAILROOM_LIST;
      else
        op = MAILROOM_DELETE;
    }
    send(id, op);
  }

  void send(uint16_t id, mailroom_op op) {
    User& user = users_[id];
    ++user.seq;
    std::vector<uint8_t> packet;
    if (op == MAILROOM_SEND) {
      std::array<uint8_t, 400> body;
      const size_t size = 1 + draw(body.size());
      std::memset(body.data(), static_cast<int>(user.seq), size);
      packet = mail::request(op, id, user.seq, user.session, user.to, 0, std::span(body).first(size));
    } else if (op == MAILROOM_LOGIN || op == MAILROOM_LIST) {
      packet = mail::request(op, id, user.seq, user.session);
    } else {
      user.mail = user.mails[draw(static_cast<uint32_t>(user.mails.size()))];
      packet = mail::request(op, id, user.seq, user.session, user.mail, op == MAILROOM_FLAG ? draw(256) : 0);
    }
    under_way_.fetch_add(1);
    if (!machine->send_packet(0, packet)) throw Error("BENCH", "the mailbox is full");
  }

  std::vector<User> users_;
  uint64_t random_ = 88172645463325252;
  bool timed_ = false;
  std::atomic<double> own_{0};
  std::atomic<uint64_t> answered_{0}, refused_{0}, under_way_{0};
  std::atomic<uint64_t> awaited_{0};
  std::atomic<bool> quiet_{false};
  std::mutex arrived_mutex_;
  std::condition_variable arrive_;
  std::vector<std::vector<uint8_t>> arrived_;
  bool leave_ = false;
  std::thread thread_;
};

}  // namespace hypertwin::bench
