// A virtual machine on KVM with the deterministic board and one vCPU: its thread, its states, its inputs at
// boundaries, its snapshots. Where the inputs come from is a source's affair (input.h); it knows no log.
//
// A boundary is an exit that the guest's own instruction caused. It is counted, digested and dispatched to
// the devices; then the inputs are applied, then an interrupt is injected or not; then the guest runs on.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "backends/disk.h"
#include "backends/tap.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/thread_id.h"
#include "boot/kernel.h"
#include "kvm/kvm.h"
#include "machine/board.h"
#include "machine/config.h"
#include "machine/cpuid.h"
#include "machine/image.h"
#include "machine/input.h"
#include "machine/vcpu_state.h"
#include "machine/virtual_machine.h"

namespace hypertwin::machine {

// Takes what leaves a machine, in place of the taps and the listener; emit_packet() and emit_console() let it
// out. Called on the vCPU's thread, at boundary `ordinal`, also while replaying.
class Outputs {
 public:
  virtual ~Outputs() = default;
  virtual void packet(uint64_t ordinal, uint32_t device, std::span<const uint8_t> packet) = 0;
  virtual void console(uint64_t ordinal, uint32_t device, std::span<const uint8_t> bytes) = 0;
};

// What of its configuration a machine opens.
enum class Backends : uint8_t {
  kAttached,  // disks and taps
  kDetached,  // none: for looking at a replay
  kStandby,   // both, but while it replays: disks take writes, nothing is read, and taps' packets are dropped
};

class Stepper;

enum class At {
  kAnywhere,  // between any two instructions
  kBoundary,  // where the inputs are applied
};

class Machine final : public VirtualMachine, private devices::Host {
 public:
  using Image = machine::Image;
  // Throws Error: BAD_CONFIG, BAD_KERNEL, NO_MEMORY, or a failed call.
  static std::unique_ptr<Machine> create(std::shared_ptr<kvm::System> system, MachineConfig config,
                                         const Image& image, std::shared_ptr<Listener> listener);
  // A paused machine that continues where the snapshot's was; its memory is the file's, copied where it is
  // written. With Backends::kDetached it has no disks and taps, for a replay.
  static std::unique_ptr<Machine> restore(std::shared_ptr<kvm::System> system, const std::string& path,
                                          std::shared_ptr<Listener> listener,
                                          const RestoreOptions& options = {},
                                          Backends backends = Backends::kAttached);
  // The same of one that is open.
  static std::unique_ptr<Machine> restore(std::shared_ptr<kvm::System> system, SnapshotChain chain,
                                          std::shared_ptr<Listener> listener,
                                          const RestoreOptions& options = {},
                                          Backends backends = Backends::kAttached);
  // A machine whose memory and disks are filled from outside, by memory() and disk(); it has no thread and
  // knows only close until arrive() has given it the rest. `config`: as the source's, with other backends.
  static std::unique_ptr<Machine> incoming(std::shared_ptr<kvm::System> system, MachineConfig config,
                                           std::shared_ptr<Listener> listener, Backends backends);
  // `state`: of save_state(). Paused afterwards. Throws Error("CORRUPT"); the machine is then useless.
  void arrive(std::span<const uint8_t> state);
  ~Machine() override;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void start() override;
  // At a boundary when one comes within 20 ms, else between two instructions.
  void pause() override;
  void resume() override;
  void stop() override;
  State state() const override { return state_.load(std::memory_order_acquire); }
  Reason reason() const override { return reason_.load(std::memory_order_acquire); }
  std::string message() const override;
  bool send_packet(uint32_t device, std::span<const uint8_t> packet) override;
  bool send_console(std::span<const uint8_t> bytes) override;

  // Runs `task` on the vCPU's thread with the registers whole, and waits for it; rethrows what it throws.
  // At kBoundary throws Error("NO_BOUNDARY") when the guest reaches none within `patience`.
  void call(At at, std::function<void()> task,
            std::chrono::milliseconds patience = std::chrono::milliseconds(1000));

  SnapshotInfo snapshot(const std::string& path, const SnapshotOptions& options = {}) override;
  StateDigest state_digest() override;
  VcpuState vcpu_state(size_t index = 0) override;
  // Also throws Error("BAD_STATE") while another source than live_inputs() is used.
  void set_debugging(bool on) override;
  uint64_t step(size_t vcpu, uint64_t most, std::span<const uint64_t> until) override;
  void set_registers(size_t vcpu, const kvm_regs& regs) override;
  std::optional<uint64_t> translate(size_t vcpu, uint64_t linear) override;
  // Waits for what the disks do. On its thread.
  void drain_disks();
  // Of a standby machine: a disk did not take a write that it took at the other side. Any thread.
  std::optional<Error> replica_failure() const;
  bool recorded() const { return recorded_.load(std::memory_order_acquire); }
  // Any thread; it stays so for a task of call() alone.
  bool debugged() const { return debugged_.load(std::memory_order_relaxed); }

  Counters counters() const override;
  uint64_t boundary() const override { return ordinal_.load(std::memory_order_acquire); }
  const MachineConfig& config() const override { return config_; }
  const std::shared_ptr<kvm::Vm>& vm() const override { return vm_; }
  size_t vcpus() const override { return 1; }
  pid_t vcpu_thread(size_t /*i*/) const override { return thread_id_.get(); }
  const std::shared_ptr<kvm::Vcpu>& vcpu(size_t /*i*/) const override { return vcpu_; }
  const std::shared_ptr<kvm::Vcpu>& vcpu() const { return vcpu_; }
  const std::shared_ptr<devices::GuestRam>& ram() const override { return ram_; }
  const MachineMemory& memory() const override { return *memory_; }
  Snapshots& snapshots() override { return *snapshots_; }
  // nullptr when detached.
  const std::unique_ptr<backends::Disk>& disk(size_t i) const { return files_.at(i); }
  // The table that the guest sees.
  std::span<const kvm_cpuid_entry2> cpuid() const { return cpuid_; }

  // Any thread: lets something out now.
  void emit_packet(uint32_t device, std::span<const uint8_t> packet);
  void emit_console(uint32_t device, std::span<const uint8_t> bytes);

  // ---- For sources, and for who installs them. On the vCPU's thread only (from a task of call()).
  LiveInputs& live_inputs() { return live_; }
  // The source must outlive its being used; live_inputs() takes the former one's place.
  void use_source(InputSource& source);
  // Null: straight to the taps and the listener. Must outlive its being used.
  void use_outputs(Outputs* outputs) { outputs_ = outputs; }
  // Everything but memory and disks, for arrive().
  void save_state(ByteWriter& out);
  // Submits what the disks have not completed yet; when a machine goes live that was restored or replayed.
  // How many requests these were. resume() does it for a restored machine.
  size_t resubmit();
  // As stop() and pause(), with another reason than kRequested.
  void stop_here(Reason reason, std::string message);
  void pause_here(Reason reason = Reason::kRequested, std::string message = {});
  // The same; a machine that is paused already is so for this reason from now on.
  void pause_for(Reason reason, std::string message);
  // A replica's, before it goes live: the guest's time is the log's last, without what passed since.
  void rewind_clock() { live_.set_clock(virtual_now_); }
  RollingDigest& rolling() { return rolling_; }
  // As snapshot(), state_digest(), from the vCPU's thread. write_snapshot is for who holds freeze_memory(),
  // takes no other file's place (Error("EEXIST")), and gives the digest it holds. Without `memory`, that part
  // is left zero.
  StateDigest write_snapshot(const std::string& path);
  StateDigest digest_here(bool memory = true);
  // As digest_here(), after completing the boundary's access; for a source.
  StateDigest settled_digest() {
    settle();
    return digest_here();
  }
  // Of the last exit.
  uint64_t exit_rip() { return exit_regs().rip; }
  bool at_boundary() const { return at_boundary_; }
  // Pauses with kBoundary once this boundary's inputs are applied; ~0 for none.
  void pause_at(uint64_t ordinal) { pause_at_ = ordinal; }

 private:
  struct Task;
  Machine(std::shared_ptr<kvm::System> system, MachineConfig config, std::shared_ptr<Listener> listener,
          Backends backends, std::unique_ptr<MachineMemory> memory = nullptr);
  void load_state(ByteReader& in);
  void boot(const Image& image);
  void launch();

  void thread_main();
  void run_tasks();
  void post(std::shared_ptr<Task> task);
  void run_once();
  bool step_here(Stepper& stepper);
  void on_exit();
  void check_writable() const override;  // not while another source than live_inputs() is used
  void refuse_recorded() const;
  // On the vCPU's thread, standing still.
  void at_rest(size_t vcpu, const char* verb, const std::function<void()>& task);
  void digest_exit(const kvm_run& run);
  void dispatch(kvm_run& run);
  // False: stay at this boundary (waiting was interrupted, or the state changed).
  bool leave_boundary();
  void apply(Input& input);
  void advance_time(uint64_t ns);
  void settle();
  bool trap_pending();
  static constexpr unsigned kTrapPatience = 64;
  uint64_t trap_rip_ = 0;
  unsigned trap_asked_ = 0;  // how often, with that RIP
  bool takes(const devices::BlockRequest& request) const;
  void replica_failed(size_t disk, int err);
  void fail(const std::exception& error);
  void lost(const Error& error, bool settled);
  SnapshotInfo save_snapshot(const std::string& path, const SnapshotOptions& options);
  void set_state(State state, Reason reason, std::string message = {});
  [[noreturn]] void bad_state(const char* verb) const { machine::bad_state(state(), verb); }
  const kvm_regs& exit_regs();
  void output(uint64_t kind, uint64_t device, std::span<const uint8_t> bytes);

  // devices::Host
  uint64_t now() override;
  void transmit(uint32_t device, std::span<const uint8_t> packet) override;
  void console_output(uint32_t device, std::span<const uint8_t> bytes) override;
  void block_submit(uint32_t device, devices::BlockRequest request) override;
  void power(devices::PowerEvent event) override;
  void marker(uint32_t value);

  // Order matters: what is below may use what is above.
  MachineConfig config_;
  std::shared_ptr<Listener> listener_;
  const Backends backends_;
  std::shared_ptr<kvm::Vm> vm_;
  std::unique_ptr<MachineMemory> memory_;
  std::shared_ptr<devices::GuestRam> ram_;
  std::shared_ptr<kvm::Vcpu> vcpu_;
  std::unique_ptr<Snapshots> snapshots_;
  std::vector<kvm_cpuid_entry2> cpuid_;
  std::unique_ptr<Board> board_;
  LiveInputs live_{LiveInputs::Limits{}};
  std::vector<std::unique_ptr<backends::ReadTap>> taps_;  // by net; empty where none
  std::vector<std::unique_ptr<backends::Disk>> files_;

  // vCPU's thread only (or before it runs).
  InputSource* source_ = &live_;
  Outputs* outputs_ = nullptr;
  RollingDigest rolling_;
  bool sync_regs_ = false;
  bool exact_irq_window_ = false;
  kvm_regs fetched_regs_{};
  bool at_boundary_ = false;
  bool io_pending_ = false;  // an exit's access is not completed in the registers
  bool halted_ = false;      // the boundary is a HLT
  bool can_inject_ = false;  // as of the boundary's exit
  bool interrupts_on_ = false;
  bool resubmit_ = false;  // restored: the disks' requests in flight are to be submitted
  uint64_t virtual_now_ = 0;
  uint64_t pause_at_ = ~uint64_t{0};
  std::optional<devices::PowerEvent> power_event_;

  std::atomic<uint64_t> ordinal_{0};
  // Written by the vCPU's thread alone.
  struct AtomicCounters {
    std::atomic<uint64_t> interrupts{0}, port_exits{0}, mmio_exits{0}, halt_exits{0}, packets_in{0},
        packets_out{0}, disk_requests{0}, kicks{0};
  } counters_;
  std::atomic<State> state_{State::kCreated};
  std::atomic<Reason> reason_{Reason::kNone};
  std::atomic<bool> recorded_{false};  // source_ is not live_
  std::atomic<bool> debugged_{false};
  std::atomic<bool> open_{true};  // packets from taps are taken

  mutable std::mutex mutex_;  // guards tasks_, message_, replica_failure_
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Task>> tasks_;
  std::atomic<bool> quit_{false};
  std::string message_;
  std::optional<Error> replica_failure_;
  std::atomic<bool> control_{false};
  std::thread thread_;
  base::ThreadId thread_id_;
};

}  // namespace hypertwin::machine
