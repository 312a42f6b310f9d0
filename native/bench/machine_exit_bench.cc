// The cost of an exit: the machine's loop, without and with recording, against a bare ioctl loop. Both run
// the same guest on the same vCPU and thread, in turns (ABAB...). Counted is the thread's CPU time, which
// holds the guest's and the kernel's: what else the host does falls out. With --quick fewer turns.
#include <sys/ioctl.h>

#include <cstring>
#include <thread>

#include "bench.h"
#include "machine_bench.h"
#include "replay/recorder.h"

using namespace hypertwin;
using namespace hypertwin::bench;
using machine::At;
using machine::Machine;
using machine::MachineConfig;

namespace {

constexpr uint8_t kTimerVector = 0x20;

double spent() { return clock_seconds(CLOCK_THREAD_CPUTIME_ID); }

// What a C program would write: one ioctl, one switch. A halt is ended by the interrupt that would end it.
void bare_loop(const kvm::Vcpu& vcpu, uint64_t exits, volatile uint64_t* sunk) {
  kvm_run* run = vcpu.run_page();
  const int fd = vcpu.fd();
  const uint64_t valid_regs = std::exchange(run->kvm_valid_regs, 0);
  run->request_interrupt_window = 0;
  kvm_interrupt interrupt{.irq = kTimerVector};
  bool halted = run->exit_reason == KVM_EXIT_HLT;
  while (exits > 0) {
    if (halted && ioctl(fd, KVM_INTERRUPT, &interrupt) < 0) throw_errno("KVM_INTERRUPT", "bare loop");
    if (ioctl(fd, KVM_RUN, 0) < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      throw_errno("KVM_RUN", "bare loop");
    }
    halted = false;
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        if (run->io.direction == KVM_EXIT_IO_OUT)
          *sunk = *sunk + reinterpret_cast<uint8_t*>(run)[run->io.data_offset];
        else
          reinterpret_cast<uint8_t*>(run)[run->io.data_offset] = 0xff;
        break;
      case KVM_EXIT_MMIO:
        if (run->mmio.is_write)
          *sunk = *sunk + run->mmio.data[0];
        else
          std::memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
        break;
      case KVM_EXIT_HLT:
        halted = true;
        break;
      default:
        throw Error("BENCH", "exit reason " + std::to_string(run->exit_reason) + " in the bare loop");
    }
    --exits;
  }
  run->kvm_valid_regs = valid_regs;
}

void measure(const std::shared_ptr<kvm::System>& system, const std::string& name, const std::string& options,
             uint64_t exits, unsigned turns, bool record) {
  auto watch = std::make_shared<Watch>();
  TempDir dir;
  MachineConfig config;
  config.memory_size = 16u << 20;
  config.command_line = options + " count=1000000000";
  std::shared_ptr<Machine> machine = Machine::create(system, config, guest_image("exits"), watch);
  std::unique_ptr<replay::Recording> recording;
  if (record) recording = replay::Recording::start(machine, dir.file("log"));
  machine->start();
  while (machine->boundary() < 2 * exits) std::this_thread::sleep_for(std::chrono::milliseconds(1));

  Pairs pairs;
  volatile uint64_t sunk = 0;
  double bare = 0, resumed = 0;
  uint64_t ordinal = 0;
  for (unsigned turn = 0; turn <= turns; ++turn) {
    machine->call(At::kBoundary, [&] {
      const double start = spent();
      if (turn > 0) pairs.add((start - resumed) / static_cast<double>(machine->boundary() - ordinal), bare);
      bare_loop(*machine->vcpu(), exits, &sunk);
      ordinal = machine->boundary();
      resumed = spent();
      bare = (resumed - start) / static_cast<double>(exits);
    });
    const uint64_t until = ordinal + exits;
    std::this_thread::sleep_for(std::chrono::duration<double>(bare * static_cast<double>(exits)));
    while (machine->boundary() < until) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  pairs.print("exit/machine/" + name + (record ? "/recording" : ""), "us", 1e6);
  machine->stop();
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const unsigned turns = quick ? 15 : 61;
  auto system = kvm::System::open();
  const struct {
    const char* name;
    const char* options;
    uint64_t exits;
  } kinds[] = {
      {"port-out-cpl0", "kind=port cpl=0", 2000},    {"port-out-cpl3", "kind=port cpl=3", 1000},
      {"port-in-cpl0", "kind=in cpl=0", 2000},       {"mmio-write-cpl0", "kind=mmio cpl=0", 2000},
      {"hlt-interrupt", "kind=hlt hz=500000", 1000},
  };
  for (const auto& kind : kinds)
    for (bool record : {false, true}) measure(system, kind.name, kind.options, kind.exits, turns, record);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
