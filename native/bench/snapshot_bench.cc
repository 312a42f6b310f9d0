// Writing and restoring a snapshot against writing and reading the same bytes by hand, in turns. With --quick
// fewer.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "base/fd.h"
#include "bench.h"
#include "kvm/kvm.h"
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
  machine->snapshot(path);
  const size_t size = std::filesystem::file_size(path);
  std::vector<uint8_t> bytes(size);
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(bytes.data()), static_cast<long>(size));

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
  print("snapshot/size", static_cast<double>(size) / 1e6, "MB");
  writes.print("snapshot/write-vs-raw-write", "ms", 1e3);
  restores.print("snapshot/restore-vs-raw-read", "ms", 1e3);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
  return 1;
}
