#include "node.h"

#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "file_arbiter.h"
#include "machine/machine.h"
#include "messages.h"
#include "migrate/migration.h"
#include "wire/channel.h"

namespace hypertwin::campaign {

namespace {

using machine::Machine;
using machine::State;

constexpr uint64_t kMemory = 8u << 20;
constexpr uint64_t kDisk = 2u << 20;

// What a machine sends goes to the observer.
class Port final : public machine::Listener {
 public:
  explicit Port(int socket) : socket_(socket) {}
  void on_state(State state, machine::Reason reason, const std::string&) override {
    std::lock_guard lock(mutex_);
    state_ = state;
    reason_ = reason;
    changed_.notify_all();
  }
  void on_packet(uint32_t, std::span<const uint8_t> packet) override {
    if (socket_ >= 0) send_message(socket_, Tag::kFrame, packet);
  }
  void on_console(uint32_t, std::span<const uint8_t> bytes) override {
    std::lock_guard lock(mutex_);
    console_.append(bytes.begin(), bytes.end());
    changed_.notify_all();
  }
  void wait_ready() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return console_.find("mailroom ready") != std::string::npos || state_ >= State::kStopped;
    });
    if (state_ >= State::kStopped) throw Error("CAMPAIGN", "the mailroom did not start: " + console_);
  }

 private:
  const int socket_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  State state_ = State::kCreated;
  machine::Reason reason_{};
  std::string console_;
};

machine::Machine::Image mailroom() {
  std::ifstream in(std::string(HYPERTWIN_GUEST_DIR) + "/mailroom.elf", std::ios::binary);
  return {{std::istreambuf_iterator<char>(in), {}}, {}};
}

std::shared_ptr<Machine> boot(const std::string& disk, const std::shared_ptr<Port>& port) {
  machine::MachineConfig config;
  config.memory_size = kMemory;
  config.command_line = "mails=512";
  config.nets.emplace_back();
  config.disks.push_back({.path = disk});
  std::shared_ptr<Machine> machine = Machine::create(kvm::System::open(), config, mailroom(), port);
  machine->start();
  port->wait_ready();
  return machine;
}

class Node {
 public:
  explicit Node(NodeOptions options)
      : options_(std::move(options)), port_(std::make_shared<Port>(options_.socket)) {
    if (!options_.arbiter.empty()) arbiter_ = file_arbiter(options_.arbiter, options_.arbiter_says_yes);
  }

  void run() {
    begin();
    std::vector<uint8_t> message(kLargestMessage);
    for (;;) {
      const ssize_t size = ::recv(options_.socket, message.data(), message.size(), 0);
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) ::_exit(0);  // the observer is gone
      const std::span<const uint8_t> rest(message.data() + 1, static_cast<size_t>(size) - 1);
      if (message[0] == static_cast<uint8_t>(Tag::kFrame)) {
        if (auto machine = serving()) {
          try {
            machine->send_packet(0, rest);
          } catch (const Error&) {
            // Too long or too short: nothing that the observer sends.
          }
        }
      } else {
        command({reinterpret_cast<const char*>(rest.data()), rest.size()});
      }
    }
  }

 private:
  void say(const std::string& event) { send_text(options_.socket, Tag::kEvent, event); }

  void step(const std::string& name) {
    uint64_t nth;
    {
      std::lock_guard lock(steps_mutex_);
      nth = steps_[name]++;
    }
    if (name == options_.kill.step && nth == options_.kill.nth) ::kill(::getpid(), options_.kill.signal);
  }

  // The machine that hears the network here: none while it is a replica.
  std::shared_ptr<Machine> serving() {
    std::lock_guard lock(mutex_);
    if (!machine_ && backup_ && backup_->state() == ha::State::kLive) machine_ = backup_->machine();
    return machine_;
  }

  void set_machine(std::shared_ptr<Machine> machine) {
    std::lock_guard lock(mutex_);
    machine_ = std::move(machine);
  }

  void begin() {
    switch (options_.begin) {
      case NodeOptions::Begin::kRestore: {
        std::shared_ptr<Machine> machine =
            Machine::restore(kvm::System::open(), options_.snapshot, port_,
                             {.adjust = [this](auto& config) { config.disks.at(0).path = options_.disk; }});
        machine->resume();
        set_machine(std::move(machine));
        say("ready");
        break;
      }
      case NodeOptions::Begin::kBoot:
        set_machine(boot(options_.disk, port_));
        say("ready");
        break;
      case NodeOptions::Begin::kBackup:
      case NodeOptions::Begin::kDestination:
        await_peer();
        break;
    }
  }

  void await_peer() {
    wire::Listener listener(wire::Address::parse(options_.listen));
    say("listening " + listener.address().text());
    // Meanwhile, so that the first connection costs less.
    system_ = kvm::System::open();
    auto stream = listener.accept();
    if (!stream) throw Error("CAMPAIGN", "nobody connected");
    say("connected");
    channel_ = std::make_unique<wire::Channel>(std::move(stream));
    if (options_.begin == NodeOptions::Begin::kDestination) {
      work_ = std::thread([this] { receive(); });
      return;
    }
    ha::BackupOptions following;
    common(following);
    following.listener = port_;
    following.adjust = [this](auto& config) { config.disks.at(0).path = options_.disk; };
    auto backup = ha::Backup::follow(system_, std::move(channel_), std::move(following));
    std::lock_guard lock(mutex_);
    backup_ = std::move(backup);
  }

  void common(ha::CommonOptions& options) {
    options.arbiter = arbiter_;
    options.heartbeats = options_.heartbeats;
    options.on_event = [this](const ha::Event& event) {
      say("ha " + std::string(ha::state_name(event.state)) + " " + event.code + " " + event.message);
    };
    options.on_step = [this](const char* name) { step(name); };
  }

  void receive() {
    migrate::ReceiveOptions options;
    options.listener = port_;
    options.adjust = [this](auto& config) { config.disks.at(0).path = options_.disk; };
    options.arbiter = arbiter_;
    options.on_step = [this](migrate::Step which) { step(std::string(migrate::step_name(which))); };
    try {
      auto result = migrate::receive(system_, *channel_, std::move(options));
      const std::string digest = result.digest.combined().hex();
      set_machine(std::move(result.machine));
      say("received none " + digest);
    } catch (const Error& error) {
      say("received " + error.code() + " " + error.what());
    }
  }

  void send(const std::string& address) {
    migrate::MigrateOptions options;
    options.arbiter = arbiter_;
    options.on_step = [this](migrate::Step which) { step(std::string(migrate::step_name(which))); };
    options.plant_skipped_page = options_.skipped_page;
    try {
      migrate::Migration migration(serving(), connect(address), std::move(options));
      const auto result = migration.run();
      say("migrated none " + result.digest.combined().hex());
    } catch (const Error& error) {
      say("migrated " + error.code() + " " + error.what());
    }
  }

  std::unique_ptr<wire::Channel> connect(const std::string& address) {
    return std::make_unique<wire::Channel>(
        wire::connect(wire::Address::parse(address), std::nullopt, std::chrono::seconds(5)));
  }

  void command(const std::string& text) {
    const size_t space = text.find(' ');
    const std::string verb = text.substr(0, space), rest = space == text.npos ? "" : text.substr(space + 1);
    if (verb == "protect") {
      ha::ProtectOptions protecting;
      common(protecting);
      protecting.planted = options_.planted;
      protecting.record_blocks = options_.record_blocks;
      protecting.sync.on_step = [this](migrate::Step which) {
        step("sync-" + std::string(migrate::step_name(which)));
      };
      primary_.reset();
      try {
        primary_ = ha::Primary::protect(serving(), connect(rest), std::move(protecting));
        say("session " + primary_->session());
      } catch (const Error& error) {
        say("ha ended " + error.code() + " " + error.what());
      }
    } else if (verb == "migrate") {
      if (work_.joinable()) work_.join();
      work_ = std::thread([this, rest] { send(rest); });
    } else if (verb == "hand-over") {
      if (work_.joinable()) work_.join();
      work_ = std::thread([this] {
        try {
          primary_->hand_over();
          say("handed-over none");
        } catch (const Error& error) {
          say("handed-over " + error.code() + " " + error.what());
        }
      });
    } else if (verb == "kill-at") {
      // "kill-at <nth> <step>"; counted from now on
      std::lock_guard lock(steps_mutex_);
      steps_.clear();
      const size_t gap = rest.find(' ');
      options_.kill.nth = std::stoull(rest.substr(0, gap));
      options_.kill.step = rest.substr(gap + 1);
    } else if (verb == "limit") {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{std::stoull(rest), std::stoull(rest)};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    } else if (verb == "state") {
      auto machine = serving();
      say(machine ? "state " + std::string(machine::state_name(machine->state())) + " " +
                        std::string(machine::reason_name(machine->reason()))
                  : "state none none");
    }
  }

  NodeOptions options_;
  migrate::Arbiter arbiter_;
  const std::shared_ptr<Port> port_;
  std::shared_ptr<kvm::System> system_;
  std::mutex steps_mutex_;  // guards steps_ and options_.kill
  std::map<std::string, uint64_t> steps_;
  std::mutex mutex_;  // guards machine_ and backup_
  std::shared_ptr<Machine> machine_;
  std::unique_ptr<ha::Backup> backup_;
  std::unique_ptr<ha::Primary> primary_;
  std::unique_ptr<wire::Channel> channel_;
  std::thread work_;
};

}  // namespace

[[noreturn]] void run_node(NodeOptions options) {
  const int socket = options.socket;
  try {
    Node node(std::move(options));
    node.run();
  } catch (const std::exception& error) {
    send_text(socket, Tag::kEvent, std::string("failed ") + error.what());
  }
  ::_exit(1);
}

void make_template(const std::string& snapshot, const std::string& disk) {
  std::ofstream(disk).close();
  std::filesystem::resize_file(disk, kDisk);
  auto machine = boot(disk, std::make_shared<Port>(-1));
  machine->pause();
  machine->snapshot(snapshot);
}

}  // namespace hypertwin::campaign
