#include "boot/acpi.h"

#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "boot/aml.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"

namespace hypertwin::boot {

namespace {

using aml::Bytes;
using devices::AcpiPm;
using devices::PciRoot;

constexpr uint64_t kEnd = kGenerationId;
constexpr uint32_t kLocalApic = 0xfee00000, kIoApic = 0xfec00000;

void put(Bytes& to, uint64_t value, unsigned size) {
  for (unsigned i = 0; i < size; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

template <class T>
void set(Bytes& to, size_t offset, T value) {
  std::memcpy(to.data() + offset, &value, sizeof(T));
}

// So that all bytes sum up to 0.
void seal(Bytes& table, size_t checksum_at, size_t size) {
  table[checksum_at] = 0;
  const unsigned sum = std::accumulate(table.begin(), table.begin() + static_cast<ptrdiff_t>(size), 0u);
  table[checksum_at] = static_cast<uint8_t>(-sum);
}

Bytes header(const char* signature, uint8_t revision) {
  Bytes out(signature, signature + 4);
  put(out, 0, 4);  // length, by finish()
  out.push_back(revision);
  out.push_back(0);
  for (char c : std::string_view("HTWIN HTBOARD ")) out.push_back(static_cast<uint8_t>(c));
  put(out, 1, 4);
  for (char c : std::string_view("HTWN")) out.push_back(static_cast<uint8_t>(c));
  put(out, 1, 4);
  return out;
}

void finish(Bytes& table) {
  set(table, 4, static_cast<uint32_t>(table.size()));
  seal(table, 9, table.size());
}

Bytes dsdt(const AcpiBoard& board) {
  std::vector<Bytes> routes;
  for (const auto& slot : board.slots) {
    const Bytes entry[] = {aml::integer(uint64_t{slot.slot} << 16 | 0xffff), aml::integer(0), aml::integer(0),
                           aml::integer(slot.irq)};
    routes.push_back(aml::package(entry));
  }
  const Bytes pci = aml::join({
      aml::name("_HID", aml::eisa_id("PNP0A03")),
      aml::name("_UID", aml::integer(0)),
      aml::name("_BBN", aml::integer(0)),
      aml::name("_CRS", aml::resources({aml::bus_range(0, 0), aml::io_port(0xcf8, 8),
                                        aml::io_window(0, 0xcf7), aml::io_window(0xd00, 0xffff),
                                        aml::memory_window(PciRoot::kMemoryBase, PciRoot::kMemoryEnd - 1)})),
      aml::name("_PRT", aml::package(routes)),
  });
  const Bytes serial = aml::join({
      aml::name("_HID", aml::eisa_id("PNP0501")),
      aml::name("_UID", aml::integer(1)),
      aml::name("_CRS", aml::resources({aml::io_port(0x3f8, 8), aml::irq(4)})),
  });
  const Bytes clock = aml::join({
      aml::name("_HID", aml::eisa_id("PNP0B00")),
      aml::name("_CRS", aml::resources({aml::io_port(0x70, 2), aml::irq(8)})),
  });
  const Bytes compatible[] = {aml::string("VMGENCTR"), aml::string("VM_Gen_Counter")};
  const Bytes where[] = {aml::integer(kGenerationId), aml::integer(0)};
  const Bytes generation = aml::join({
      aml::name("_HID", aml::string("HTWN0001")),
      aml::name("_CID", aml::package(compatible)),
      aml::name("_DDN", aml::string("VM_Gen_Counter")),
      aml::name("ADDR", aml::package(where)),
  });
  // A generic event device: its interrupt is the notification of the one above.
  const Bytes events = aml::join({
      aml::name("_HID", aml::string("ACPI0013")),
      aml::name("_UID", aml::integer(0)),
      aml::name("_CRS", aml::resources({aml::interrupt(kGenerationIrq)})),
      aml::method("_EVT", 1, aml::notify("\\_SB.VGEN", 0x80)),
  });
  const Bytes off[] = {aml::integer(AcpiPm::kPowerOffType), aml::integer(0), aml::integer(0),
                       aml::integer(0)};
  Bytes table = header("DSDT", 2);
  const Bytes body = aml::join({
      aml::scope("\\_SB",
                 aml::join({aml::device("PCI0", pci), aml::device("COM1", serial), aml::device("RTC0", clock),
                            aml::device("VGEN", generation), aml::device("GED0", events)})),
      aml::name("\\_S5", aml::package(off)),
  });
  table.insert(table.end(), body.begin(), body.end());
  finish(table);
  return table;
}

// A generic address structure in I/O space.
void address(Bytes& table, size_t at, uint8_t bits, uint16_t port) {
  table[at] = 1;
  table[at + 1] = bits;
  table[at + 3] = bits <= 8 ? 1 : bits <= 16 ? 2 : 3;
  set<uint64_t>(table, at + 4, port);
}

Bytes fadt(uint64_t facs_at, uint64_t dsdt_at) {
  constexpr uint32_t kWbinvd = 1u << 0, kC1 = 1u << 2, kNoSleepButton = 1u << 5, kResetRegister = 1u << 10;
  constexpr uint16_t kLegacyDevices = 1u << 0, kNoVga = 1u << 2;
  Bytes table = header("FACP", 6);
  table.resize(276);
  set(table, 36, static_cast<uint32_t>(facs_at));
  set(table, 40, static_cast<uint32_t>(dsdt_at));
  table[45] = 4;  // an enterprise server
  set<uint16_t>(table, 46, kAcpiIrq);
  set<uint32_t>(table, 56, AcpiPm::kEvents);
  set<uint32_t>(table, 64, AcpiPm::kControl);
  set<uint32_t>(table, 76, AcpiPm::kTimer);
  table[88] = 4;  // lengths of the three
  table[89] = 2;
  table[91] = 4;
  set<uint16_t>(table, 96, 0xffff);  // no C2, no C3
  set<uint16_t>(table, 98, 0xffff);
  table[108] = 0x32;  // CMOS's century
  set<uint16_t>(table, 109, kLegacyDevices | kNoVga);
  set<uint32_t>(table, 112, kWbinvd | kC1 | kNoSleepButton | kResetRegister);
  address(table, 116, 8, 0xcf9);
  table[128] = 6;  // the value that resets
  table[131] = 5;  // minor version
  set(table, 140, dsdt_at);
  address(table, 148, 32, AcpiPm::kEvents);
  address(table, 172, 16, AcpiPm::kControl);
  address(table, 208, 32, AcpiPm::kTimer);
  finish(table);
  return table;
}

Bytes madt(const AcpiBoard& board) {
  Bytes table = header("APIC", 5);
  put(table, kLocalApic, 4);
  put(table, 1, 4);  // there are two 8259s as well
  for (unsigned i = 0; i < board.vcpus; ++i) {
    table.insert(table.end(), {0, 8, static_cast<uint8_t>(i), static_cast<uint8_t>(i)});
    put(table, 1, 4);
  }
  table.insert(table.end(), {1, 12, 0, 0});
  put(table, kIoApic, 4);
  put(table, 0, 4);
  auto override_irq = [&](uint8_t irq, uint32_t pin, uint16_t flags) {
    table.insert(table.end(), {2, 10, 0, irq});
    put(table, pin, 4);
    put(table, flags, 2);
  };
  constexpr uint16_t kLevelHigh = 0xd;
  override_irq(0, 2, 0);
  override_irq(kAcpiIrq, kAcpiIrq, kLevelHigh);
  for (uint8_t irq : board.level_irqs) override_irq(irq, irq, kLevelHigh);
  table.insert(table.end(), {4, 6, 0xff, 0, 0, 1});  // NMI: LINT1 of every processor
  finish(table);
  return table;
}

}  // namespace

uint64_t write_acpi(devices::GuestRam& ram, const AcpiBoard& board) {
  uint64_t next = kAcpiTables + 64;  // behind the RSDP
  auto place = [&](const Bytes& table, uint64_t alignment = 16) {
    const uint64_t at = (next + alignment - 1) & ~(alignment - 1);
    next = at + table.size();
    if (next > kEnd || !ram.write(at, table))
      throw Error("NO_MEMORY", "the ACPI tables do not fit below 1 MiB");
    return at;
  };
  Bytes facs(64);
  std::memcpy(facs.data(), "FACS", 4);
  set<uint32_t>(facs, 4, 64);
  facs[32] = 2;
  const uint64_t facs_at = place(facs, 64);
  const uint64_t dsdt_at = place(dsdt(board));
  const uint64_t tables[] = {place(fadt(facs_at, dsdt_at)), place(madt(board))};
  Bytes xsdt = header("XSDT", 1);
  for (uint64_t at : tables) put(xsdt, at, 8);
  finish(xsdt);
  const uint64_t xsdt_at = place(xsdt);

  Bytes rsdp(36);
  std::memcpy(rsdp.data(), "RSD PTR ", 8);
  std::memcpy(rsdp.data() + 9, "HTWIN ", 6);
  rsdp[15] = 2;
  set<uint32_t>(rsdp, 20, 36);
  set(rsdp, 24, xsdt_at);
  seal(rsdp, 8, 20);
  seal(rsdp, 32, 36);
  if (!ram.write(kAcpiTables, rsdp)) throw Error("NO_MEMORY", "the ACPI tables do not fit below 1 MiB");
  return kAcpiTables;
}

}  // namespace hypertwin::boot
