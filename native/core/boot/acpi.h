// The ACPI tables of the standard board (ACPI 6.5): RSDP, XSDT, FADT, FACS, MADT and a DSDT that names the
// PCI bus, the serial port, the clock, the generation's identifier and S5. They lie in the BIOS area below 1
// MiB, where firmware would put them.
#pragma once

#include <cstdint>
#include <span>

#include "devices/guest_ram.h"

namespace hypertwin::boot {

inline constexpr uint64_t kAcpiTables = 0xe0000;
inline constexpr uint8_t kAcpiIrq = 9;
// Where the identifier of 16 bytes lies that changes when a machine goes on from a snapshot (Virtual Machine
// Generation ID), and the pin that tells the guest so.
inline constexpr uint64_t kGenerationId = 0xff000;
inline constexpr size_t kGenerationIdSize = 16;
inline constexpr uint8_t kGenerationIrq = 3;

struct AcpiSlot {
  uint8_t slot = 0;  // of a device on PCI bus 0
  uint8_t irq = 0;   // its INTA: a pin of the I/O APIC, level-triggered
};

struct AcpiBoard {
  uint8_t vcpus = 1;  // with APIC ids from 0 on
  std::span<const AcpiSlot> slots;
  std::span<const uint8_t> level_irqs;  // of PCI
};

// Gives the physical address of the RSDP. Throws Error("NO_MEMORY").
uint64_t write_acpi(devices::GuestRam& ram, const AcpiBoard& board);

}  // namespace hypertwin::boot
