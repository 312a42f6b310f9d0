// bzImage and ACPI tables, as a guest finds them in its RAM.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/kernel.h"
#include "boot/layout.h"
#include "code_of.h"
#include "devices/acpi_pm.h"

namespace hypertwin::boot {
namespace {

constexpr uint64_t kMiB = 1u << 20;

struct Ram {
  explicit Ram(uint64_t size)
      : bytes(size), ram({{.guest_address = 0, .size = size, .host = bytes.data(), .slot = 0}}) {}
  template <class T>
  T at(uint64_t address) const {
    T value;
    EXPECT_TRUE(ram.load(address, value)) << address;
    return value;
  }
  std::string text(uint64_t address, size_t size) const {
    std::string out(size, 0);
    EXPECT_TRUE(ram.read(address, {reinterpret_cast<uint8_t*>(out.data()), size}));
    return out;
  }
  std::vector<uint8_t> bytes;
  devices::GuestRam ram;
};

// The header of a kernel that wants to run at 16 MiB with 4 MiB of room; its code is a run of 0xc3.
std::vector<uint8_t> bzimage(size_t code = 100000) {
  std::vector<uint8_t> file(5 * 512 + code, 0xc3);
  std::fill(file.begin(), file.begin() + 5 * 512, uint8_t{0});
  auto set = [&](size_t at, auto value) { std::memcpy(file.data() + at, &value, sizeof(value)); };
  set(0x1f1, uint8_t{4});
  set(0x201, uint8_t{0x6a});
  set(0x202, uint32_t{0x53726448});
  set(0x206, uint16_t{0x020f});
  set(0x211, uint8_t{1});
  set(0x22c, uint32_t{0x7fffffff});
  set(0x238, uint32_t{2047});
  set(0x258, uint64_t{16 * kMiB});
  set(0x260, uint32_t{4 * kMiB});
  return file;
}

TEST(BzImage, LiesWhereItsHeaderSays) {
  Ram ram(64 * kMiB);
  const auto file = bzimage();
  const std::vector<uint8_t> initrd(5000, 0x42);
  const std::vector<uint8_t> seed(32, 0x77);
  const Entry entry = load_kernel(ram.ram, {file, initrd, "console=ttyS0", 0xe0000, seed});
  EXPECT_EQ(entry.rip, kHighMemory);
  EXPECT_EQ(ram.at<uint8_t>(kHighMemory), 0xc3);
  EXPECT_EQ(ram.at<uint8_t>(kHighMemory + 99999), 0xc3);
  EXPECT_EQ(ram.at<uint8_t>(kHighMemory + 100000), 0);
  const uint64_t page = entry.rsi;
  EXPECT_EQ(ram.at<uint32_t>(page + 0x202), 0x53726448u);
  EXPECT_EQ(ram.at<uint8_t>(page + 0x210), 0xff) << "a loader without a number";
  EXPECT_EQ(ram.text(ram.at<uint32_t>(page + 0x228), 14), std::string("console=ttyS0\0", 14));
  EXPECT_EQ(ram.at<uint64_t>(page + 0x070), 0xe0000u);
  const uint32_t at = ram.at<uint32_t>(page + 0x218);
  EXPECT_EQ(ram.at<uint32_t>(page + 0x21c), initrd.size());
  EXPECT_EQ(at % 4096, 0u);
  EXPECT_GE(at, 20 * kMiB) << "clear of where the kernel unpacks itself";
  EXPECT_EQ(ram.at<uint8_t>(at + 4999), 0x42);
  // One setup_data: the seed of its random numbers.
  const uint64_t data = ram.at<uint64_t>(page + 0x250);
  EXPECT_EQ(ram.at<uint64_t>(data), 0u) << "the last one";
  EXPECT_EQ(ram.at<uint32_t>(data + 8), 9u);
  EXPECT_EQ(ram.at<uint32_t>(data + 12), seed.size());
  EXPECT_EQ(ram.text(data + 16, seed.size()), std::string(seed.size(), 0x77));
  EXPECT_EQ(ram.at<uint8_t>(data + 16 + seed.size()), 0);
  // The memory map: RAM, the BIOS area, RAM.
  ASSERT_EQ(ram.at<uint8_t>(page + 0x1e8), 3);
  EXPECT_EQ(ram.at<uint64_t>(page + 0x2d0 + 8), kLowMemoryEnd);
  EXPECT_EQ(ram.at<uint32_t>(page + 0x2d0 + 20 + 16), 2u);
  EXPECT_EQ(ram.at<uint64_t>(page + 0x2d0 + 40), kHighMemory);
  EXPECT_EQ(ram.at<uint64_t>(page + 0x2d0 + 48), 63 * kMiB);
  // Segments 0x10 and 0x18 are flat code and data.
  EXPECT_EQ(ram.at<uint64_t>(entry.gdt + 0x10) >> 40 & 0xff, 0x9bu);
  EXPECT_EQ(ram.at<uint64_t>(entry.gdt + 0x18) >> 40 & 0xff, 0x93u);
}

TEST(BzImage, WhatItCannotBeIsRefused) {
  auto load = [](const std::vector<uint8_t>& file, uint64_t memory = 64 * kMiB, size_t line = 10,
                 size_t initrd = 0) {
    return code_of([&] {
      Ram ram(memory);
      const std::vector<uint8_t> disk(initrd);
      load_kernel(ram.ram, {file, disk, std::string(line, 'x'), 0});
    });
  };
  EXPECT_EQ(load(bzimage()), "none");
  EXPECT_EQ(load(bzimage(), 18 * kMiB), "NO_MEMORY") << "it unpacks itself beyond";
  EXPECT_EQ(load(bzimage(), 64 * kMiB, 2047), "none");
  EXPECT_EQ(load(bzimage(), 64 * kMiB, 2048), "BAD_CONFIG") << "it takes no longer command line";
  EXPECT_EQ(load(bzimage(), 24 * kMiB, 10, 16 * kMiB), "NO_MEMORY");
  auto changed = [](size_t at, auto value) {
    auto file = bzimage();
    std::memcpy(file.data() + at, &value, sizeof(value));
    return file;
  };
  EXPECT_EQ(load(changed(0x206, uint16_t{0x0204})), "BAD_KERNEL") << "an old protocol";
  EXPECT_EQ(load(changed(0x211, uint8_t{0})), "BAD_KERNEL") << "a zImage";
  EXPECT_EQ(load(changed(0x258, ~uint64_t{0} - 4096)), "NO_MEMORY") << "an address that wraps around";
  EXPECT_EQ(load(changed(0x260, ~uint32_t{0})), "NO_MEMORY");
  auto file = bzimage();
  for (size_t size : {size_t{0x206}, size_t{0x260}, size_t{600}, size_t{2560}}) {
    const std::vector<uint8_t> cut(file.begin(), file.begin() + static_cast<long>(size));
    EXPECT_EQ(load(cut), "BAD_KERNEL") << size;
  }
}

TEST(Acpi, TablesAreWholeAndFindEachOther) {
  Ram ram(2 * kMiB);
  const AcpiSlot slots[] = {{1, 10}, {2, 11}};
  const uint8_t levels[] = {10, 11};
  const uint64_t rsdp = write_acpi(ram.ram, {.vcpus = 3, .slots = slots, .level_irqs = levels});
  auto sum = [&](uint64_t at, size_t size) {
    unsigned total = 0;
    for (size_t i = 0; i < size; ++i) total += ram.at<uint8_t>(at + i);
    return total & 0xff;
  };
  ASSERT_EQ(ram.text(rsdp, 8), "RSD PTR ");
  EXPECT_EQ(rsdp % 16, 0u) << "found by scanning";
  EXPECT_EQ(sum(rsdp, 20), 0u);
  EXPECT_EQ(sum(rsdp, 36), 0u);
  auto check = [&](uint64_t at, const char* name) {
    EXPECT_EQ(ram.text(at, 4), name);
    const auto size = ram.at<uint32_t>(at + 4);
    EXPECT_EQ(sum(at, size), 0u) << name;
    return size;
  };
  const auto xsdt = ram.at<uint64_t>(rsdp + 24);
  ASSERT_EQ(check(xsdt, "XSDT"), 36u + 2 * 8);
  const auto fadt = ram.at<uint64_t>(xsdt + 36);
  ASSERT_EQ(check(fadt, "FACP"), 276u);
  check(ram.at<uint64_t>(fadt + 140), "DSDT");
  EXPECT_EQ(ram.text(ram.at<uint32_t>(fadt + 36), 4), "FACS");
  EXPECT_EQ(ram.at<uint32_t>(fadt + 64), devices::AcpiPm::kControl);
  EXPECT_TRUE(ram.at<uint32_t>(fadt + 112) & 1u << 10) << "there is a reset register";
  EXPECT_EQ(ram.at<uint16_t>(fadt + 116), 1u | 8u << 8) << "of 8 bits, in I/O space";
  EXPECT_EQ(ram.at<uint64_t>(fadt + 120), 0xcf9u);
  EXPECT_EQ(ram.at<uint8_t>(fadt + 128), 6u);
  const auto madt = ram.at<uint64_t>(xsdt + 44);
  const auto size = check(madt, "APIC");
  unsigned cpus = 0, overrides = 0;
  for (uint64_t at = madt + 44; at < madt + size; at += ram.at<uint8_t>(at + 1)) {
    ASSERT_GE(ram.at<uint8_t>(at + 1), 6);
    cpus += ram.at<uint8_t>(at) == 0;
    overrides += ram.at<uint8_t>(at) == 2;
  }
  EXPECT_EQ(cpus, 3u);
  EXPECT_EQ(overrides, 2u + std::size(levels));
}

TEST(Acpi, TermsAreEncodedAsTheSpecificationSays) {
  using aml::Bytes;
  EXPECT_EQ(aml::path("\\_SB.PCI0"), (Bytes{'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  EXPECT_EQ(aml::integer(0), (Bytes{0x00}));
  EXPECT_EQ(aml::integer(255), (Bytes{0x0a, 0xff}));
  EXPECT_EQ(aml::integer(0x1234), (Bytes{0x0b, 0x34, 0x12}));
  EXPECT_EQ(aml::integer(0x100000000), (Bytes{0x0e, 0, 0, 0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(aml::eisa_id("PNP0A03"), (Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x03}));
  // Lengths: one byte to 63, two beyond; they count themselves.
  EXPECT_EQ(aml::buffer(Bytes(3, 7)), (Bytes{0x11, 6, 0x0a, 3, 7, 7, 7}));
  const Bytes longer = aml::buffer(Bytes(100, 7));
  EXPECT_EQ(longer[1], 0x40 | (104 & 15));
  EXPECT_EQ(longer[2], 104 >> 4);
  EXPECT_EQ(longer.size(), 1u + 104);
}

}  // namespace
}  // namespace hypertwin::boot
