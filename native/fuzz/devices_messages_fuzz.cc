// What the standard board adds to its devices: MSI-X's table, pending bits and vectors of a virtio function,
// and ACPI's fixed hardware. Any sequence of a guest's accesses and of interrupts; then the states are saved,
// and must load into others and save to the same bytes; changed, they are refused or as harmless as any
// others.
#include <cstdlib>

#include "../test/devices_board.h"
#include "base/error.h"
#include "devices/acpi_pm.h"
#include "devices/msix.h"

using namespace hypertwin;
using namespace hypertwin::devices;

namespace {

constexpr unsigned kVectors = 3;  // of a network: its queues' and its configuration's

struct Sink : MessageSink {
  bool known[kVectors] = {};
  void set_message(unsigned vector, const Message& message) override {
    if (vector >= kVectors || message.address & 3) std::abort();
    known[vector] = true;
  }
  void signal(unsigned vector) override {
    if (vector >= kVectors || !known[vector]) std::abort();  // its message comes first
  }
  int event(unsigned vector) override { return static_cast<int>(100 + vector); }
};

struct Card {
  TestBoard board;
  FakeLine intx, sci;
  Sink sink;
  VirtioPci pci{board.net, intx, &sink};
  AcpiPm acpi{board.host, sci};

  std::vector<uint8_t> save() const {
    ByteWriter out;
    board.net.save(out);
    pci.save(out);
    acpi.save(out);
    return out.take();
  }
  void load(std::span<const uint8_t> state) {
    ByteReader in(state, "state");
    board.net.load(in);
    pci.load(in);
    acpi.load(in);
  }

  // Six bytes a deed.
  void deed(const uint8_t* at) {
    const unsigned size = 1u << at[0] / 16 % 3;
    const uint16_t where = get_le<uint16_t>(at + 1);
    const uint32_t value = at[3] & 1 ? get_le<uint16_t>(at + 4) * 0x10001u : get_le<uint16_t>(at + 4);
    switch (at[0] % 16) {
      case 0:
        pci.config_read(static_cast<uint8_t>(where), size);
        break;
      case 1:
        pci.config_write(static_cast<uint8_t>(where), size, value);
        break;
      case 2:  // MSI-X's control word, wherever it lies
        pci.config_write(static_cast<uint8_t>(capability + 2), 2, value);
        break;
      case 3:
        pci.bar_read(VirtioPci::kMessageBar, where % 0x1000, size);
        break;
      case 4:
      case 5:
        pci.bar_write(VirtioPci::kMessageBar, where % (16 * kVectors), size, value);
        break;
      case 6:
        pci.bar_write(VirtioPci::kMessageBar, where % 0x1000, size, value);
        break;
      case 7:  // of a queue, or of the configuration
        pci.bar_write(VirtioPci::kMemoryBar, VirtioPci::kMemoryCommon + 22, 2, where % 4);
        pci.bar_write(VirtioPci::kMemoryBar, VirtioPci::kMemoryCommon + (at[3] & 2 ? 26 : 16), 2,
                      at[3] & 4 ? value : value % 4);
        break;
      case 8:
        pci.bar_write(VirtioPci::kMemoryBar, where % VirtioPci::kMemorySize, size, value);
        break;
      case 9:
        pci.bar_read(at[3] & 2 ? VirtioPci::kIoBar : VirtioPci::kMemoryBar,
                     where % (at[3] & 2 ? VirtioPci::kIoSize : VirtioPci::kMemorySize), size);
        break;
      case 10:
        pci.queue_interrupt(where % 2);
        break;
      case 11:
        pci.config_interrupt();
        break;
      case 12: {
        const int event = pci.queue_event(where % 2);
        if (event != -1 && (event < 100 || event >= static_cast<int>(100 + kVectors))) std::abort();
        break;
      }
      case 13:
        board.host.time += uint64_t{value} << where % 24;
        acpi.port_read(static_cast<uint16_t>(AcpiPm::kEvents + where % 12), size);
        break;
      case 14:
        acpi.port_write(static_cast<uint16_t>(AcpiPm::kEvents + where % 12), size, value);
        break;
      default:
        if (acpi.press_power_button() && !(acpi.port_read(AcpiPm::kEvents, 2) & 1 << 8)) std::abort();
    }
  }

  const uint8_t capability = capability_of(pci, Msix::kCapability);
  Card() {
    pci.config_write(4, 2, 7);
    if (!capability) std::abort();
  }
};

}  // namespace

// The last 6 bytes change a saved state.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 12) return 0;
  const uint8_t* changes = data + size - 6;
  size -= 6;
  Card card;
  for (size_t at = 0; at + 6 <= size; at += 6) card.deed(data + at);
  std::vector<uint8_t> state = card.save();
  Card other;
  other.load(state);
  if (other.save() != state) std::abort();
  for (unsigned i = 0; i < 2; ++i)
    state[get_le<uint16_t>(changes + 3 * i) % state.size()] = changes[3 * i + 2];
  Card changed;
  try {
    changed.load(state);
  } catch (const Error&) {
    return 0;
  }
  for (size_t at = 0; at + 6 <= size; at += 6) changed.deed(data + at);
  changed.load(changed.save());
  return 0;
}
