#include "machine/standard_machine.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
#include "base/event.h"
#include "base/hex.h"
#include "base/random.h"
#include "boot/acpi.h"
#include "boot/kernel.h"
#include "machine/entry.h"
#include "machine/exits.h"
#include "machine/full_vcpu.h"
#include "machine/guest_debug.h"
#include "machine/machine_memory.h"
#include "machine/snapshot.h"
#include "machine/standard_cpuid.h"

namespace hypertwin::machine {

namespace {

constexpr uint8_t kStateVersion = 4;
constexpr auto kKickInterval = std::chrono::milliseconds(1);
constexpr size_t kInboxPackets = 4096, kInboxBytes = 16u << 20;
constexpr unsigned kDiskThreads = 4, kDiskBatch = 8;
constexpr uint64_t kTssAddress = 0xfffbd000;
constexpr uint32_t kMtrrDefault = 0x2ff, kMtrrWriteBack = 1 << 11 | 6;

}  // namespace

// ---- The gate

StandardMachine::Gate::Pass StandardMachine::Gate::enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return open_ || abandoned_; });
  if (abandoned_) return Pass(nullptr);
  ++inside_;
  return Pass(this);
}

StandardMachine::Gate::Pass StandardMachine::Gate::try_enter() {
  std::lock_guard lock(mutex_);
  if (!open_ || abandoned_) return Pass(nullptr);
  ++inside_;
  return Pass(this);
}

void StandardMachine::Gate::leave() {
  std::lock_guard lock(mutex_);
  if (--inside_ == 0 && !open_) changed_.notify_all();
}

void StandardMachine::Gate::open() {
  std::lock_guard lock(mutex_);
  open_ = true;
  changed_.notify_all();
}

void StandardMachine::Gate::close() {
  std::unique_lock lock(mutex_);
  open_ = false;
  changed_.wait(lock, [this] { return inside_ == 0; });
}

void StandardMachine::Gate::abandon() {
  std::lock_guard lock(mutex_);
  abandoned_ = true;
  changed_.notify_all();
}

// ---- Construction

StandardMachine::StandardMachine(std::shared_ptr<kvm::System> system, MachineConfig config,
                                 std::shared_ptr<Listener> listener, std::unique_ptr<MachineMemory> memory)
    : config_(std::move(config)), listener_(std::move(listener)) {
  config_.check();
  if (config_.wall_clock == 0) config_.wall_clock = static_cast<uint64_t>(::time(nullptr));
  stop_io_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_io_) throw_errno("eventfd", "for the devices' threads");

  for (size_t i = 0; i < config_.disks.size(); ++i) {
    auto& disk = config_.disks[i];
    files_.push_back(backends::open_disk(
        disk.path,
        {.read_only = disk.read_only,
         .threads = kDiskThreads,
         .batch = kDiskBatch,
         .on_pause = [this, i] { show_completed(i); },
         .reconnect = std::chrono::seconds(disk.reconnect_seconds),
         .on_notice = disk_notices(listener_, i)},
        [this, i](backends::Disk::Completion completion) { complete(i, std::move(completion)); }));
    disk.settle(files_.back()->size());
  }

  vm_ = system->create_vm();
  if (const int most = vm_->check_extension(KVM_CAP_MAX_VCPUS); most > 0 && config_.vcpus > unsigned(most))
    throw Error("BAD_CONFIG", std::to_string(config_.vcpus) + " vCPUs: this host's KVM takes at most " +
                                  std::to_string(most));
  if (config_.dirty_ring)
    vm_->enable_cap(KVM_CAP_DIRTY_LOG_RING, uint64_t{config_.dirty_ring_entries} * sizeof(kvm_dirty_gfn));
  memory_ = memory ? std::move(memory) : std::make_unique<MachineMemory>(config_.memory_size);
  std::vector<devices::GuestRam::Region> regions;
  const uint64_t low = std::min(config_.memory_size, kLowRamEnd);
  regions.push_back({.guest_address = 0, .size = low, .host = memory_->data(), .slot = 0});
  if (config_.memory_size > low)
    regions.push_back({.guest_address = kHighRam,
                       .size = config_.memory_size - low,
                       .host = memory_->data() + low,
                       .slot = 1});
  for (const auto& region : regions)
    vm_->set_user_memory_region({.slot = region.slot,
                                 .guest_address = region.guest_address,
                                 .size = region.size,
                                 .offset = static_cast<uint64_t>(region.host - memory_->data()),
                                 .memory = memory_->guest()});
  ram_ = std::make_shared<devices::GuestRam>(std::move(regions));

  if (vm_->check_extension(KVM_CAP_SET_TSS_ADDR)) vm_->set_tss_addr(kTssAddress);
  vm_->create_irqchip();
  vm_->create_pit2(KVM_PIT_SPEAKER_DUMMY);
  kernel_clock_ = vm_->check_extension(KVM_CAP_ADJUST_CLOCK) != 0;
  board_ = std::make_unique<StandardBoard>(vm_, static_cast<StandardHost&>(*this), *ram_, config_,
                                           [this](uint32_t value) {
                                             if (listener_) listener_->on_marker(value);
                                           });
  const bool tsc_deadline = vm_->check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  const auto supported = system->supported_cpuid();
  for (uint32_t id = 0; id < config_.vcpus; ++id) {
    auto cpu = std::make_unique<Cpu>();
    cpu->vcpu = vm_->create_vcpu(id);
    cpu->vcpu->set_cpuid2(standard_cpuid(supported, id, config_.vcpus, tsc_deadline));
    cpus_.push_back(std::move(cpu));
  }
  dirty::Target target{vm_, {}, ram_};
  for (const auto& cpu : cpus_) target.vcpus.push_back(cpu->vcpu);
  snapshots_ = std::make_unique<Snapshots>(*memory_, std::move(target));

  for (size_t i = 0; i < config_.nets.size(); ++i) inboxes_.push_back(std::make_unique<Inbox>());
  for (size_t i = 0; i < config_.nets.size(); ++i)
    taps_.push_back(config_.nets[i].backend == NetBackend::kTap
                        ? std::make_unique<backends::Tap>(config_.nets[i].tap, backends::Tap::Frames::kHeaded)
                        : nullptr);
  for (size_t i = 0; i < config_.nets.size(); ++i) kernel_nets_.push_back(open_kernel_net(i));
  if (config_.vsock)
    vsock_ = std::make_unique<backends::VsockUnix>(
        config_.vsock->path,
        [this](devices::VsockEvent event) {
          const auto pass = gate_.enter();
          if (!pass) return;
          auto& function = *board_->vsock_function();
          std::lock_guard lock(function.mutex());
          function.as<devices::VirtioVsock>().input(event);
        },
        [this] { ring(board_->vsock_function()->doorbell(devices::VirtioVsock::kTransmit)); });
}

// Not where memory is a snapshot's: what leaves such a machine is looked at first (MachineMemory::may_leave).
std::unique_ptr<KernelNet> StandardMachine::open_kernel_net(size_t net) {
  using Vhost = NetConfig::Vhost;
  const Vhost wanted = config_.nets[net].vhost;
  const bool possible = taps_[net] && memory_->chain().empty() && !memory_->pager();
  if (!possible && wanted == Vhost::kAlways)
    throw Error("BAD_CONFIG",
                "network device " + std::to_string(net) +
                    ": a machine that is restored has its packets moved by its own process, not by "
                    "vhost");
  if (!possible || wanted == Vhost::kNever) return nullptr;
  try {
    return std::make_unique<KernelNet>(board_->net_function(net), *ram_, taps_[net]->fd());
  } catch (const Error&) {
    if (wanted == Vhost::kAlways) throw;
    return nullptr;
  }
}

std::unique_ptr<StandardMachine> StandardMachine::create(std::shared_ptr<kvm::System> system,
                                                         MachineConfig config, const Image& image,
                                                         std::shared_ptr<Listener> listener) {
  std::unique_ptr<StandardMachine> machine(
      new StandardMachine(std::move(system), std::move(config), std::move(listener)));
  const uint64_t rsdp = machine->board_->write_acpi(*machine->ram_, machine->config_.vcpus);
  machine->new_generation();
  const boot::Seed seed = boot::new_seed();
  const boot::Entry entry = boot::load_kernel(
      *machine->ram_, {image.kernel, image.initrd, machine->config_.command_line, rsdp, seed});
  const auto& first = machine->cpus_.front()->vcpu;
  set_entry(*first, entry);
  for (const auto& cpu : machine->cpus_) {
    const kvm_msr_entry write_back{.index = kMtrrDefault, .reserved = 0, .data = kMtrrWriteBack};
    cpu->vcpu->set_msrs(std::span(&write_back, 1));
  }
  machine->launch();
  return machine;
}

std::unique_ptr<StandardMachine> StandardMachine::restore(std::shared_ptr<kvm::System> system,
                                                          const std::string& path,
                                                          std::shared_ptr<Listener> listener,
                                                          const RestoreOptions& options) {
  return restore(std::move(system), open_snapshot(path), std::move(listener), options);
}

std::unique_ptr<StandardMachine> StandardMachine::restore(std::shared_ptr<kvm::System> system,
                                                          SnapshotChain chain,
                                                          std::shared_ptr<Listener> listener,
                                                          const RestoreOptions& options) {
  const std::shared_ptr<const SnapshotFile> file = chain.front();
  ByteReader in(file->state(), "the snapshot's state");
  if (in.u8() != kStateVersion) in.corrupt("a machine of another board, or of an unknown version");
  MachineConfig config = restored_config(in, *file, options);
  std::unique_ptr<StandardMachine> machine(new StandardMachine(
      std::move(system), std::move(config), std::move(listener), restored_memory(std::move(chain), options)));
  machine->load_state(in);
  machine->launch();
  machine->memory_->watch(
      options.verify == Verify::kBehind,
      [own = machine.get()](const Error& error, bool settled) { own->lost(error, settled); });
  return machine;
}

void StandardMachine::launch() {
  for (auto& cpu : cpus_) cpu->thread = std::thread([this, &own = *cpu] { cpu_main(own); });
  std::vector<const StandardBoard::Function*> nets;
  for (size_t i = 0; i < config_.nets.size(); ++i) {
    nets.push_back(&board_->net_function(i));
    io_threads_.emplace_back([this, i] { guarded([&] { net_main(i); }); });
  }
  for (auto& function : board_->functions())
    if (std::ranges::find(nets, function.get()) == nets.end())
      io_threads_.emplace_back([this, &own = *function] { guarded([&] { io_main(own); }); });
  clock_thread_ = std::thread([this] { clock_main(); });
}

StandardMachine::~StandardMachine() {
  memory_->stop_watching();
  {
    std::lock_guard lock(mutex_);
    run_ = false;
    quit_ = true;
  }
  changed_.notify_all();
  for (auto& cpu : cpus_) cpu->vcpu->kick();
  gate_.abandon();
  ring(stop_io_.get());
  {
    std::lock_guard lock(board_->mutex());
    clock_quit_ = true;
  }
  clock_changed_.notify_all();
  memory_->give_up();
  for (auto& cpu : cpus_)
    if (cpu->thread.joinable()) cpu->thread.join();
  for (auto& thread : io_threads_) thread.join();
  if (clock_thread_.joinable()) clock_thread_.join();
  // Their threads call into this; they end before the rest goes.
  vsock_.reset();
  files_.clear();
}

// ---- Control

void StandardMachine::set_state(State state, Reason reason, std::string message) {
  {
    std::lock_guard lock(mutex_);
    message_ = message;
  }
  reason_.store(reason, std::memory_order_release);
  state_.store(state, std::memory_order_release);
  if (listener_) listener_->on_state(state, reason, message);
}

std::string StandardMachine::message() const {
  std::lock_guard lock(mutex_);
  return message_;
}

void StandardMachine::go() {
  if (clock_) {
    // The guest's clocks go on from where they stopped.
    kvm_clock_data clock{};
    clock.clock = clock_->clock;
    vm_->set_clock(clock);
    clock_.reset();
  }
  {
    std::lock_guard lock(board_->mutex());
    time_since_ = now_ns();
    time_runs_ = true;
  }
  clock_changed_.notify_all();
  if (std::exchange(resubmit_, false)) {
    for (size_t i = 0; i < files_.size(); ++i) {
      std::lock_guard lock(board_->disk_function(i).mutex());
      for (auto& request : board_->disk_function(i).as<devices::VirtioBlk>().in_flight())
        if (memory_->may_leave(request.parts)) files_[i]->submit(std::move(request));
    }
    if (auto request = board_->rng_function().as<devices::VirtioRng>().in_flight())
      entropy_.push_back(*request);
    if (auto* vsock = board_->vsock_function()) {
      std::lock_guard lock(vsock->mutex());
      vsock->as<devices::VirtioVsock>().transport_reset(config_.vsock->cid);
    }
    board_->generation_changed();
    // What the guest notified before the snapshot was taken.
    for (auto& function : board_->functions()) function->ring_doorbells();
  }
  for (auto& file : files_) file->release();
  gate_.open();
  std::optional<End> end;
  {
    std::lock_guard lock(mutex_);
    // It may have ended before it ran: its memory was lost, or its guest had ended it before the snapshot.
    end = std::exchange(end_, std::nullopt);
    if (power_event_ && !end) end = end_of(*power_event_);
    power_event_.reset();
    run_ = !end;
    if (run_) {
      ++turns_;
      parked_ = 0;
    }
  }
  changed_.notify_all();
  if (end) set_state(end->state, end->reason, end->message);
}

void StandardMachine::halt() {
  {
    std::unique_lock lock(mutex_);
    run_ = false;
    do
      for (auto& cpu : cpus_) cpu->vcpu->kick();
    while (!changed_.wait_for(lock, kKickInterval, [this] { return parked_ == cpus_.size(); }));
  }
  stand_still();
}

void StandardMachine::close_gate() {
  gate_.close();
  for (size_t i = 0; i < kernel_nets_.size(); ++i) {
    if (!kernel_nets_[i]) continue;
    std::lock_guard lock(board_->net_function(i).mutex());
    kernel_nets_[i]->give_back();
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    files_[i]->hold();
    std::lock_guard lock(board_->disk_function(i).mutex());
    board_->disk_function(i).as<devices::VirtioBlk>().mark_reads();
  }
}

void StandardMachine::stand_still() {
  close_gate();
  {
    // The clock's thread is not at an alarm.
    std::lock_guard lock(board_->mutex());
    if (time_runs_.exchange(false)) time_base_ += now_ns() - time_since_;
  }
  if (kernel_clock_ && !clock_) clock_ = vm_->get_clock();
  for (auto& cpu : cpus_) {
    // Tells a guest with kvmclock that it was stopped, so that its watchdogs stay quiet.
    try {
      if (state() != State::kCreated) cpu->vcpu->kvmclock_ctrl();
    } catch (const Error&) {
      // EINVAL: it has none.
    }
  }
}

void StandardMachine::start() {
  std::lock_guard control(control_);
  if (state() != State::kCreated) bad_state(state(), "start");
  set_state(State::kRunning, Reason::kRequested);
  go();
}

void StandardMachine::resume() {
  std::lock_guard control(control_);
  if (state() != State::kPaused) bad_state(state(), "resume");
  // Others may have gone on from where this one does.
  if (resubmit_) new_generation();
  memory_->check();
  set_state(State::kRunning, Reason::kRequested);
  go();
}

void StandardMachine::pause() {
  std::lock_guard control(control_);
  if (state() == State::kPaused) return;
  if (state() != State::kRunning) bad_state(state(), "pause");
  halt();
  // The guest may have ended itself, or come to a breakpoint, meanwhile.
  if (state() == State::kPaused) return;
  if (state() != State::kRunning) bad_state(state(), "pause");
  set_state(State::kPaused, Reason::kRequested);
}

void StandardMachine::stop() {
  std::lock_guard control(control_);
  if (state() == State::kRunning) halt();
  if (state() == State::kStopped || state() == State::kFailed) return;
  set_state(State::kStopped, Reason::kRequested);
}

void StandardMachine::standing_still(const std::function<void()>& task) {
  std::lock_guard control(control_);
  const bool was_running = state() == State::kRunning;
  if (was_running)
    halt();
  else
    close_gate();  // it is open still where the guest has ended the machine
  std::exception_ptr error;
  try {
    task();
  } catch (...) {
    error = std::current_exception();
  }
  if (was_running && state() == State::kRunning) go();
  if (error) std::rethrow_exception(error);
}

bool StandardMachine::press_power_button() {
  std::lock_guard lock(board_->mutex());
  return board_->acpi().press_power_button();
}

// ---- The vCPUs' threads

void StandardMachine::cpu_main(Cpu& cpu) {
  pthread_setname_np(pthread_self(), ("ht-vcpu" + std::to_string(cpu.vcpu->id())).c_str());
  cpu.thread_id.set();
  std::unique_lock lock(mutex_);
  for (uint64_t turn = 0;;) {
    changed_.wait(lock, [&] { return turn != turns_ || quit_; });
    if (quit_) return;
    turn = turns_;
    lock.unlock();
    try {
      run_cpu(cpu);
    } catch (const std::exception& error) {
      end_from_inside({State::kFailed, Reason::kError, error.what()});
    }
    lock.lock();
    if (quit_) return;
    // The last one in says how the machine ended.
    if (end_ && parked_ + 1 == cpus_.size()) {
      End end = std::move(*end_);
      end_.reset();
      lock.unlock();
      if (end.state == State::kPaused) stand_still();
      set_state(end.state, end.reason, std::move(end.message));
      lock.lock();
      // Who has heard of it may have let all go on.
      if (turn != turns_) continue;
    }
    ++parked_;
    changed_.notify_all();
  }
}

void StandardMachine::end_from_inside(End end) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = std::move(end);
    run_ = false;
  }
  for (auto& cpu : cpus_) cpu->vcpu->kick();
}

// Until it is settled, others may wait for a page, and have control_: a paused machine may be about to run,
// or be stepped.
void StandardMachine::lost(const Error& error, bool settled) {
  const End end = error.code() == "CLOSED" ? End{State::kStopped, Reason::kRequested, {}}
                                           : End{State::kFailed, Reason::kError, error.what()};
  if (state() == State::kRunning || state() == State::kPaused) end_from_inside(end);
  if (!settled) return;
  std::lock_guard control(control_);
  if (state() == State::kRunning)
    end_from_inside(end);
  else if (state() == State::kPaused)
    set_state(end.state, end.reason, end.message);
}

void StandardMachine::run_cpu(Cpu& cpu) {
  kvm::Vcpu& vcpu = *cpu.vcpu;
  while (run_.load(std::memory_order_relaxed)) {
    switch (vcpu.run()) {
      case kvm::RunResult::kInterrupted:
        bump(cpu.kicks);
        continue;
      case kvm::RunResult::kAgain:
        continue;
      case kvm::RunResult::kExit:
        break;
    }
    serve(cpu);
  }
  // The registers are whole while it is parked.
  while (vcpu.complete_io() == kvm::RunResult::kExit) {
    kvm_run& run = *vcpu.run_page();
    if (run.exit_reason == KVM_EXIT_IO)
      serve_port(vcpu, *board_);
    else if (run.exit_reason == KVM_EXIT_MMIO)
      serve_mmio(vcpu, *board_);
    else
      break;
  }
}

bool StandardMachine::serve(Cpu& cpu) {
  kvm::Vcpu& vcpu = *cpu.vcpu;
  kvm_run& run = *vcpu.run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      bump(cpu.port_exits);
      serve_port(vcpu, *board_);
      // The clock may have another alarm now, or may ring again.
      if ((run.io.port & ~1) == devices::Rtc::kPorts[0].first) clock_changed_.notify_all();
      break;
    case KVM_EXIT_MMIO:
      bump(cpu.mmio_exits);
      serve_mmio(vcpu, *board_);
      break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_HLT:
      break;
    case KVM_EXIT_DEBUG:
      end_from_inside({State::kPaused, Reason::kBreakpoint, describe_stop(vcpu)});
      return false;
    case KVM_EXIT_SHUTDOWN:
      end_from_inside({State::kFailed, Reason::kTripleFault,
                       "the guest caused a triple fault on vCPU " + std::to_string(vcpu.id()) + " near rip " +
                           hex(vcpu.get_regs().rip)});
      return false;
    case KVM_EXIT_DIRTY_RING_FULL:
      serve_ring_full(*vm_);
      break;
    default:
      throw_fatal_exit(vcpu);
  }
  return true;
}

// ---- The devices' threads

void StandardMachine::guarded(const std::function<void()>& main) {
  try {
    main();
  } catch (const std::exception& error) {
    end_from_inside({State::kFailed, Reason::kError, error.what()});
  }
}

void StandardMachine::io_main(StandardBoard::Function& function) {
  pthread_setname_np(pthread_self(), "ht-io");
  std::vector<pollfd> fds;
  fds.push_back({.fd = stop_io_.get(), .events = POLLIN, .revents = 0});
  for (size_t i = 0; i < function.queues(); ++i)
    fds.push_back({.fd = function.doorbell(i), .events = POLLIN, .revents = 0});
  const bool rng = &function == &board_->rng_function();
  for (;;) {
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR alone is possible
    if (fds[0].revents) return;
    const auto pass = gate_.enter();
    if (!pass) return;
    for (size_t i = 0; i + 1 < fds.size(); ++i) {
      if (!fds[i + 1].revents) continue;
      unring(fds[i + 1].fd);
      std::lock_guard lock(function.mutex());
      function.device().notify(static_cast<unsigned>(i));
      if (rng) give_entropy();
      if (&function == board_->console_function()) {
        auto& console = function.as<devices::VirtioConsole>();
        typed_.take(console.input_space(),
                    [&](std::span<const uint8_t> bytes) { return console.receive(bytes); });
      }
    }
  }
}

// Both ways of one network in one thread: each batch of packets that go is followed by one of those that
// come, and no thread waits for another.
void StandardMachine::net_main(size_t net) {
  pthread_setname_np(pthread_self(), "ht-net");
  auto& function = board_->net_function(net);
  auto& device = function.as<devices::VirtioNet>();
  backends::Tap* tap = taps_[net].get();
  const auto receive = [&](std::span<const uint8_t> packet) {
    packets_in_.fetch_add(1, std::memory_order_relaxed);
    device.receive_unfinished(packet);
  };
  KernelNet* kernel = kernel_nets_[net].get();
  enum : unsigned {
    kStop,
    kBells,
    kTap = kBells + KernelNet::kQueues,
    kCalls,
    kBroken = kCalls + KernelNet::kQueues
  };
  pollfd fds[kBroken + 1];
  for (pollfd& fd : fds) fd = {-1, POLLIN, 0};
  fds[kStop].fd = stop_io_.get();
  if (kernel) {
    for (unsigned i = 0; i < KernelNet::kQueues; ++i) fds[kCalls + i].fd = kernel->called(i);
    fds[kBroken].fd = kernel->broken();
  }
  bool room = true;
  for (;;) {
    const bool own = !kernel || !kernel->serving();
    for (unsigned i = 0; i < KernelNet::kQueues; ++i) fds[kBells + i].fd = own ? function.doorbell(i) : -1;
    // What the guest has no room for waits in the kernel.
    fds[kTap].fd = own && tap && room ? tap->fd() : -1;
    if (::poll(fds, std::size(fds), -1) < 0) continue;  // EINTR alone is possible
    if (fds[kStop].revents) return;
    const auto pass = gate_.enter();
    if (!pass) return;
    for (unsigned i = 0; i < KernelNet::kQueues; ++i)
      if (fds[kBells + i].revents) unring(fds[kBells + i].fd);
    std::lock_guard lock(function.mutex());
    if (fds[kBells].revents) {
      device.notify(0);
      take_inbox(net);
    }
    if (fds[kBells + 1].revents) device.notify(1);
    if (fds[kTap].revents) {
      if (tap->read(receive) == backends::Tap::Read::kGone) tap = nullptr;
      device.show_received();
    }
    if (kernel) {
      for (unsigned i = 0; i < KernelNet::kQueues; ++i)
        if (fds[kCalls + i].revents) kernel->on_called(i);
      if (fds[kBroken].revents) kernel->on_broken();
      kernel->serve();
    }
    room = device.pending() == 0;
  }
}

void StandardMachine::complete(size_t disk, backends::Disk::Completion completion) {
  const auto pass = gate_.enter();
  if (!pass) return;
  std::lock_guard lock(board_->disk_function(disk).mutex());
  board_->disk_function(disk).as<devices::VirtioBlk>().complete_one(completion.ordinal, completion.status,
                                                                    completion.data);
}

void StandardMachine::show_completed(size_t disk) {
  const auto pass = gate_.enter();
  if (!pass) return;
  std::lock_guard lock(board_->disk_function(disk).mutex());
  board_->disk_function(disk).as<devices::VirtioBlk>().show_completed();
}

void StandardMachine::block_cancel(uint32_t device) { files_.at(device)->cancel(); }

// The clock's alarms.
void StandardMachine::clock_main() {
  pthread_setname_np(pthread_self(), "ht-clock");
  std::unique_lock lock(board_->mutex());
  while (!clock_quit_) {
    const auto deadline = board_->rtc().deadline();
    const uint64_t time = now();
    if (!deadline || !time_runs_)
      clock_changed_.wait(lock);
    else if (*deadline > time)
      clock_changed_.wait_for(lock,
                              std::chrono::nanoseconds(std::min<uint64_t>(*deadline - time, 1000000000)));
    else
      board_->rtc().advance(time);
  }
}

// ---- What the devices ask for

uint64_t StandardMachine::now() {
  const uint64_t base = time_base_.load();
  return time_runs_ ? base + (now_ns() - time_since_.load()) : base;
}

void StandardMachine::transmit(uint32_t device, std::span<const uint8_t> packet) {
  if (!memory_->intact()) return;
  packets_out_.fetch_add(1, std::memory_order_relaxed);
  if (taps_.at(device))
    taps_[device]->write(packet);
  else if (listener_)
    listener_->on_packet(device, packet);
}

void StandardMachine::guest_finishes(uint32_t device, uint64_t features) {
  using devices::VirtioNet;
  // Where the kernel cannot, or the interface is gone, packets come finished, or none.
  (void)taps_.at(device)->set_receiver_finishes(
      {.checksum = (features & VirtioNet::kGuestChecksum) != 0,
       .tcp4 = (features & VirtioNet::kGuestTcp4) != 0,
       .tcp6 = (features & VirtioNet::kGuestTcp6) != 0,
       .congestion = (features & VirtioNet::kGuestCongestion) != 0});
  if (features == 0 && kernel_nets_[device]) kernel_nets_[device]->forget();
  // What waited for room may be gone.
  net_ready(device);
}

void StandardMachine::net_ready(uint32_t device) { board_->net_function(device).ring_doorbells(); }

void StandardMachine::transmit_unfinished(uint32_t device, std::span<const iovec> parts) {
  if (!memory_->may_leave(parts)) return;
  packets_out_.fetch_add(1, std::memory_order_relaxed);
  taps_[device]->write(parts);
}

void StandardMachine::console_output(uint32_t device, std::span<const uint8_t> bytes) {
  if (listener_ && memory_->intact()) listener_->on_console(device, bytes);
}

void StandardMachine::block_submit(uint32_t device, devices::BlockRequest request) {
  // One that is dropped is never completed: the machine has failed.
  if (!memory_->may_leave(request.parts)) return;
  disk_requests_.fetch_add(1, std::memory_order_relaxed);
  files_.at(device)->submit(std::move(request));
}

void StandardMachine::entropy_wanted(uint32_t, devices::EntropyRequest request) {
  entropy_.push_back(request);
  // For the device's thread, whoever took the guest's notification.
  ring(board_->rng_function().doorbell(0));
}

void StandardMachine::new_generation() {
  uint8_t id[boot::kGenerationIdSize];
  fill_random(id, "for the guest's generation");
  // A guest of less than 1 MiB has no room for it, and no tables.
  [[maybe_unused]] const bool written = ram_->write(boot::kGenerationId, id);
}

// The rng's mutex is held.
void StandardMachine::give_entropy() {
  std::vector<uint8_t> bytes;
  while (!entropy_.empty()) {
    const auto request = entropy_.front();
    entropy_.pop_front();
    bytes.resize(request.size);
    fill_random(bytes, "for the guest's entropy device");
    board_->rng_function().as<devices::VirtioRng>().complete(request.ordinal, bytes);
  }
}

// Given back to the host; the guest reads zeros there, until it writes again.
void StandardMachine::discard(uint32_t, uint64_t address, uint64_t size) {
  uint8_t* host = ram_->translate(address, size);
  if (!host) return;
  memory_->discard(static_cast<uint64_t>(host - memory_->data()), size);
  ram_->mark_written(address, size);
}

void StandardMachine::vsock_event(uint32_t, devices::VsockEvent event) {
  if (memory_->intact()) vsock_->submit(std::move(event));
}

bool StandardMachine::vsock_busy(uint32_t) { return vsock_->busy(); }

void StandardMachine::power(devices::PowerEvent event) { end_from_inside(end_of(event)); }

// ---- Inputs and state from outside

bool StandardMachine::send_packet(uint32_t device, std::span<const uint8_t> packet) {
  check_packet(device, packet);
  Inbox& inbox = *inboxes_[device];
  {
    std::lock_guard lock(inbox.mutex);
    if (inbox.packets.size() >= kInboxPackets || inbox.bytes + packet.size() > kInboxBytes) return false;
    inbox.packets.emplace_back(packet.begin(), packet.end());
    inbox.bytes += packet.size();
  }
  ring(board_->net_function(device).doorbell(0));
  return true;
}

void StandardMachine::take_inbox(size_t net) {
  Inbox& inbox = *inboxes_[net];
  auto& device = board_->net_function(net).as<devices::VirtioNet>();
  std::vector<uint8_t> packet;
  while (device.pending() < devices::VirtioNet::kMaxPending) {
    {
      std::lock_guard lock(inbox.mutex);
      if (inbox.packets.empty()) return;
      packet = std::move(inbox.packets.front());
      inbox.packets.pop_front();
      inbox.bytes -= packet.size();
    }
    packets_in_.fetch_add(1, std::memory_order_relaxed);
    device.receive(packet);
  }
}

bool StandardMachine::send_console(std::span<const uint8_t> bytes) {
  check_console(bytes);
  if (auto* function = board_->console_function()) {
    if (!typed_.add(bytes)) return false;
    ring(function->doorbell(0));
    return true;
  }
  std::lock_guard lock(board_->mutex());
  return board_->serial().input_space() >= bytes.size() && board_->serial().receive(bytes) == bytes.size();
}

void StandardMachine::set_console_size(uint16_t columns, uint16_t rows) {
  auto* function = board_->console_function();
  if (!function) throw Error("ERANGE", "the machine has no virtio-console: create it with console: 'virtio'");
  std::lock_guard lock(function->mutex());
  function->as<devices::VirtioConsole>().set_size(columns, rows);
}

void StandardMachine::with_balloon(const std::function<void(devices::VirtioBalloon&)>& use) {
  auto* function = board_->balloon_function();
  if (!function) throw Error("ERANGE", "the machine has no balloon: create it with balloon: true");
  std::lock_guard lock(function->mutex());
  use(function->as<devices::VirtioBalloon>());
}

void StandardMachine::set_debugging(bool on) {
  standing_still([&] {
    if (on) refuse_debugged(debugged_, "attach another debugger to");
    debugged_ = on;
    for (auto& cpu : cpus_) set_debugged(*cpu->vcpu, on);
  });
}

uint64_t StandardMachine::step(size_t index, uint64_t most, std::span<const uint64_t> until) {
  check_vcpu(index);
  std::lock_guard control(control_);
  if (state() != State::kPaused && state() != State::kCreated) bad_state(state(), "step");
  if (const auto power = std::exchange(power_event_, std::nullopt)) {
    End end = end_of(*power);
    set_state(end.state, end.reason, std::move(end.message));
    return 0;
  }
  Cpu& cpu = *cpus_[index];
  uint64_t done = 0;
  try {
    Stepper stepper(*cpu.vcpu);
    while (done < most && step_cpu(cpu, stepper)) {
      ++done;
      if (!until.empty() && contains(until, cpu.vcpu->get_regs().rip)) break;
    }
  } catch (const std::exception& error) {
    end_from_inside({State::kFailed, Reason::kError, error.what()});
  }
  set_debugged(*cpu.vcpu, debugged_);
  // The instruction may have ended the machine.
  std::optional<End> end;
  {
    std::lock_guard lock(mutex_);
    end = std::exchange(end_, std::nullopt);
  }
  if (end) set_state(end->state, end->reason, std::move(end->message));
  return done;
}

// False: the guest waits, or has ended.
bool StandardMachine::step_cpu(Cpu& cpu, Stepper& stepper) {
  stepper.begin();
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (end_) return false;
    }
    if (cpu.vcpu->run() != kvm::RunResult::kExit) {
      if (stepper.too_long()) return false;
      continue;
    }
    if (!memory_->intact()) {
      stepper.take_back();
      return false;
    }
    if (cpu.vcpu->run_page()->exit_reason == KVM_EXIT_DEBUG) return true;
    if (!serve(cpu)) return false;
  }
}

void StandardMachine::set_registers(size_t index, const kvm_regs& regs) {
  check_vcpu(index);
  std::lock_guard control(control_);
  if (state() != State::kPaused && state() != State::kCreated) bad_state(state(), "set the registers of");
  cpus_[index]->vcpu->set_regs(regs);
}

std::optional<uint64_t> StandardMachine::translate(size_t index, uint64_t linear) {
  check_vcpu(index);
  std::optional<uint64_t> found;
  standing_still([&] {
    const kvm_translation at = cpus_[index]->vcpu->translate(linear);
    if (at.valid) found = at.physical_address;
  });
  return found;
}

Counters StandardMachine::counters() const {
  Counters counters;
  for (const auto& cpu : cpus_) {
    counters.port_exits += cpu->port_exits.load(std::memory_order_relaxed);
    counters.mmio_exits += cpu->mmio_exits.load(std::memory_order_relaxed);
    counters.kicks += cpu->kicks.load(std::memory_order_relaxed);
  }
  counters.interrupts = board_->interrupts();
  counters.packets_in = packets_in_.load(std::memory_order_relaxed);
  counters.packets_out = packets_out_.load(std::memory_order_relaxed);
  counters.disk_requests = disk_requests_.load(std::memory_order_relaxed);
  return counters;
}

void StandardMachine::save_state(ByteWriter& out) {
  const auto power = saved_power_event(power_event_);
  out.u8(power ? static_cast<uint8_t>(*power) : 0);
  out.u64(now());
  out.u64(clock_ ? clock_->clock : 0);
  for (uint32_t chip : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC})
    out.object(vm_->get_irqchip(chip));
  out.object(vm_->get_pit2());
  for (const auto& cpu : cpus_) {
    ByteWriter vcpu;
    FullVcpu::take(*cpu->vcpu).save(vcpu);
    out.blob(vcpu.data());
  }
  ByteWriter board;
  board_->save(board);
  out.blob(board.data());
}

void StandardMachine::load_state(ByteReader& in) {
  const uint8_t power = in.u8();
  if (power > static_cast<uint8_t>(devices::PowerEvent::kReset)) in.corrupt("an unknown end of the machine");
  if (power) power_event_ = static_cast<devices::PowerEvent>(power);
  time_base_ = in.u64();
  if (const uint64_t clock = in.u64(); clock && kernel_clock_) {
    clock_.emplace();
    clock_->clock = clock;
  }
  for (uint32_t chip : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC}) {
    const auto state = in.object<kvm_irqchip>();
    if (state.chip_id != chip) in.corrupt("another interrupt controller");
    vm_->set_irqchip(state);
  }
  vm_->set_pit2(in.object<kvm_pit_state2>());
  for (auto& cpu : cpus_) {
    ByteReader vcpu(in.blob(2u << 20), "the state's vCPU");
    FullVcpu::load(vcpu).give(*cpu->vcpu);
    vcpu.expect_done();
  }
  // After the vCPUs: KVM writes to a paravirtual guest's memory when it is told where the guest's clock lies.
  memory_->settle();
  ByteReader board(in.blob(), "the state's devices");
  board_->load(board);
  board.expect_done();
  in.expect_done();
  resubmit_ = true;
  state_ = State::kPaused;
  reason_ = Reason::kRequested;
}

// The kernel's devices, but for what its timer does while the machine stands still: it asks for an interrupt.
void StandardMachine::save_kernel_devices(ByteWriter& out) const {
  for (uint32_t chip : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC}) {
    kvm_irqchip state = vm_->get_irqchip(chip);
    if (chip == KVM_IRQCHIP_PIC_MASTER) {
      state.chip.pic.irr &= static_cast<uint8_t>(~(1u << IrqPins::kTimerOfPic));
      state.chip.pic.last_irr &= static_cast<uint8_t>(~(1u << IrqPins::kTimerOfPic));
    }
    if (chip == KVM_IRQCHIP_IOAPIC) state.chip.ioapic.irr &= ~(1u << IrqPins::kTimerOfIoApic);
    out.object(state);
  }
  kvm_pit_state2 pit = vm_->get_pit2();
  for (auto& channel : pit.channels) channel.count_load_time = 0;
  out.object(pit);
  out.u64(clock_ ? clock_->clock : 0);
}

StateDigest StandardMachine::state_digest() {
  StateDigest digest;
  standing_still([&] {
    ByteWriter vcpus, devices;
    for (const auto& cpu : cpus_) FullVcpu::take(*cpu->vcpu).save_canonical(vcpus);
    digest.vcpu = digest128(vcpus.data());
    save_kernel_devices(devices);
    board_->save(devices);
    digest.devices = digest128(devices.data());
    digest.memory = memory_->digest();
  });
  return digest;
}

VcpuState StandardMachine::vcpu_state(size_t index) {
  check_vcpu(index);
  VcpuState state;
  standing_still([&] { state = VcpuState::take(*cpus_[index]->vcpu); });
  return state;
}

SnapshotInfo StandardMachine::snapshot(const std::string& path, const SnapshotOptions& options) {
  SnapshotInfo info;
  standing_still([&] {
    refuse_debugged(debugged_, "snapshot");
    ByteWriter state;
    state.u8(kStateVersion);
    ByteWriter config;
    config_.save(config);
    state.blob(config.data());
    save_state(state);
    const auto frozen = freeze_memory();
    info = snapshots_->write(path, state.data(), options);
  });
  return info;
}

BoardKind snapshot_board(const SnapshotFile& file) {
  return !file.state().empty() && file.state()[0] == kStateVersion ? BoardKind::kStandard
                                                                   : BoardKind::kDeterministic;
}

}  // namespace hypertwin::machine
