// Configuration space, windows and INTx.
#include "devices/pci.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

namespace {

constexpr uint8_t kCommand = 0x04, kStatus = 0x06, kBar0 = 0x10, kCapabilities = 0x34, kInterruptLine = 0x3c,
                  kInterruptPin = 0x3d;
constexpr uint8_t kStatusIntx = 0x08, kStatusCapabilities = 0x10;

uint32_t ones(unsigned size) { return size >= 4 ? UINT32_MAX : (uint32_t{1} << (8 * size)) - 1; }

}  // namespace

PciDevice::PciDevice(const Identity& identity, IrqLine* intx) : intx_(intx) {
  put_le<uint16_t>(&config_[0x00], identity.vendor);
  put_le<uint16_t>(&config_[0x02], identity.device);
  put_le<uint32_t>(&config_[0x08], identity.class_code << 8 | identity.revision);
  put_le<uint16_t>(&config_[0x2c], identity.subsystem_vendor);
  put_le<uint16_t>(&config_[0x2e], identity.subsystem);
  put_le<uint16_t>(&writable_[kCommand], kCommandIo | kCommandMemory | kCommandMaster | kCommandNoIntx);
  writable_[0x0c] = writable_[0x0d] = 0xff;  // cache line size, latency timer
  if (intx_) {
    config_[kInterruptPin] = 1;
    writable_[kInterruptLine] = 0xff;
  }
}

void PciDevice::add_bar(unsigned bar, uint32_t size, bool io) {
  bars_.at(bar) = {.size = size, .io = io};
  unsigned at = kBar0 + 4 * bar;
  put_le<uint32_t>(&config_[at], io ? 1 : 0);
  put_le<uint32_t>(&writable_[at], ~(size - 1) & (io ? 0xffff : 0xffffffff));
}

uint8_t PciDevice::add_capability(uint8_t id, std::span<const uint8_t> body) {
  size_t size = (body.size() + 2 + 3) & ~size_t{3};
  if (capability_end_ + size > config_.size()) throw Error("ENOSPC", "no room for another PCI capability");
  uint8_t at = static_cast<uint8_t>(capability_end_);
  config_[last_capability_ ? last_capability_ + 1u : kCapabilities] = at;
  config_[kStatus] |= kStatusCapabilities;
  config_[at] = id;
  std::copy(body.begin(), body.end(), config_.begin() + at + 2);
  last_capability_ = at;
  capability_end_ = static_cast<uint16_t>(capability_end_ + size);
  return at;
}

void PciDevice::allow_write(uint8_t offset, std::span<const uint8_t> mask) {
  for (size_t i = 0; i < mask.size(); ++i) writable_.at(offset + i) = mask[i];
}

uint16_t PciDevice::command() const { return get_le<uint16_t>(&config_[kCommand]); }

std::optional<uint32_t> PciDevice::window_base(unsigned bar) const {
  const uint32_t base = bar_base(bar);
  if (!bars_[bar].size || base == 0 || !(command() & (bars_[bar].io ? kCommandIo : kCommandMemory)))
    return std::nullopt;
  return base;
}

uint32_t PciDevice::bar_base(unsigned bar) const {
  return get_le<uint32_t>(&config_[kBar0 + 4 * bar]) & ~(bars_[bar].io ? 3u : 15u);
}

uint32_t PciDevice::config_read(uint8_t offset, unsigned size) {
  uint32_t value = 0;
  for (unsigned i = 0; i < size && offset + i < config_.size(); ++i) {
    uint8_t byte = config_[offset + i];
    if (offset + i == kStatus && interrupt_) byte |= kStatusIntx;
    value |= uint32_t{byte} << (8 * i);
  }
  return value;
}

void PciDevice::config_write(uint8_t offset, unsigned size, uint32_t value) {
  const uint16_t before = command();
  for (unsigned i = 0; i < size && offset + i < config_.size(); ++i) {
    uint8_t mask = writable_[offset + i];
    uint8_t& byte = config_[offset + i];
    byte = static_cast<uint8_t>((byte & ~mask) | (value >> (8 * i) & mask));
  }
  drive();
  if (before & ~command() & kCommandMaster) on_master_cleared();
  if (windows_changed_ && offset < kBar0 + 4 * kBars) windows_changed_();
}

bool PciDevice::port_access(uint16_t port, unsigned size, bool write, uint32_t& value) {
  if (!(command() & kCommandIo)) return false;
  for (unsigned bar = 0; bar < kBars; ++bar) {
    if (!bars_[bar].io || !bars_[bar].size) continue;
    uint32_t base = bar_base(bar);
    if (base == 0 || port < base || port - base >= bars_[bar].size || size > bars_[bar].size - (port - base))
      continue;
    const auto lock = guarded();
    if (write)
      bar_write(bar, port - base, size, value);
    else
      value = bar_read(bar, port - base, size);
    return true;
  }
  return false;
}

bool PciDevice::mmio_access(uint64_t address, unsigned size, bool write, uint64_t& value) {
  if (!(command() & kCommandMemory) || size > 8) return false;
  for (unsigned bar = 0; bar < kBars; ++bar) {
    if (bars_[bar].io || !bars_[bar].size) continue;
    uint64_t base = bar_base(bar);
    if (base == 0 || address < base || address - base >= bars_[bar].size ||
        size > bars_[bar].size - (address - base))
      continue;
    const auto lock = guarded();
    uint32_t offset = static_cast<uint32_t>(address - base);
    if (!write) value = 0;
    for (unsigned done = 0; done < size;) {  // registers are at most 4 bytes wide
      unsigned part = std::bit_floor(std::min(size - done, 4u));
      if (write)
        bar_write(bar, offset + done, part, static_cast<uint32_t>(value >> (8 * done)) & ones(part));
      else
        value |= uint64_t{bar_read(bar, offset + done, part) & ones(part)} << (8 * done);
      done += part;
    }
    return true;
  }
  return false;
}

void PciDevice::set_interrupt(bool level) {
  interrupt_ = level;
  drive();
}

void PciDevice::drive() {
  if (intx_) intx_->set(interrupt_ && !(command() & kCommandNoIntx));
}

void PciDevice::assign(uint32_t& next_io, uint32_t& next_memory, uint8_t irq) {
  uint16_t enable = 0;
  for (unsigned bar = 0; bar < kBars; ++bar) {
    uint32_t size = bars_[bar].size;
    if (!size) continue;
    bool io = bars_[bar].io;
    uint32_t& next = io ? next_io : next_memory;
    uint32_t base = (next + size - 1) & ~(size - 1);
    if (base < next || base + size > (io ? PciRoot::kIoEnd : PciRoot::kMemoryEnd))
      throw Error("ENOSPC", "no room for the windows of another PCI device");
    next = base + size;
    put_le<uint32_t>(&config_[kBar0 + 4 * bar], base | (io ? 1u : 0u));
    enable |= io ? kCommandIo : kCommandMemory;
  }
  put_le<uint16_t>(&config_[kCommand], enable);
  if (intx_) config_[kInterruptLine] = irq;
}

void PciDevice::save_config(ByteWriter& out) const {
  out.raw(config_);
  out.u8(interrupt_);
}

// What the guest cannot write must be as this device has it.
void PciDevice::load_config(ByteReader& in) {
  auto bytes = in.raw(config_.size());
  for (size_t i = 0; i < config_.size(); ++i) {
    if ((bytes[i] ^ config_[i]) & ~writable_[i]) in.corrupt("the configuration space is of another device");
    config_[i] = bytes[i];
  }
  interrupt_ = load_flag(in);
}

class PciRoot::HostBridge final : public PciDevice {
 public:
  HostBridge() : PciDevice({.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000}, nullptr) {}
  std::string_view name() const override { return "pci"; }
  void save(ByteWriter& out) const override { save_config(out); }
  void load(ByteReader& in) override { load_config(in); }
  uint32_t bar_read(unsigned, uint32_t, unsigned) override { return UINT32_MAX; }
  void bar_write(unsigned, uint32_t, unsigned, uint32_t) override {}
};

PciRoot::PciRoot() : bridge_(std::make_unique<HostBridge>()) { devices_.push_back(bridge_.get()); }
PciRoot::~PciRoot() = default;

void PciRoot::add(PciDevice& device, uint8_t irq) {
  if (devices_.size() > kMaxDevices) throw Error("ENOSPC", "bus 0 holds 31 PCI devices");
  device.assign(next_io_, next_memory_, irq);
  devices_.push_back(&device);
}

bool PciRoot::port_access(uint16_t port, unsigned size, bool write, uint32_t& value) {
  return std::any_of(devices_.begin(), devices_.end(),
                     [&](PciDevice* device) { return device->port_access(port, size, write, value); });
}

bool PciRoot::mmio_access(uint64_t address, unsigned size, bool write, uint64_t& value) {
  return std::any_of(devices_.begin(), devices_.end(),
                     [&](PciDevice* device) { return device->mmio_access(address, size, write, value); });
}

PciDevice* PciRoot::selected() const {
  if (!(address_ & 0x80000000) || address_ & 0x00ff0700) return nullptr;  // bus 0, function 0
  unsigned slot = address_ >> 11 & 31;
  return slot < devices_.size() ? devices_[slot] : nullptr;
}

uint32_t PciRoot::port_read(uint16_t port, unsigned size) {
  if (port == 0xcf8) return size == 4 ? address_ : UINT32_MAX;
  unsigned byte = port & 3;
  PciDevice* device = selected();
  if (port < 0xcfc || port > 0xcff || byte + size > 4 || !device) return UINT32_MAX;
  const auto lock = device->guarded();
  return device->config_read(static_cast<uint8_t>((address_ & 0xfc) + byte), size);
}

void PciRoot::port_write(uint16_t port, unsigned size, uint32_t value) {
  if (port == 0xcf8) {
    if (size == 4) address_ = value & 0x80fffffc;
    return;
  }
  unsigned byte = port & 3;
  PciDevice* device = selected();
  if (port < 0xcfc || port > 0xcff || byte + size > 4 || !device) return;
  const auto lock = device->guarded();
  device->config_write(static_cast<uint8_t>((address_ & 0xfc) + byte), size, value);
}

void PciRoot::save(ByteWriter& out) const {
  out.u8(1);
  out.u32(address_);
  bridge_->save(out);
}

void PciRoot::load(ByteReader& in) {
  load_version(in, 1);
  address_ = in.u32() & 0x80fffffc;
  bridge_->load(in);
}

}  // namespace hypertwin::devices
