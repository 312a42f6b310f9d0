// A virtual machine on KVM with the standard board: several vCPUs, interrupt controllers and timers in the
// kernel, devices on threads of their own. For speed; what it does cannot be replayed.
//
// Three kinds of threads touch it: the vCPUs' (`ht-vcpu<n>`), which answer the guest's accesses; the devices'
// (`ht-net`, one a network, `ht-io`, one a function else; the backends' own), which pass the gate before they
// touch a device; and the owner's. The machine stands still when every vCPU is parked and the gate is closed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backends/disk.h"
#include "backends/tap.h"
#include "backends/vsock_unix.h"
#include "base/thread_id.h"
#include "machine/image.h"
#include "machine/kernel_net.h"
#include "machine/standard_board.h"
#include "machine/typed.h"
#include "machine/virtual_machine.h"

namespace hypertwin::machine {

class Stepper;

class StandardMachine final : public VirtualMachine, private StandardHost {
 public:
  // Throws Error: BAD_CONFIG, BAD_KERNEL, NO_MEMORY, or a failed call.
  static std::unique_ptr<StandardMachine> create(std::shared_ptr<kvm::System> system, MachineConfig config,
                                                 const Image& image, std::shared_ptr<Listener> listener);
  // A paused machine that continues where the snapshot's was; its memory is the file's, copied where it is
  // written.
  static std::unique_ptr<StandardMachine> restore(std::shared_ptr<kvm::System> system,
                                                  const std::string& path, std::shared_ptr<Listener> listener,
                                                  const RestoreOptions& options = {});
  // The same of one that is open.
  static std::unique_ptr<StandardMachine> restore(std::shared_ptr<kvm::System> system, SnapshotChain chain,
                                                  std::shared_ptr<Listener> listener,
                                                  const RestoreOptions& options = {});
  ~StandardMachine() override;
  StandardMachine(const StandardMachine&) = delete;
  StandardMachine& operator=(const StandardMachine&) = delete;

  void start() override;
  void pause() override;
  void resume() override;
  void stop() override;
  State state() const override { return state_.load(std::memory_order_acquire); }
  Reason reason() const override { return reason_.load(std::memory_order_acquire); }
  std::string message() const override;
  bool send_packet(uint32_t device, std::span<const uint8_t> packet) override;
  bool send_console(std::span<const uint8_t> bytes) override;
  SnapshotInfo snapshot(const std::string& path, const SnapshotOptions& options = {}) override;
  StateDigest state_digest() override;
  VcpuState vcpu_state(size_t index) override;
  void set_debugging(bool on) override;
  uint64_t step(size_t vcpu, uint64_t most, std::span<const uint64_t> until) override;
  void set_registers(size_t vcpu, const kvm_regs& regs) override;
  std::optional<uint64_t> translate(size_t vcpu, uint64_t linear) override;
  Counters counters() const override;
  const MachineConfig& config() const override { return config_; }
  const std::shared_ptr<kvm::Vm>& vm() const override { return vm_; }
  size_t vcpus() const override { return cpus_.size(); }
  pid_t vcpu_thread(size_t i) const override { return cpus_[i]->thread_id.get(); }
  const std::shared_ptr<kvm::Vcpu>& vcpu(size_t i) const override { return cpus_.at(i)->vcpu; }
  const std::shared_ptr<devices::GuestRam>& ram() const override { return ram_; }
  const MachineMemory& memory() const override { return *memory_; }
  bool kernel_serves(uint32_t net) const override {
    return kernel_nets_.at(net) && kernel_nets_[net]->serving();
  }
  Snapshots& snapshots() override { return *snapshots_; }

  // Presses ACPI's power button, as a wish to the guest. False when the guest does not listen to it.
  bool press_power_button();
  // Throws Error("ERANGE") where the machine has no virtio-console.
  void set_console_size(uint16_t columns, uint16_t rows);
  // Calls `use` with the balloon, locked. Throws Error("ERANGE") where the machine has none.
  void with_balloon(const std::function<void(devices::VirtioBalloon&)>& use);
  // Runs `task` while the machine stands still, whatever its state; then it goes on.
  void standing_still(const std::function<void()>& task);

 private:
  struct Cpu {
    std::shared_ptr<kvm::Vcpu> vcpu;
    std::thread thread;
    base::ThreadId thread_id;
    std::atomic<uint64_t> port_exits{0}, mmio_exits{0}, kicks{0};
  };
  // Devices' threads pass while it is open.
  class Gate {
   public:
    class Pass {
     public:
      explicit Pass(Gate* gate) : gate_(gate) {}
      ~Pass() {
        if (gate_) gate_->leave();
      }
      Pass(const Pass&) = delete;
      Pass& operator=(const Pass&) = delete;
      explicit operator bool() const { return gate_ != nullptr; }

     private:
      Gate* gate_;
    };
    // Waits for it to open; false when the machine goes.
    Pass enter();
    // False when it is closed.
    Pass try_enter();
    void open();
    // Returns when nobody is inside.
    void close();
    // For good: who waits goes away.
    void abandon();

   private:
    void leave();
    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
    bool abandoned_ = false;
    unsigned inside_ = 0;
  };

  StandardMachine(std::shared_ptr<kvm::System> system, MachineConfig config,
                  std::shared_ptr<Listener> listener, std::unique_ptr<MachineMemory> memory = nullptr);
  void launch();
  std::unique_ptr<KernelNet> open_kernel_net(size_t net);
  void load_state(ByteReader& in);
  void save_kernel_devices(ByteWriter& out) const;
  void lost(const Error& error, bool settled);
  void save_state(ByteWriter& out);

  void cpu_main(Cpu& cpu);
  void run_cpu(Cpu& cpu);
  // False: the machine ends, or pauses.
  bool serve(Cpu& cpu);
  bool step_cpu(Cpu& cpu, Stepper& stepper);
  void end_from_inside(End end);
  // What a thread of a device's cannot go on with ends the machine.
  void guarded(const std::function<void()>& main);
  void net_main(size_t net);
  void io_main(StandardBoard::Function& function);  // of all but networks
  void clock_main();

  // Under control_: lets all run; parks all, and leaves the gate closed. The guest or an error may have ended
  // the machine meanwhile.
  void go();
  void halt();
  // Every vCPU is parked: so are the devices and the time.
  void stand_still();
  void set_state(State state, Reason reason, std::string message = {});
  void complete(size_t disk, backends::Disk::Completion completion);
  void show_completed(size_t disk);
  // The devices' threads touch no device, and neither they nor the disks guest memory.
  void close_gate();

  // StandardHost
  uint64_t now() override;
  void transmit(uint32_t device, std::span<const uint8_t> packet) override;
  void net_ready(uint32_t device) override;
  void console_output(uint32_t device, std::span<const uint8_t> bytes) override;
  void block_submit(uint32_t device, devices::BlockRequest request) override;
  void power(devices::PowerEvent event) override;
  void entropy_wanted(uint32_t device, devices::EntropyRequest request) override;
  void discard(uint32_t device, uint64_t address, uint64_t size) override;
  void free_hint(uint32_t, uint32_t, uint64_t, uint64_t) override {}
  void hints_ended(uint32_t, uint32_t) override {}
  void balloon_stats(uint32_t) override {}
  void vsock_event(uint32_t device, devices::VsockEvent event) override;
  bool vsock_busy(uint32_t device) override;
  void guest_finishes(uint32_t device, uint64_t features) override;
  void transmit_unfinished(uint32_t device, std::span<const iovec> parts) override;
  void block_cancel(uint32_t device) override;
  void give_entropy();
  // Tells the guest that its random numbers must not be those of another machine.
  void new_generation();
  // Its mutex is held.
  void take_inbox(size_t net);

  // Order matters: what is below may use what is above.
  MachineConfig config_;
  std::shared_ptr<Listener> listener_;
  std::shared_ptr<kvm::Vm> vm_;
  std::unique_ptr<MachineMemory> memory_;
  std::shared_ptr<devices::GuestRam> ram_;
  std::unique_ptr<StandardBoard> board_;
  std::vector<std::unique_ptr<Cpu>> cpus_;
  std::unique_ptr<Snapshots> snapshots_;
  Gate gate_;
  std::vector<std::unique_ptr<backends::Tap>> taps_;     // by net; empty where none
  std::vector<std::unique_ptr<KernelNet>> kernel_nets_;  // by net; empty where none
  std::vector<std::unique_ptr<backends::Disk>> files_;
  // Packets from the owner, until the device has room.
  struct Inbox {
    std::mutex mutex;
    std::deque<std::vector<uint8_t>> packets;
    size_t bytes = 0;
  };
  std::vector<std::unique_ptr<Inbox>> inboxes_;  // by net
  Typed typed_;
  std::unique_ptr<backends::VsockUnix> vsock_;
  std::deque<devices::EntropyRequest> entropy_;  // wanted; guarded by the rng's mutex
  std::vector<std::thread> io_threads_;
  std::thread clock_thread_;
  Fd stop_io_;

  std::atomic<State> state_{State::kCreated};
  std::atomic<Reason> reason_{Reason::kNone};
  std::atomic<uint64_t> packets_in_{0}, packets_out_{0}, disk_requests_{0};

  std::mutex control_;  // one owner's call at a time; never taken by the machine's threads
  bool kernel_clock_ = false;
  std::optional<kvm_clock_data> clock_;  // the guest's time while it stands still
  bool debugged_ = false;
  bool resubmit_ = false;  // restored: requests in flight are to be submitted, queues looked at
  std::optional<devices::PowerEvent> power_event_;  // restored: the guest's wish that is to end the machine

  mutable std::mutex mutex_;  // guards the following
  std::condition_variable changed_;
  std::atomic<bool> run_{false};
  bool quit_ = false;
  // How often the vCPUs were let run. Each takes every turn, also one that is over before it has begun: else
  // nobody would say how it ended.
  uint64_t turns_ = 0;
  unsigned parked_ = 0;  // vCPUs that have taken the last turn
  std::optional<End> end_;
  std::string message_;

  std::atomic<bool> time_runs_{false};  // virtual time, which stands still with the machine
  std::atomic<uint64_t> time_base_{0}, time_since_{0};
  std::condition_variable clock_changed_;  // with the board's mutex
  bool clock_quit_ = false;
};

// Of which board a snapshot's machine is.
BoardKind snapshot_board(const SnapshotFile& file);

}  // namespace hypertwin::machine
