// The states of a board's devices, each a section with its device's name, in a fixed order.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "devices/device.h"

namespace hypertwin::machine {

inline constexpr size_t kMaxSection = 64u << 20;

inline void save_sections(ByteWriter& out, const std::vector<const devices::Device*>& devices) {
  out.varint(devices.size());
  for (const auto* device : devices) {
    ByteWriter section;
    device->save(section);
    out.text(device->name());
    out.blob(section.data());
  }
}

// Throws Error("CORRUPT") when the sections are not these devices'.
inline void load_sections(ByteReader& in, const std::vector<devices::Device*>& devices) {
  if (in.varint() != devices.size()) in.corrupt("another number of devices than this machine has");
  for (auto* device : devices) {
    if (in.text(64) != device->name())
      in.corrupt("the section of another device than " + std::string(device->name()));
    ByteReader section(in.blob(kMaxSection), device->name());
    device->load(section);
    section.expect_done();
  }
}

}  // namespace hypertwin::machine
