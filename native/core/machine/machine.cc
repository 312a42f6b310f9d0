#include "machine/machine.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "base/hex.h"
#include "machine/entry.h"
#include "machine/exits.h"
#include "machine/guest_debug.h"
#include "machine/machine_memory.h"
#include "machine/quirks.h"
#include "machine/snapshot.h"

namespace hypertwin::machine {

namespace {

constexpr uint32_t kRamSlot = 0;
constexpr uint8_t kStateVersion = 1;
constexpr auto kPausePatience = std::chrono::milliseconds(20);
constexpr auto kKickInterval = std::chrono::milliseconds(1);

// Tags of what is folded into the rolling digest besides exits.
constexpr uint64_t kTagPacket = 0x100;
constexpr uint64_t kTagConsole = 0x101;
constexpr uint64_t kTagBlock = 0x102;

}  // namespace

struct Machine::Task {
  At at = At::kAnywhere;  // guarded by Machine::mutex_, as the next three
  bool taken = false;
  bool done = false;
  bool given_up = false;  // its caller waits no more, and what it refers to may be gone
  std::function<void()> run;
  std::exception_ptr error;
  std::condition_variable finished;
};

// ---- Construction

Machine::Machine(std::shared_ptr<kvm::System> system, MachineConfig config,
                 std::shared_ptr<Listener> listener, Backends backends, std::unique_ptr<MachineMemory> memory)
    : config_(std::move(config)),
      listener_(std::move(listener)),
      backends_(backends),
      open_(backends != Backends::kStandby) {
  config_.check();
  if (config_.wall_clock == 0) config_.wall_clock = static_cast<uint64_t>(::time(nullptr));

  // Disks first: their sizes are part of the board.
  for (size_t i = 0; i < config_.disks.size(); ++i) {
    auto& disk = config_.disks[i];
    if (backends_ == Backends::kDetached) {
      files_.push_back(nullptr);
      continue;
    }
    const backends::Disk::Options options{.read_only = disk.read_only,
                                          .reconnect = std::chrono::seconds(disk.reconnect_seconds),
                                          .on_notice = disk_notices(listener_, i)};
    files_.push_back(
        backends::open_disk(disk.path, options, [this, i](backends::Disk::Completion completion) {
          Input input;
          input.kind = InputKind::kBlockCompletion;
          input.device = static_cast<uint32_t>(i);
          input.request = completion.ordinal;
          input.status = static_cast<uint8_t>(completion.status);
          input.bytes = std::move(completion.data);
          if (open_.load(std::memory_order_acquire))
            live_.push(std::move(input));
          else if (completion.err)
            replica_failed(i, completion.err);
        }));
    disk.settle(files_.back()->size());
  }

  vm_ = system->create_vm();
  if (config_.dirty_ring)
    vm_->enable_cap(KVM_CAP_DIRTY_LOG_RING, uint64_t{config_.dirty_ring_entries} * sizeof(kvm_dirty_gfn));
  memory_ = memory ? std::move(memory) : std::make_unique<MachineMemory>(config_.memory_size);
  vm_->set_user_memory_region(
      {.slot = kRamSlot, .guest_address = 0, .size = config_.memory_size, .memory = memory_->guest()});
  ram_ = std::make_shared<devices::GuestRam>(std::vector<devices::GuestRam::Region>{
      {.guest_address = 0, .size = config_.memory_size, .host = memory_->data(), .slot = kRamSlot}});
  vcpu_ = vm_->create_vcpu(0);
  snapshots_ = std::make_unique<Snapshots>(*memory_, dirty::Target{vm_, {vcpu_}, ram_});
  cpuid_ = deterministic_cpuid(system->supported_cpuid());
  vcpu_->set_cpuid2(cpuid_);
  sync_regs_ = (system->check_extension(KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_REGS) != 0;
  exact_irq_window_ = kvm_quirks(system).exact_irq_window;
  if (sync_regs_) vcpu_->run_page()->kvm_valid_regs = KVM_SYNC_X86_REGS;
  board_ = std::make_unique<Board>(static_cast<devices::Host&>(*this), *ram_, config_,
                                   [this](uint32_t value) { marker(value); });

  for (size_t i = 0; i < config_.nets.size(); ++i) {
    if (backends_ == Backends::kDetached || config_.nets[i].backend != NetBackend::kTap) {
      taps_.push_back(nullptr);
      continue;
    }
    taps_.push_back(
        std::make_unique<backends::ReadTap>(config_.nets[i].tap, [this, i](std::span<const uint8_t> packet) {
          if (!open_.load(std::memory_order_acquire)) return;
          try {
            send_packet(static_cast<uint32_t>(i), packet);
          } catch (const std::exception&) {
            // No frame that the device takes, or no memory for it: lost, as on a wire.
          }
        }));
  }
}

std::unique_ptr<Machine> Machine::create(std::shared_ptr<kvm::System> system, MachineConfig config,
                                         const Image& image, std::shared_ptr<Listener> listener) {
  std::unique_ptr<Machine> machine(
      new Machine(std::move(system), std::move(config), std::move(listener), Backends::kAttached));
  machine->boot(image);
  machine->launch();
  return machine;
}

std::unique_ptr<Machine> Machine::restore(std::shared_ptr<kvm::System> system, const std::string& path,
                                          std::shared_ptr<Listener> listener, const RestoreOptions& options,
                                          Backends backends) {
  return restore(std::move(system), open_snapshot(path), std::move(listener), options, backends);
}

std::unique_ptr<Machine> Machine::restore(std::shared_ptr<kvm::System> system, SnapshotChain chain,
                                          std::shared_ptr<Listener> listener, const RestoreOptions& options,
                                          Backends backends) {
  const std::shared_ptr<const SnapshotFile> file = chain.front();
  ByteReader in(file->state(), "the snapshot's state");
  if (in.u8() != kStateVersion) in.corrupt("an unknown version of the machine's state");
  MachineConfig config = restored_config(in, *file, options);

  std::unique_ptr<Machine> machine(new Machine(std::move(system), std::move(config), std::move(listener),
                                               backends, restored_memory(std::move(chain), options)));
  machine->memory_->settle();
  machine->load_state(in);
  machine->memory_->watch(
      options.verify == Verify::kBehind,
      [own = machine.get()](const Error& error, bool settled) { own->lost(error, settled); });
  return machine;
}

std::unique_ptr<Machine> Machine::incoming(std::shared_ptr<kvm::System> system, MachineConfig config,
                                           std::shared_ptr<Listener> listener, Backends backends) {
  return std::unique_ptr<Machine>(
      new Machine(std::move(system), std::move(config), std::move(listener), backends));
}

void Machine::arrive(std::span<const uint8_t> state) {
  if (thread_.joinable()) bad_state("complete");
  ByteReader in(state, "the machine's state");
  load_state(in);
}

void Machine::load_state(ByteReader& in) {
  ordinal_ = in.u64();
  virtual_now_ = in.u64();
  uint8_t flags = in.u8();
  at_boundary_ = flags & 1;
  halted_ = flags & 2;
  can_inject_ = flags & 4;
  interrupts_on_ = flags & 8;
  vcpu_->run_page()->request_interrupt_window = (flags >> 4) & 1;
  if (flags >> 5 > static_cast<uint8_t>(devices::PowerEvent::kReset)) in.corrupt("an unknown flag");
  if (flags >> 5) power_event_ = static_cast<devices::PowerEvent>(flags >> 5);
  ByteReader vcpu_bytes(in.blob(2u << 20), "the state's vCPU");
  VcpuState::load(vcpu_bytes).give(*vcpu_);
  ByteReader board_bytes(in.blob(), "the state's devices");
  board_->load(board_bytes);
  board_bytes.expect_done();
  in.expect_done();
  resubmit_ = backends_ != Backends::kDetached;
  state_ = State::kPaused;
  reason_ = Reason::kRequested;
  launch();
}

void Machine::boot(const Image& image) {
  const boot::Seed seed = boot::new_seed();
  const boot::Entry entry =
      boot::load_kernel(*ram_, {image.kernel, image.initrd, config_.command_line, /*rsdp=*/0, seed});
  set_entry(*vcpu_, entry);
}

void Machine::launch() {
  thread_ = std::thread([this] { thread_main(); });
}

Machine::~Machine() {
  memory_->stop_watching();
  {
    std::lock_guard lock(mutex_);
    quit_.store(true);
    control_.store(true, std::memory_order_release);
  }
  wake_.notify_all();
  live_.wake_for_control();
  if (thread_.joinable()) {
    vcpu_->kick();
    memory_->give_up();
    thread_.join();
  }
  // Their threads call into this; they end before the rest goes.
  taps_.clear();
  files_.clear();
}

// ---- Control

void Machine::call(At at, std::function<void()> run, std::chrono::milliseconds patience) {
  auto task = std::make_shared<Task>();
  task->at = at;
  task->run = std::move(run);
  std::unique_lock lock(mutex_);
  if (quit_.load()) throw Error("CLOSED", "the machine is closed");
  post(task);
  if (at == At::kAnywhere) {
    // Again, where the guest could not be left.
    do vcpu_->kick();
    while (!task->finished.wait_for(lock, kKickInterval, [&] { return task->done || task->taken; }));
    task->finished.wait(lock, [&] { return task->done; });
  } else if (!task->finished.wait_for(lock, patience, [&] { return task->done || task->taken; })) {
    task->given_up = true;
    std::erase(tasks_, task);
    throw Error("NO_BOUNDARY", "the guest reached no boundary within " + std::to_string(patience.count()) +
                                   " ms: it runs without any exit");
  } else {
    task->finished.wait(lock, [&] { return task->done; });
  }
  if (task->error) std::rethrow_exception(task->error);
}

// mutex_ is held.
void Machine::post(std::shared_ptr<Task> task) {
  tasks_.push_back(std::move(task));
  control_.store(true, std::memory_order_release);
  wake_.notify_all();
  live_.wake_for_control();
}

void Machine::run_tasks() {
  std::unique_lock lock(mutex_);
  control_.store(false, std::memory_order_relaxed);
  live_.control_taken();
  std::deque<std::shared_ptr<Task>> later;
  while (!tasks_.empty()) {
    auto task = tasks_.front();
    tasks_.pop_front();
    if (task->given_up) continue;
    const State state = this->state();
    if (task->at == At::kAnywhere && !at_boundary_ && state == State::kRunning) {
      // It reads the guest's memory, which may have to come first.
      lock.unlock();
      const bool trapped = trap_pending();
      lock.lock();
      if (trapped) later.push_back(std::move(task));
      if (trapped || task->given_up) continue;
    }
    if (task->at == At::kBoundary && !at_boundary_) {
      if (state == State::kRunning) {
        later.push_back(std::move(task));
        continue;
      }
      if (state != State::kCreated) {
        task->error = std::make_exception_ptr(Error(
            "NO_BOUNDARY", "the machine is " + std::string(state_name(state)) + " between two boundaries"));
        task->done = true;
        task->finished.notify_all();
        continue;
      }
    }
    task->taken = true;
    lock.unlock();
    try {
      settle();
    } catch (const std::exception& error) {
      // The guest's failure, not the task's.
      fail(error);
    }
    try {
      task->run();
    } catch (...) {
      task->error = std::current_exception();
    }
    lock.lock();
    task->done = true;
    task->finished.notify_all();
  }
  if (!later.empty()) {
    for (auto& task : later) tasks_.push_back(std::move(task));
    control_.store(true, std::memory_order_release);
  }
}

// Whether the guest may be between a trap instruction and its handler. KVM then tells nobody of the exception
// (KVM_GET_VCPU_EVENTS leaves out #BP and #OF: the guest is expected to come upon it again), but a KVM that
// has moved RIP past the instruction already would lose it with the state.
bool Machine::trap_pending() {
  const kvm_vcpu_events events = vcpu_->get_vcpu_events();
  const uint8_t vector = events.exception.nr;
  if ((vector != 3 && vector != 4) || events.exception.injected || events.exception.pending) return false;
  const uint64_t rip = vcpu_->get_regs().rip;
  // One is delivered with the next KVM_RUN. KVM keeps the vector of the last one: a guest that stays behind
  // such an instruction is between nothing.
  if (rip != std::exchange(trap_rip_, rip)) trap_asked_ = 0;
  if (++trap_asked_ > kTrapPatience) return false;
  auto byte_before = [&](uint64_t distance) -> int {
    uint8_t byte = 0;
    const kvm_translation at = vcpu_->translate(rip - distance);
    return at.valid && ram_->load(at.physical_address, byte) ? byte : -1;
  };
  const int last = byte_before(1);
  return last == 0xcc || last == 0xce || (last == vector && byte_before(2) == 0xcd);  // int3, into, int n
}

void Machine::set_state(State state, Reason reason, std::string message) {
  if (state == State::kRunning)
    live_.start_clock(virtual_now_);
  else
    live_.stop_clock();
  {
    std::lock_guard lock(mutex_);
    message_ = message;
  }
  reason_.store(reason, std::memory_order_release);
  state_.store(state, std::memory_order_release);
  if (listener_) listener_->on_state(state, reason, message);
}

// Until it is settled, the vCPU's thread may wait for a page.
void Machine::lost(const Error& error, bool settled) {
  auto fail_here = [this, error] {
    if (error.code() == "CLOSED")
      stop_here(Reason::kRequested, {});
    else if (state() == State::kRunning || state() == State::kPaused)
      fail(error);
  };
  if (settled) {
    try {
      call(At::kAnywhere, fail_here);
    } catch (const Error&) {
      // Closed meanwhile.
    }
    return;
  }
  auto task = std::make_shared<Task>();
  task->run = fail_here;
  {
    std::lock_guard lock(mutex_);
    post(std::move(task));
  }
  vcpu_->kick();
}

void Machine::fail(const std::exception& error) { set_state(State::kFailed, Reason::kError, error.what()); }

std::string Machine::message() const {
  std::lock_guard lock(mutex_);
  return message_;
}

void Machine::start() {
  call(At::kAnywhere, [this] {
    if (state() != State::kCreated) bad_state("start");
    set_state(State::kRunning, Reason::kRequested);
  });
}

void Machine::resume() {
  call(At::kAnywhere, [this] {
    if (state() != State::kPaused) bad_state("resume");
    if (std::exchange(resubmit_, false)) resubmit();
    set_state(State::kRunning, Reason::kRequested);
  });
}

size_t Machine::resubmit() {
  resubmit_ = false;
  size_t count = 0;
  for (size_t i = 0; i < board_->disks(); ++i)
    for (auto& request : board_->disk(i).in_flight())
      if (files_[i] && takes(request)) {
        files_[i]->submit(std::move(request));
        ++count;
      }
  return count;
}

// A replica's disks take writes; what a read gave is in the log.
bool Machine::takes(const devices::BlockRequest& request) const {
  return source_->live() ||
         (backends_ == Backends::kStandby && request.operation != devices::BlockOperation::kRead);
}

void Machine::pause() {
  auto task = [this] {
    if (state() == State::kPaused) return;
    if (state() != State::kRunning) bad_state("pause");
    set_state(State::kPaused, Reason::kRequested);
  };
  if (state() == State::kRunning) {
    try {
      return call(At::kBoundary, task, kPausePatience);
    } catch (const Error& error) {
      if (error.code() != "NO_BOUNDARY") throw;
    }
  }
  call(At::kAnywhere, task);
}

void Machine::pause_here(Reason reason, std::string message) {
  if (state() == State::kRunning) set_state(State::kPaused, reason, std::move(message));
}

void Machine::pause_for(Reason reason, std::string message) {
  if (state() == State::kRunning || state() == State::kPaused)
    set_state(State::kPaused, reason, std::move(message));
}

void Machine::stop_here(Reason reason, std::string message) {
  if (state() == State::kStopped || state() == State::kFailed) return;
  set_state(State::kStopped, reason, std::move(message));
}

void Machine::stop() {
  call(At::kAnywhere, [this] { stop_here(Reason::kRequested, {}); });
}

void Machine::use_source(InputSource& source) {
  source_ = &source;
  recorded_.store(source_ != &live_, std::memory_order_release);
  if (backends_ != Backends::kStandby || open_ == source_->live()) return;
  // What the disks still do for the replica is not to be completed to the guest: it is submitted again.
  drain_disks();
  open_.store(source_->live(), std::memory_order_release);
}

void Machine::drain_disks() {
  for (auto& file : files_)
    if (file) file->drain();
}

void Machine::replica_failed(size_t disk, int err) {
  std::lock_guard lock(mutex_);
  if (!replica_failure_)
    replica_failure_ = Error::system(
        err, "pwrite", "writing the replica's disk " + backends::without_secrets(config_.disks[disk].path));
}

std::optional<Error> Machine::replica_failure() const {
  std::lock_guard lock(mutex_);
  return replica_failure_;
}

// ---- The vCPU's thread

void Machine::thread_main() {
  pthread_setname_np(pthread_self(), "ht-vcpu0");
  thread_id_.set();
  for (;;) {
    if (control_.load(std::memory_order_acquire)) run_tasks();
    if (state() == State::kRunning && !quit_.load(std::memory_order_relaxed)) {
      try {
        run_once();
        continue;
      } catch (const std::exception& error) {
        fail(error);
      }
    }
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return quit_.load() || !tasks_.empty(); });
    if (quit_.load()) {
      for (auto& task : tasks_) {
        task->error = std::make_exception_ptr(Error("CLOSED", "the machine was closed"));
        task->done = true;
        task->finished.notify_all();
      }
      tasks_.clear();
      return;
    }
  }
}

void Machine::run_once() {
  if (at_boundary_) {
    if (!leave_boundary()) return;
    at_boundary_ = false;
    halted_ = false;
    if (state() != State::kRunning) return;
  }
  auto result = vcpu_->run();
  io_pending_ = false;
  if (result == kvm::RunResult::kExit)
    on_exit();
  else
    bump(counters_.kicks);
}

const kvm_regs& Machine::exit_regs() {
  if (sync_regs_) return vcpu_->run_page()->s.regs.regs;
  fetched_regs_ = vcpu_->get_regs();
  return fetched_regs_;
}

void Machine::on_exit() {
  kvm_run& run = *vcpu_->run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      io_pending_ = true;
      bump(counters_.port_exits);
      break;
    case KVM_EXIT_MMIO:
      io_pending_ = true;
      bump(counters_.mmio_exits);
      break;
    case KVM_EXIT_HLT:
      bump(counters_.halt_exits);
      break;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      break;
    case KVM_EXIT_SHUTDOWN: {
      const kvm_regs& regs = exit_regs();
      set_state(State::kFailed, Reason::kTripleFault,
                "the guest caused a triple fault near rip " + hex(regs.rip));
      return;
    }
    case KVM_EXIT_INTR:
      return;
    case KVM_EXIT_DEBUG:
      if (state() == State::kRunning) set_state(State::kPaused, Reason::kBreakpoint, describe_stop(*vcpu_));
      return;
    case KVM_EXIT_DIRTY_RING_FULL:
      serve_ring_full(*vm_);
      return;
    default:
      throw_fatal_exit(*vcpu_);
  }
  can_inject_ = run.ready_for_interrupt_injection;
  interrupts_on_ = run.if_flag;
  halted_ = run.exit_reason == KVM_EXIT_HLT;
  at_boundary_ = true;
  digest_exit(run);
  ordinal_.store(ordinal_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  source_->boundary(ordinal_.load(std::memory_order_relaxed), rolling_);
  if (run.exit_reason == KVM_EXIT_IO)
    serve_port(*vcpu_, *board_);
  else if (run.exit_reason == KVM_EXIT_MMIO)
    serve_mmio(*vcpu_, *board_);
}

void Machine::digest_exit(const kvm_run& run) {
  const kvm_regs& regs = exit_regs();
  uint64_t words[21] = {run.exit_reason, 0, 0};
  if (run.exit_reason == KVM_EXIT_IO) {
    words[1] = uint64_t{run.io.port} | uint64_t{run.io.size} << 16 | uint64_t{run.io.direction} << 24 |
               uint64_t{run.io.count} << 32;
    if (run.io.direction == KVM_EXIT_IO_OUT) {
      const uint64_t bytes = uint64_t{run.io.size} * run.io.count;
      const uint8_t* data = port_data(*vcpu_);
      if (bytes <= sizeof(words[2]))
        std::memcpy(&words[2], data, bytes);
      else
        words[2] = checksum64({data, bytes});
    }
  } else if (run.exit_reason == KVM_EXIT_MMIO) {
    words[0] |= uint64_t{run.mmio.len} << 16 | uint64_t{run.mmio.is_write} << 32;
    words[1] = run.mmio.phys_addr;
    // Behind the length stands what earlier exits left there.
    if (run.mmio.is_write)
      std::memcpy(&words[2], run.mmio.data, std::min<size_t>(run.mmio.len, sizeof(words[2])));
  }
  static_assert(sizeof(kvm_regs) == 18 * sizeof(uint64_t));
  std::memcpy(&words[3], &regs, sizeof(regs));
  rolling_.update(words);
}

void Machine::settle() {
  while (io_pending_) {
    io_pending_ = false;
    // A string instruction or a wide access may come back with its next part: a boundary as any other.
    if (vcpu_->complete_io() == kvm::RunResult::kExit) on_exit();
  }
}

bool Machine::leave_boundary() {
  const uint64_t here = ordinal_.load(std::memory_order_relaxed);
  Input input;
  while (source_->next(here, board_->deadline(), input)) {
    apply(input);
    // However fast inputs come, a task gets its turn.
    if (control_.load(std::memory_order_relaxed)) return false;
  }

  if (power_event_) {
    End end = end_of(*power_event_);
    power_event_.reset();
    set_state(end.state, end.reason, std::move(end.message));
    return false;
  }
  switch (source_->end(here)) {
    case SourceEnd::kNone:
      break;
    case SourceEnd::kLogEnd:
      set_state(State::kPaused, Reason::kLogEnd);
      return false;
    case SourceEnd::kDiverged:
      set_state(State::kPaused, Reason::kDiverged);
      return false;
    case SourceEnd::kStay:
      return false;
    case SourceEnd::kCaptureFailed:
      set_state(State::kPaused, Reason::kCaptureFailed);
      return false;
  }
  if (here == pause_at_) {
    pause_at_ = ~uint64_t{0};
    set_state(State::kPaused, Reason::kBoundary);
    return false;
  }

  auto& pic = board_->pic();
  const bool possible = pic.interrupt_pending() && can_inject_;
  const bool inject = source_->inject(here, possible);
  if (inject) {
    uint8_t vector = pic.acknowledge();
    vcpu_->interrupt(vector);
    bump(counters_.interrupts);
    source_->injected(here, vector);
    // What the guest does next is no longer in the log.
    if (source_->end(here) == SourceEnd::kLogEnd) set_state(State::kPaused, Reason::kLogEnd);
  } else if (halted_) {
    if (!interrupts_on_) {
      set_state(State::kStopped, Reason::kHalted, "the guest halted with interrupts off");
      return false;
    }
    source_->wait(here, board_->deadline());
    return false;
  }
  vcpu_->run_page()->request_interrupt_window =
      exact_irq_window_ && pic.interrupt_pending() && (inject || !possible);
  source_->left(here);
  return true;
}

void Machine::apply(Input& input) {
  switch (input.kind) {
    case InputKind::kTime:
      advance_time(input.time);
      board_->advance(virtual_now_);
      break;
    case InputKind::kPacket:
      bump(counters_.packets_in);
      board_->net(input.device).receive(input.bytes);
      break;
    case InputKind::kConsole:
      board_->serial().receive(input.bytes);
      break;
    case InputKind::kBlockCompletion:
      board_->disk(input.device)
          .complete(input.request, static_cast<devices::BlockStatus>(input.status), input.bytes);
      break;
    case InputKind::kPower:
      power_event_ = static_cast<devices::PowerEvent>(input.status);
      break;
  }
}

// ---- What the devices ask for

uint64_t Machine::now() {
  advance_time(source_->clock(ordinal_.load(std::memory_order_relaxed)));
  return virtual_now_;
}

void Machine::advance_time(uint64_t ns) {
  virtual_now_ = std::max(virtual_now_, ns);
  if (!source_->live()) live_.set_clock(virtual_now_);
}

void Machine::output(uint64_t kind, uint64_t device, std::span<const uint8_t> bytes) {
  const uint64_t words[] = {kind, device, bytes.size(), checksum64(bytes)};
  rolling_.update(words);
}

void Machine::transmit(uint32_t device, std::span<const uint8_t> packet) {
  if (!memory_->intact()) return;
  output(kTagPacket, device, packet);
  bump(counters_.packets_out);
  if (outputs_)
    outputs_->packet(ordinal_.load(std::memory_order_relaxed), device, packet);
  else if (source_->live())
    emit_packet(device, packet);
}

void Machine::emit_packet(uint32_t device, std::span<const uint8_t> packet) {
  if (taps_.at(device))
    taps_[device]->tap().write(packet);
  else if (listener_)
    listener_->on_packet(device, packet);
}

void Machine::console_output(uint32_t device, std::span<const uint8_t> bytes) {
  if (!memory_->intact()) return;
  output(kTagConsole, device, bytes);
  if (outputs_)
    outputs_->console(ordinal_.load(std::memory_order_relaxed), device, bytes);
  else
    emit_console(device, bytes);
}

void Machine::emit_console(uint32_t device, std::span<const uint8_t> bytes) {
  if (listener_) listener_->on_console(device, bytes);
}

void Machine::marker(uint32_t value) {
  if (listener_) listener_->on_marker(value);
}

void Machine::block_submit(uint32_t device, devices::BlockRequest request) {
  // One that is dropped is never completed: the machine has failed.
  if (!memory_->may_leave(request.parts)) return;
  const uint64_t words[] = {
      kTagBlock,      device,       request.ordinal,         static_cast<uint64_t>(request.operation),
      request.offset, request.size, checksum64(request.data)};
  rolling_.update(words);
  bump(counters_.disk_requests);
  if (files_[device] && takes(request)) files_[device]->submit(std::move(request));
}

void Machine::power(devices::PowerEvent event) { power_event_ = event; }

// ---- Inputs and state from outside

bool Machine::send_packet(uint32_t device, std::span<const uint8_t> packet) {
  check_packet(device, packet);
  Input input;
  input.kind = InputKind::kPacket;
  input.device = device;
  input.bytes.assign(packet.begin(), packet.end());
  return live_.push(std::move(input));
}

bool Machine::send_console(std::span<const uint8_t> bytes) {
  if (bytes.empty()) return true;
  check_console(bytes);
  Input input;
  input.kind = InputKind::kConsole;
  input.bytes.assign(bytes.begin(), bytes.end());
  return live_.push(std::move(input));
}

void Machine::check_writable() const {
  if (recorded())
    throw Error("BAD_STATE", "no log holds what is written from outside: not while the machine is recorded");
}

void Machine::refuse_recorded() const {
  if (recorded())
    throw Error("BAD_STATE",
                "no log holds what a debugger does: not while the machine is recorded or replayed");
}

void Machine::at_rest(size_t vcpu, const char* verb, const std::function<void()>& task) {
  check_vcpu(vcpu);
  call(At::kAnywhere, [&] {
    refuse_recorded();
    if (state() != State::kPaused && state() != State::kCreated) bad_state(verb);
    task();
  });
}

void Machine::set_debugging(bool on) {
  call(At::kAnywhere, [&] {
    if (on) refuse_recorded();
    if (on) refuse_debugged(debugged_, "attach another debugger to");
    debugged_ = on;
    set_debugged(*vcpu_, on);
  });
}

uint64_t Machine::step(size_t vcpu, uint64_t most, std::span<const uint64_t> until) {
  uint64_t done = 0;
  at_rest(vcpu, "step", [&] {
    try {
      Stepper stepper(*vcpu_);
      while (done < most && step_here(stepper)) {
        ++done;
        if (state() != State::kPaused && state() != State::kCreated) break;
        if (!until.empty() && contains(until, vcpu_->get_regs().rip)) break;
      }
    } catch (const std::exception& error) {
      fail(error);
    }
    set_debugged(*vcpu_, debugged_);
  });
  return done;
}

// False: nothing was executed, since the guest waits, or its memory was lost.
bool Machine::step_here(Stepper& stepper) {
  if (at_boundary_) {
    if (!leave_boundary()) return false;
    at_boundary_ = false;
    halted_ = false;
  }
  stepper.begin();
  while (vcpu_->run() != kvm::RunResult::kExit)
    if (stepper.too_long() || !memory_->intact()) return false;
  if (!memory_->intact()) {
    stepper.take_back();
    return false;
  }
  on_exit();
  settle();
  return true;
}

void Machine::set_registers(size_t vcpu, const kvm_regs& regs) {
  at_rest(vcpu, "set the registers of", [&] { vcpu_->set_regs(regs); });
}

std::optional<uint64_t> Machine::translate(size_t vcpu, uint64_t linear) {
  check_vcpu(vcpu);
  std::optional<uint64_t> found;
  call(At::kAnywhere, [&] {
    const kvm_translation at = vcpu_->translate(linear);
    if (at.valid) found = at.physical_address;
  });
  return found;
}

Counters Machine::counters() const {
  auto get = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  Counters counters;
  counters.boundaries = boundary();
  counters.interrupts = get(counters_.interrupts);
  counters.port_exits = get(counters_.port_exits);
  counters.mmio_exits = get(counters_.mmio_exits);
  counters.halt_exits = get(counters_.halt_exits);
  counters.packets_in = get(counters_.packets_in);
  counters.packets_out = get(counters_.packets_out);
  counters.disk_requests = get(counters_.disk_requests);
  counters.kicks = get(counters_.kicks);
  return counters;
}

StateDigest Machine::digest_here(bool memory) {
  StateDigest digest;
  digest.boundary = ordinal_.load(std::memory_order_relaxed);
  digest.vcpu = VcpuState::take(*vcpu_).digest();
  digest.devices = board_->digest();
  if (memory) digest.memory = memory_->digest();
  return digest;
}

VcpuState Machine::vcpu_state(size_t index) {
  check_vcpu(index);
  VcpuState state;
  call(At::kAnywhere, [&] { state = VcpuState::take(*vcpu_); });
  return state;
}

StateDigest Machine::state_digest() {
  StateDigest digest;
  call(At::kAnywhere, [&] { digest = digest_here(); });
  return digest;
}

void Machine::save_state(ByteWriter& out) {
  out.u64(ordinal_.load(std::memory_order_relaxed));
  out.u64(virtual_now_);
  const auto power = saved_power_event(power_event_);
  out.u8(static_cast<uint8_t>(at_boundary_ | halted_ << 1 | can_inject_ << 2 | interrupts_on_ << 3 |
                              (vcpu_->run_page()->request_interrupt_window & 1) << 4 |
                              (power ? static_cast<int>(*power) : 0) << 5));
  ByteWriter vcpu;
  VcpuState::take(*vcpu_).save(vcpu);
  out.blob(vcpu.data());
  ByteWriter board;
  board_->save(board);
  out.blob(board.data());
}

StateDigest Machine::write_snapshot(const std::string& path) {
  save_snapshot(path, {.over = NewFile::Over::kNone});
  return digest_here();
}

SnapshotInfo Machine::save_snapshot(const std::string& path, const SnapshotOptions& options) {
  ByteWriter state;
  state.u8(kStateVersion);
  ByteWriter config;
  config_.save(config);
  state.blob(config.data());
  save_state(state);
  return snapshots_->write(path, state.data(), options);
}

SnapshotInfo Machine::snapshot(const std::string& path, const SnapshotOptions& options) {
  SnapshotInfo info;
  call(At::kAnywhere, [&] {
    refuse_debugged(debugged_, "snapshot");
    const auto frozen = freeze_memory();
    info = save_snapshot(path, options);
  });
  return info;
}

}  // namespace hypertwin::machine
