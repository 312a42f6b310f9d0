// Writing and restoring a snapshot against writing and reading the same bytes by hand, in turns; and how soon
// a restored guest runs. With --quick fewer.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/fd.h"
#include "bench.h"
#include "kvm/kvm.h"
#include "machine/standard_machine.h"
#include "machine_bench.h"

using namespace hypertwin;
using namespace hypertwin::bench;

namespace {

constexpr size_t kChunk = 1u << 20;

void write_raw(const std::string& path, const std::vector<uint8_t>& bytes) {
  Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) throw_errno("open", "measuring");
  for (size_t at = 0; at < bytes.size();) {
    ssize_t n = ::write(file.get(), bytes.data() + at, std::min(kChunk, bytes.size() - at));
    if (n < 0) throw_errno("write", "measuring");
    at += static_cast<size_t>(n);
  }
  if (::fsync(file.get()) != 0) throw_errno("fsync", "measuring");
}

// Into memory that was not touched before, as a restored guest's is.
void read_raw(const std::string& path, size_t size) {
  auto memory = kvm::GuestMemory::allocate((size + 4095) & ~size_t{4095},
                                           {.backing = kvm::GuestMemory::Backing::kMemfd});
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) throw_errno("open", "measuring");
  for (size_t at = 0; at < size;) {
    ssize_t n = ::read(file.get(), memory->data() + at, std::min(kChunk, size - at));
    if (n <= 0) throw_errno("read", "measuring");
    at += static_cast<size_t>(n);
  }
}

// From the call to restore a machine of 64 MiB, 16 of them with something in it, to its guest's first exit,
// with the file checked behind; and until it is all closed again.
void first_exits(const std::shared_ptr<kvm::System>& system, const TempDir& dir, machine::BoardKind board,
                 int times) {
  const bool standard = board == machine::BoardKind::kStandard;
  machine::MachineConfig config;
  config.board = board;
  config.memory_size = 64u << 20;
  config.command_line = "count=1000000000";
  std::unique_ptr<machine::VirtualMachine> machine;
  if (standard)
    machine = machine::StandardMachine::create(system, config, guest_image("exits"), nullptr);
  else
    machine = machine::Machine::create(system, config, guest_image("exits"), nullptr);
  auto exits = [](const machine::VirtualMachine& of) {
    const auto counters = of.counters();
    return counters.port_exits + counters.mmio_exits;
  };
  machine->start();
  while (exits(*machine) < 1000) std::this_thread::yield();
  machine->pause();
  machine->write_memory(32u << 20, std::vector<uint8_t>(16u << 20, 1));
  const std::string path = dir.file("first");
  machine->snapshot(path);
  machine.reset();
  std::vector<double> paused, first, closed;
  const machine::RestoreOptions behind{.verify = machine::Verify::kBehind};
  for (int i = 0; i < times; ++i) {
    const double start = now();
    if (standard)
      machine = machine::StandardMachine::restore(system, path, nullptr, behind);
    else
      machine = machine::Machine::restore(system, path, nullptr, behind);
    paused.push_back(now() - start);
    const uint64_t before = exits(*machine);
    machine->resume();
    while (exits(*machine) == before) std::this_thread::yield();
    first.push_back(now() - start);
    const double end = now();
    machine.reset();
    closed.push_back(now() - end);
  }
  const std::string name = std::string("snapshot/") + (standard ? "standard" : "deterministic");
  print(name + "-restored", 1e3 * median(paused), "ms");
  print(name + "-first-exit", 1e3 * median(first), "ms");
  print(name + "-closed", 1e3 * median(closed), "ms");
}

}  // namespace

int main(int argc, char** argv) try {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  auto system = kvm::System::open();
  auto watch = std::make_shared<Watch>();
  TempDir dir;
  machine::MachineConfig config;
  config.memory_size = 32u << 20;
  config.command_line = "disk=0";
  config.nets.emplace_back();
  std::shared_ptr<machine::Machine> machine =
      machine::Machine::create(system, config, guest_image("mailroom"), watch);
  machine->start();
  watch->wait_console("mailroom ready");
  machine->pause();
  // 16 MiB with something in it.
  std::vector<uint8_t> noise(16u << 20);
  uint64_t state = 88172645463325252;
  for (size_t i = 0; i < noise.size(); i += sizeof(state)) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    std::memcpy(&noise[i], &state, sizeof(state));
  }
  machine->write_memory(16u << 20, noise);

  const std::string path = dir.file("snapshot"), raw = dir.file("raw");
  const size_t size = machine->snapshot(path).bytes;
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = noise[i % noise.size()];

  Pairs writes, restores;
  for (int i = 0; i < (quick ? 5 : 21); ++i) {
    double start = now();
    machine->snapshot(path);
    const double ours = now() - start;
    start = now();
    write_raw(raw, bytes);
    writes.add(ours, now() - start);
    start = now();
    auto restored = machine::Machine::restore(system, path, nullptr);
    const double restore = now() - start;
    restored.reset();
    start = now();
    read_raw(raw, size);
    restores.add(restore, now() - start);
  }
  for (auto board : {machine::BoardKind::kDeterministic, machine::BoardKind::kStandard})
    first_exits(system, dir, board, quick ? 11 : 101);
  print("snapshot/size", static_cast<double>(size) / 1e6, "MB");
  writes.print("snapshot/write-vs-raw-write", "ms", 1e3);
  restores.print("snapshot/restore-verified-vs-raw-read", "ms", 1e3);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
