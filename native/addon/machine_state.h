// What the machine and event-log handles of one environment own, and the one way each of it is closed: by
// close(), by the garbage collector or by the environment's end, whichever comes first. No JavaScript here.
#pragma once

#include <napi.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/executor.h"
#include "env.h"
#include "machine/machine.h"
#include "machine/standard_machine.h"

namespace hypertwin::addon {

// Something that closes once, whoever asks, and is closed when shutdown() returns. Not to be called on a
// thread that it joins.
class Closable {
 public:
  virtual ~Closable() = default;
  virtual void shutdown() = 0;
};

// An environment's own: the thread that closes, every handle that may be open, and the JavaScript functions
// that are told of news.
class MachineEnv {
 public:
  explicit MachineEnv(std::shared_ptr<JsQueue> queue) : queue_(std::move(queue)) {}

  // Runs what may join other threads.
  base::Executor& closer() { return closer_; }
  const std::shared_ptr<JsQueue>& queue() const { return queue_; }

  // ---- JavaScript thread only.
  void add(const std::shared_ptr<Closable>& handle);
  // Closes `handle`, off this thread, when its JavaScript object is collected.
  void abandon(std::shared_ptr<Closable> handle);
  uint64_t add_callback(Napi::Function callback);
  void forget_callback(uint64_t id) { callbacks_.erase(id); }
  void call_back(Napi::Env env, uint64_t id, uint32_t what);
  // Closes everything that is open; the threads too.
  void teardown();

 private:
  std::shared_ptr<JsQueue> queue_;
  base::Executor closer_{"ht-close"};
  std::vector<std::weak_ptr<Closable>> open_;
  std::map<uint64_t, Napi::FunctionReference> callbacks_;
  uint64_t next_callback_ = 1;
};

// Made at the environment's first use of it.
const std::shared_ptr<MachineEnv>& machine_env(Napi::Env env);

// How native threads call one JavaScript function, with a number; harmless when that is gone.
struct Signal {
  std::weak_ptr<MachineEnv> env;
  std::shared_ptr<JsQueue> queue;
  uint64_t callback = 0;
  void operator()(uint32_t what) const;
};

// Keeps that function. JavaScript thread only.
class Callback {
 public:
  Callback(std::shared_ptr<MachineEnv> env, Napi::Function function)
      : env_(std::move(env)), id_(env_->add_callback(function)) {}
  ~Callback() { env_->forget_callback(id_); }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  Signal signal() const { return {env_, env_->queue(), id_}; }

 private:
  std::shared_ptr<MachineEnv> env_;
  uint64_t id_;
};

// What a machine tells, bounded, until JavaScript takes it; one wake-up for all that waits. The vCPU's thread
// never waits for JavaScript.
class Mailbox final : public machine::Listener {
 public:
  static constexpr size_t kConsoleBytes = 1u << 20;
  static constexpr size_t kMarkers = 65536;
  static constexpr size_t kNotices = 1024;
  static constexpr size_t kPackets = 4096;  // of one device
  static constexpr size_t kPacketBytes = 16u << 20;

  struct StateEvent {
    machine::State state = machine::State::kCreated;
    machine::Reason reason = machine::Reason::kNone;
    std::string message;
    uint64_t boundary = 0;
  };
  struct ConsoleEvent {
    std::vector<uint8_t> bytes;
    uint64_t dropped = 0;  // bytes that are missing before these
  };
  struct DiskEvent {
    uint32_t device = 0;
    backends::DiskNotice notice;
  };
  using Event = std::variant<StateEvent, ConsoleEvent, DiskEvent, uint32_t>;
  struct Packets {
    std::deque<std::vector<uint8_t>> list;
    size_t bytes = 0;
    uint64_t dropped = 0;
    bool announced = false;
  };

  // `signal` is told 0 for events, n for packets of device n - 1.
  explicit Mailbox(Signal signal) : signal_(std::move(signal)) {}
  // It outlives its own calls.
  void bind(const machine::VirtualMachine* machine);

  void on_state(machine::State state, machine::Reason reason, const std::string& message) override;
  void on_packet(uint32_t device, std::span<const uint8_t> packet) override;
  void on_console(uint32_t device, std::span<const uint8_t> bytes) override;
  void on_marker(uint32_t value) override;
  void on_disk(uint32_t device, const backends::DiskNotice& notice) override;

  std::vector<Event> take_events();
  std::deque<std::vector<uint8_t>> take_packets(uint32_t device);
  uint64_t dropped_packets(uint32_t device);

 private:
  void announce_events();

  const Signal signal_;
  const machine::VirtualMachine* machine_ = nullptr;
  std::mutex mutex_;  // guards all below
  std::vector<Event> events_;
  bool announced_ = false;
  size_t console_bytes_ = 0;
  size_t markers_ = 0;
  size_t notices_ = 0;
  std::map<uint32_t, Packets> packets_;
};

// A machine with its thread `ht-machine`, which makes and waits for the calls that block.
class MachineState final : public Closable {
 public:
  explicit MachineState(std::shared_ptr<Mailbox> mailbox) : mailbox_(std::move(mailbox)) {}
  ~MachineState() override { shutdown(); }

  base::Executor& thread() { return thread_; }
  const std::shared_ptr<Mailbox>& mailbox() const { return mailbox_; }
  // On thread(), or before anybody else knows this: the machine is there from now on.
  void adopt(std::shared_ptr<machine::VirtualMachine> machine);
  // Throws Error("CLOSED").
  std::shared_ptr<machine::VirtualMachine> open() const;
  // For what needs a board. Also throw Error("BAD_BOARD").
  std::shared_ptr<machine::Machine> deterministic() const;
  std::shared_ptr<machine::StandardMachine> standard() const;
  // Is closed before the machine.
  void attach(const std::shared_ptr<Closable>& user);
  // Where the machine's memory comes from while it runs. Before anybody else knows this.
  void set_pages(std::shared_ptr<machine::PageSource> pages) { pages_ = std::move(pages); }
  // Nobody waits for memory any more: a machine some of whose memory has not come ends.
  void give_up_pages();
  // Also of a closed machine.
  Mailbox::StateEvent status() const;
  void shutdown() override;

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  std::shared_ptr<machine::PageSource> pages_;
  std::mutex shutdown_mutex_;  // makes the second closer wait for the first
  mutable std::mutex mutex_;   // guards all below
  std::shared_ptr<machine::VirtualMachine> machine_;
  std::optional<Mailbox::StateEvent> last_;
  std::vector<std::weak_ptr<Closable>> users_;
  bool closed_ = false;
  base::Executor thread_{"ht-machine"};
};

// Of a machine's JavaScript handle; throws Error("EINVAL").
std::shared_ptr<MachineState> machine_state(const Napi::Value& handle);

// The JavaScript handle of a machine that another part made; `state` has adopted it and is known to the
// environment (MachineEnv::add). `callback` is what its mailbox signals.
Napi::Value machine_handle(Napi::Env env, std::shared_ptr<MachineState> state,
                           std::shared_ptr<Callback> callback);

}  // namespace hypertwin::addon
