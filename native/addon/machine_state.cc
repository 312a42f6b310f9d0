#include "machine_state.h"

#include <algorithm>

#include "base/error.h"

namespace hypertwin::addon {

// ---- MachineEnv

const std::shared_ptr<MachineEnv>& machine_env(Napi::Env env) {
  EnvData& data = env_data(env);
  auto& found = data.slot<std::shared_ptr<MachineEnv>>();
  if (!found) {
    found = std::make_shared<MachineEnv>(data.queue());
    data.on_teardown([machines = found] { machines->teardown(); });
  }
  return found;
}

void MachineEnv::add(const std::shared_ptr<Closable>& handle) {
  std::erase_if(open_, [](const auto& weak) { return weak.expired(); });
  open_.push_back(handle);
}

void MachineEnv::abandon(std::shared_ptr<Closable> handle) {
  // Where the closer runs no more, teardown() has closed the handle already.
  closer_.post([handle = std::move(handle)] { handle->shutdown(); });
}

uint64_t MachineEnv::add_callback(Napi::Function callback) {
  callbacks_.emplace(next_callback_, Napi::Persistent(callback));
  return next_callback_++;
}

void MachineEnv::call_back(Napi::Env env, uint64_t id, uint32_t what) {
  auto found = callbacks_.find(id);
  if (found == callbacks_.end()) return;
  // A local handle: the callback may close its machine, and so forget itself.
  Napi::Function callback = found->second.Value();
  callback.Call({Napi::Number::New(env, what)});
}

void MachineEnv::teardown() {
  for (auto& weak : open_)
    if (auto handle = weak.lock()) handle->shutdown();
  closer_.stop();
  callbacks_.clear();
}

void Signal::operator()(uint32_t what) const {
  queue->post([weak = env, id = callback, what](Napi::Env now) {
    if (auto machines = weak.lock()) machines->call_back(now, id, what);
  });
}

// ---- Mailbox

void Mailbox::bind(const machine::VirtualMachine* machine) {
  std::lock_guard lock(mutex_);
  machine_ = machine;
  // A machine that arrived may run already.
  for (auto& event : events_)
    if (auto* state = std::get_if<StateEvent>(&event); state && state->boundary == 0)
      state->boundary = machine->boundary();
}

void Mailbox::announce_events() {
  if (!std::exchange(announced_, true)) signal_(0);
}

void Mailbox::on_state(machine::State state, machine::Reason reason, const std::string& message) {
  std::lock_guard lock(mutex_);
  auto& event = std::get<StateEvent>(events_.emplace_back(std::in_place_type<StateEvent>));
  event = {state, reason, message, machine_ ? machine_->boundary() : 0};
  announce_events();
}

void Mailbox::on_console(uint32_t, std::span<const uint8_t> bytes) {
  std::lock_guard lock(mutex_);
  auto* last = events_.empty() ? nullptr : std::get_if<ConsoleEvent>(&events_.back());
  if (!last) last = &std::get<ConsoleEvent>(events_.emplace_back(std::in_place_type<ConsoleEvent>));
  if (console_bytes_ + bytes.size() > kConsoleBytes) {
    // Everything that waits is older than these.
    for (auto& event : events_)
      if (auto* console = std::get_if<ConsoleEvent>(&event)) {
        console->dropped += console->bytes.size();
        console->bytes.clear();
      }
    console_bytes_ = 0;
  }
  last->bytes.insert(last->bytes.end(), bytes.begin(), bytes.end());
  console_bytes_ += bytes.size();
  announce_events();
}

void Mailbox::on_marker(uint32_t value) {
  std::lock_guard lock(mutex_);
  if (markers_ >= kMarkers) return;
  ++markers_;
  events_.emplace_back(std::in_place_type<uint32_t>, value);
  announce_events();
}

void Mailbox::on_disk(uint32_t device, const backends::DiskNotice& notice) {
  std::lock_guard lock(mutex_);
  if (notices_ >= kNotices) return;
  ++notices_;
  events_.emplace_back(DiskEvent{.device = device, .notice = notice});
  announce_events();
}

void Mailbox::on_packet(uint32_t device, std::span<const uint8_t> packet) {
  std::lock_guard lock(mutex_);
  Packets& port = packets_[device];
  while (!port.list.empty() && (port.list.size() >= kPackets || port.bytes + packet.size() > kPacketBytes)) {
    port.bytes -= port.list.front().size();
    port.list.pop_front();
    ++port.dropped;
  }
  port.list.emplace_back(packet.begin(), packet.end());
  port.bytes += packet.size();
  if (!std::exchange(port.announced, true)) signal_(device + 1);
}

std::vector<Mailbox::Event> Mailbox::take_events() {
  std::lock_guard lock(mutex_);
  announced_ = false;
  console_bytes_ = 0;
  markers_ = 0;
  notices_ = 0;
  return std::exchange(events_, {});
}

std::deque<std::vector<uint8_t>> Mailbox::take_packets(uint32_t device) {
  std::lock_guard lock(mutex_);
  Packets& port = packets_[device];
  port.announced = false;
  port.bytes = 0;
  return std::exchange(port.list, {});
}

uint64_t Mailbox::dropped_packets(uint32_t device) {
  std::lock_guard lock(mutex_);
  return packets_[device].dropped;
}

// ---- MachineState

void MachineState::adopt(std::shared_ptr<machine::VirtualMachine> machine) {
  mailbox_->bind(machine.get());
  std::lock_guard lock(mutex_);
  machine_ = std::move(machine);
}

std::shared_ptr<machine::VirtualMachine> MachineState::open() const {
  std::lock_guard lock(mutex_);
  if (closed_ || !machine_) throw Error("CLOSED", "the machine is closed");
  return machine_;
}

std::shared_ptr<machine::Machine> MachineState::deterministic() const {
  auto found = std::dynamic_pointer_cast<machine::Machine>(open());
  if (!found)
    throw Error(
        "BAD_BOARD",
        "a machine with the standard board cannot be recorded, replayed, migrated or protected: create "
        "it with board: 'deterministic'");
  return found;
}

std::shared_ptr<machine::StandardMachine> MachineState::standard() const {
  auto found = std::dynamic_pointer_cast<machine::StandardMachine>(open());
  if (!found)
    throw Error("BAD_BOARD",
                "the deterministic board has no such device: create the machine with board: 'standard'");
  return found;
}

void MachineState::attach(const std::shared_ptr<Closable>& user) {
  std::lock_guard lock(mutex_);
  if (closed_) throw Error("CLOSED", "the machine is closed");
  std::erase_if(users_, [](const auto& weak) { return weak.expired(); });
  users_.push_back(user);
}

Mailbox::StateEvent MachineState::status() const {
  std::lock_guard lock(mutex_);
  if (last_) return *last_;
  if (!machine_) return {machine::State::kCreated, machine::Reason::kNone, {}, 0};
  return {machine_->state(), machine_->reason(), machine_->message(), machine_->boundary()};
}

void MachineState::give_up_pages() {
  if (pages_) pages_->cancel();
}

void MachineState::shutdown() {
  std::lock_guard once(shutdown_mutex_);
  std::vector<std::weak_ptr<Closable>> users;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    users.swap(users_);
  }
  // Whoever is ended below may wait for memory.
  give_up_pages();
  // Recordings first: they take their source out of the machine.
  for (auto& weak : users)
    if (auto user = weak.lock()) user->shutdown();
  thread_.stop();
  std::shared_ptr<machine::VirtualMachine> machine;
  {
    std::lock_guard lock(mutex_);
    machine = machine_;
  }
  if (!machine) return;
  // So that who follows the events hears of the end.
  try {
    machine->stop();
  } catch (const std::exception&) {
    // Its state says what it is; it goes in any case.
  }
  auto last = status();
  {
    std::lock_guard lock(mutex_);
    last_ = std::move(last);
    machine_ = nullptr;
  }
}

}  // namespace hypertwin::addon
