// The cost of an exit: VcpuRunner's loop against a bare ioctl loop, on one vCPU, in turns (ABAB...).
// Counted is the thread's CPU time, which holds the guest's and the kernel's. With --quick fewer turns.
#include <sys/ioctl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "bench.h"
#include "kvm/vcpu_runner.h"

using namespace hypertwin;
using namespace hypertwin::bench;
using namespace hypertwin::kvm;

namespace {

double spent() { return clock_seconds(CLOCK_THREAD_CPUTIME_ID); }

struct Bench {
  std::shared_ptr<GuestMemory> ram = GuestMemory::allocate(64 * 1024, {});
  std::shared_ptr<Vm> vm = System::open()->create_vm();
  std::shared_ptr<Vcpu> vcpu;

  explicit Bench(std::span<const uint8_t> code) {
    ram->write(0x1000, code);
    vm->set_user_memory_region({.slot = 0, .size = ram->size(), .memory = ram});
    vcpu = vm->create_vcpu(0);
    kvm_sregs sregs = vcpu->get_sregs();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu->set_sregs(sregs);
    restart(0);
  }
  // cx iterations, then port 0x99 ends the round.
  void restart(uint64_t rounds) {
    kvm_regs regs{};
    regs.rip = 0x1000;
    regs.rcx = rounds;
    regs.rflags = 2;
    vcpu->set_regs(regs);
  }
};

// What a C program would write: one ioctl, one switch.
void bare_loop(int fd, kvm_run* run, volatile uint64_t* sunk) {
  for (;;) {
    if (ioctl(fd, KVM_RUN, 0) < 0) std::abort();
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        if (run->io.port == 0x99) return;
        *sunk = *sunk + reinterpret_cast<uint8_t*>(run)[run->io.data_offset];
        break;
      case KVM_EXIT_HLT:
        break;
      default:
        std::abort();
    }
  }
}

void measure(const char* name, std::span<const uint8_t> code, unsigned rounds, unsigned turns) {
  Bench bench(code);
  auto handlers = std::make_shared<ExitHandlers>();
  handlers->add({.space = ExitHandler::Space::kPort, .address = 0x10, .length = 1});
  VcpuRunner runner(bench.vcpu, handlers);
  runner.set_hlt_policy(VcpuRunner::HltPolicy::kResume);
  volatile uint64_t sunk = 0;
  Pairs pairs;
  for (unsigned turn = 0; turn <= turns; ++turn) {
    bench.restart(rounds);
    double start = spent();
    bare_loop(bench.vcpu->fd(), bench.vcpu->run_page(), &sunk);
    double baseline = (spent() - start) / rounds;
    bench.restart(rounds);
    start = spent();
    if (runner.run() != RunResult::kExit) std::abort();
    double value = (spent() - start) / rounds;
    if (turn == 0) continue;  // warm-up
    pairs.add(value, baseline);
  }
  pairs.print(std::string("exit/runner/") + name, "us", 1e6);
}

}  // namespace

int main(int argc, char** argv) try {
  const unsigned turns = argc > 1 && std::strcmp(argv[1], "--quick") == 0 ? 15 : 61;
  const uint8_t port[] = {0xe6, 0x10, 0xe2, 0xfc, 0xe6, 0x99};  // out 0x10, al; loop; out 0x99, al
  const uint8_t hlt[] = {0xf4, 0xe2, 0xfd, 0xe6, 0x99};         // hlt; loop; out 0x99, al
  measure("port-out", port, 1000, turns);
  measure("hlt", hlt, 1000, turns);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
