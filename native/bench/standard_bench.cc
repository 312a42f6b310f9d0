// The standard board with a guest of ours, where KVM need not run Linux: how long a machine takes to be made,
// and from its snapshot to the first exit that its instructions cause; and what it takes beside the guest's
// RAM. With --quick fewer.
#include <sched.h>

#include <cstring>
#include <sstream>

#include "bench.h"
#include "kvm/kvm.h"
#include "machine/standard_machine.h"
#include "machine_bench.h"

using namespace hypertwin;
using namespace hypertwin::bench;

namespace {

constexpr uint64_t kMemory = 32u << 20;

// KiB of this process that are its own, but for mappings of the guests' size.
double own_memory() {
  std::ifstream maps("/proc/self/smaps");
  double total = 0;
  bool counts = true;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin, end;
    char mode[5];
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) == 3)
      counts = end - begin != kMemory;
    else if (counts && line.starts_with("Pss:"))
      total += std::stod(line.substr(4));
  }
  return total;
}

void wait_for_exit(const machine::VirtualMachine& machine) {
  while (machine.counters().port_exits == 0) {
    if (machine.state() != machine::State::kRunning) throw Error("BENCH", "it ended: " + machine.message());
    ::sched_yield();
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  auto system = kvm::System::open();
  TempDir dir;
  machine::MachineConfig config;
  config.board = machine::BoardKind::kStandard;
  config.memory_size = kMemory;
  config.command_line = "count=1000000000";
  config.nets.emplace_back();
  const auto image = guest_image("exits");
  auto create = [&] { return machine::StandardMachine::create(system, config, image, nullptr); };

  {
    auto machine = create();
    machine->start();
    wait_for_exit(*machine);
    machine->pause();
    machine->snapshot(dir.file("snapshot"));
  }
  std::vector<double> creates, starts, restores;
  for (int i = 0; i < (quick ? 7 : 51); ++i) {
    double begin = now();
    auto machine = create();
    creates.push_back(now() - begin);
    machine->start();
    wait_for_exit(*machine);
    starts.push_back(now() - begin);
    machine.reset();
    begin = now();
    auto restored = machine::StandardMachine::restore(system, dir.file("snapshot"), nullptr);
    restored->resume();
    wait_for_exit(*restored);
    restores.push_back(now() - begin);
  }
  print("machine/standard/create", median(creates) * 1e3, "ms");
  print("machine/standard/create-to-first-exit", median(starts) * 1e3, "ms");
  print("machine/standard/restore-to-first-exit", median(restores) * 1e3, "ms");
  print("machine/standard/restore-to-first-exit/p90", quantile(restores, 0.9) * 1e3, "ms");

  std::vector<std::unique_ptr<machine::StandardMachine>> machines;
  auto add = [&] {
    machines.push_back(create());
    machines.back()->start();
    wait_for_exit(*machines.back());
    machines.back()->pause();
  };
  add();
  const double before = own_memory();
  const int count = quick ? 4 : 16;
  for (int i = 0; i < count; ++i) add();
  print("machine/standard/memory-beside-ram", (own_memory() - before) / count, "KiB");
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
