// Any bytes as a snapshot's parts and as a snapshot file: Error or a state, nothing else.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "machine/config.h"
#include "machine/machine_memory.h"
#include "machine/vcpu_state.h"

namespace {

template <class F>
void tolerate(F parse) {
  try {
    parse();
  } catch (const hypertwin::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hypertwin;
  if (size == 0) return 0;
  std::span<const uint8_t> bytes(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      tolerate([&] {
        ByteReader in(bytes);
        machine::MachineConfig::load(in);
      });
      break;
    case 1:
      tolerate([&] {
        ByteReader in(bytes);
        machine::VcpuState::load(in).digest();
      });
      break;
    case 2: {
      static Fd file(::memfd_create("snapshot", MFD_CLOEXEC));
      if (::ftruncate(file.get(), 0) != 0 || ::pwrite(file.get(), bytes.data(), bytes.size(), 0) < 0)
        return 0;
      tolerate([&] {
        auto chain = machine::open_snapshot("/proc/self/fd/" + std::to_string(file.get()));
        if (chain.front()->memory_size() > (1u << 20)) return;
        chain.back()->verify([] { return true; });
        machine::MachineMemory(std::move(chain)).settle();
      });
      break;
    }
  }
  return 0;
}
