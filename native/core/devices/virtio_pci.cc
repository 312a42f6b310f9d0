// virtio 1.2, section 4.1: capabilities and registers.
#include "devices/virtio_pci.h"

#include <algorithm>
#include <array>
#include <bit>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {

constexpr uint8_t kVendorCapability = 0x09;
enum CapabilityType : uint8_t { kCommonCfg = 1, kNotifyCfg, kIsrCfg, kDeviceCfg, kPciCfg };
constexpr uint32_t kMessageSize = 0x1000, kPendingOffset = 0x800;
constexpr uint32_t kCommonSize = 56, kDeviceSize = 0x40;

PciDevice::Identity identity(const VirtioDevice& device) {
  uint16_t id = static_cast<uint16_t>(0x1040 + device.type());
  return {.vendor = 0x1af4,
          .device = id,
          .class_code = device.class_code(),
          .revision = 1,
          .subsystem_vendor = 0x1af4,
          .subsystem = id};
}

}  // namespace

VirtioPci::VirtioPci(VirtioDevice& device, IrqLine& intx, MessageSink* messages)
    : PciDevice(identity(device), &intx), device_(device), queue_vectors_(device.queues().size(), kNoVector) {
  add_bar(kMemoryBar, kMemorySize, false);
  add_bar(kIoBar, kIoSize, true);
  add_capabilities(kMemoryBar);
  add_capabilities(kIoBar);
  // The window into the BARs: bar, offset and length are the guest's, then 4 bytes of data.
  const uint8_t body[18] = {20, kPciCfg};
  window_capability_ = add_capability(kVendorCapability, body);
  const uint8_t mask[12] = {0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  allow_write(static_cast<uint8_t>(window_capability_ + 4), mask);
  if (messages) add_msix(*messages);
  device_.attach(this);
}

void VirtioPci::add_msix(MessageSink& sink) {
  msix_.emplace(static_cast<unsigned>(device_.queues().size() + 1), sink);
  add_bar(kMessageBar, kMessageSize, false);
  uint8_t body[10] = {};
  put_le<uint16_t>(&body[0], static_cast<uint16_t>(msix_->vectors() - 1));
  put_le<uint32_t>(&body[2], kMessageBar);
  put_le<uint32_t>(&body[6], kPendingOffset | kMessageBar);
  msix_capability_ = add_capability(Msix::kCapability, body);
  const uint8_t mask[] = {0, (Msix::kEnable | Msix::kMaskAll) >> 8};
  allow_write(static_cast<uint8_t>(msix_capability_ + 2), mask);
}

// What the guest asked for, as far as there is such a vector.
uint16_t VirtioPci::vector(uint32_t value) const {
  return msix_ && value < msix_->vectors() ? static_cast<uint16_t>(value) : kNoVector;
}

void VirtioPci::reset_vectors() {
  config_vector_ = kNoVector;
  std::fill(queue_vectors_.begin(), queue_vectors_.end(), kNoVector);
  if (msix_) msix_->clear_pending();
}

void VirtioPci::reset() {
  device_.reset();
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  reset_vectors();
  isr_ = 0;
  set_interrupt(false);
}

VirtioPci::~VirtioPci() { device_.attach(nullptr); }

void VirtioPci::add_capabilities(unsigned bar) {
  bool memory = bar == kMemoryBar;
  auto add = [&](CapabilityType type, uint32_t offset, uint32_t length) {
    uint8_t body[18] = {};
    bool notify = type == kNotifyCfg;
    body[0] = notify ? 20 : 16;
    body[1] = type;
    body[2] = static_cast<uint8_t>(bar);
    put_le(&body[6], offset);
    put_le(&body[10], length);
    if (notify) put_le<uint32_t>(&body[14], memory ? 4 : 0);
    add_capability(kVendorCapability, std::span<const uint8_t>(body, notify ? 18 : 14));
  };
  uint32_t queues = static_cast<uint32_t>(device_.queues().size());
  add(kCommonCfg, memory ? kMemoryCommon : kIoCommon, kCommonSize);
  add(kNotifyCfg, memory ? kMemoryNotify : kIoNotify, memory ? 4 * queues : 4);
  add(kIsrCfg, memory ? kMemoryIsr : kIoIsr, 1);
  add(kDeviceCfg, memory ? kMemoryDevice : kIoDevice, kDeviceSize);
}

VirtioPci::Place VirtioPci::locate(unsigned bar, uint32_t offset) {
  bool memory = bar == kMemoryBar;
  auto in = [&](uint32_t memory_base, uint32_t io_base, uint32_t size) {
    uint32_t base = memory ? memory_base : io_base;
    return offset >= base && offset - base < size;
  };
  if (in(kMemoryCommon, kIoCommon, kCommonSize))
    return {Area::kCommon, offset - (memory ? kMemoryCommon : kIoCommon)};
  if (in(kMemoryNotify, kIoNotify, memory ? 0x1000 : 4)) return {Area::kNotify, 0};
  if (in(kMemoryIsr, kIoIsr, 1)) return {Area::kIsr, 0};
  if (in(kMemoryDevice, kIoDevice, kDeviceSize))
    return {Area::kDevice, offset - (memory ? kMemoryDevice : kIoDevice)};
  return {Area::kNone, 0};
}

VirtQueue* VirtioPci::selected() const {
  auto& queues = device_.queues();
  return queue_select_ < queues.size() ? &queues[queue_select_] : nullptr;
}

uint32_t VirtioPci::common_read(uint32_t offset, unsigned size) const {
  std::array<uint8_t, kCommonSize> bytes{};
  auto half = [](uint64_t value, uint32_t select) {
    return select < 2 ? static_cast<uint32_t>(value >> (32 * select)) : 0;
  };
  put_le<uint32_t>(&bytes[0], device_feature_select_);
  put_le<uint32_t>(&bytes[4], half(device_.offered(), device_feature_select_));
  put_le<uint32_t>(&bytes[8], driver_feature_select_);
  put_le<uint32_t>(&bytes[12], half(device_.driver_features(), driver_feature_select_));
  put_le<uint16_t>(&bytes[16], config_vector_);
  put_le<uint16_t>(&bytes[18], static_cast<uint16_t>(device_.queues().size()));
  bytes[20] = device_.status();
  bytes[21] = device_.config_generation();
  put_le<uint16_t>(&bytes[22], queue_select_);
  put_le<uint16_t>(&bytes[26], kNoVector);
  if (const VirtQueue* queue = selected()) {
    put_le<uint16_t>(&bytes[24], queue->size);
    put_le<uint16_t>(&bytes[26], queue_vectors_[queue_select_]);
    put_le<uint16_t>(&bytes[28], queue->enabled());
    put_le<uint16_t>(&bytes[30], queue_select_);
    put_le<uint64_t>(&bytes[32], queue->descriptors);
    put_le<uint64_t>(&bytes[40], queue->driver);
    put_le<uint64_t>(&bytes[48], queue->device);
  }
  uint32_t value = 0;
  for (unsigned i = 0; i < size && offset + i < bytes.size(); ++i)
    value |= uint32_t{bytes[offset + i]} << (8 * i);
  return value;
}

void VirtioPci::common_write(uint32_t offset, unsigned size, uint32_t value) {
  auto set_half = [](uint64_t& whole, bool high, uint32_t part) {
    whole = high ? (whole & 0xffffffff) | uint64_t{part} << 32 : (whole & ~uint64_t{0xffffffff}) | part;
  };
  VirtQueue* queue = selected();
  bool settable = queue && !queue->enabled();
  switch (size << 8 | offset) {
    case 4 << 8 | 0:
      device_feature_select_ = value;
      break;
    case 4 << 8 | 8:
      driver_feature_select_ = value;
      break;
    case 4 << 8 | 12:
      if (driver_feature_select_ < 2) {
        uint64_t features = device_.driver_features();
        set_half(features, driver_feature_select_, value);
        device_.set_driver_features(features);
      }
      break;
    case 1 << 8 | 20:
      if (value & 0xff)
        device_.set_status(static_cast<uint8_t>(value));
      else
        reset();
      break;
    case 2 << 8 | 16:
      config_vector_ = vector(value);
      break;
    case 2 << 8 | 26:
      if (queue) queue_vectors_[queue_select_] = vector(value);
      interrupts_changed();
      break;
    case 2 << 8 | 22:
      queue_select_ = static_cast<uint16_t>(value);
      break;
    case 2 << 8 | 24:
      if (settable && value && value <= VirtQueue::kMaxSize && std::has_single_bit(value))
        queue->size = static_cast<uint16_t>(value);
      break;
    case 2 << 8 | 28:
      if (value == 1) device_.enable_queue(queue_select_);
      break;
    default:
      if (size == 4 && offset >= 32 && offset < kCommonSize && offset % 4 == 0 && settable) {
        uint64_t* address[] = {&queue->descriptors, &queue->driver, &queue->device};
        set_half(*address[(offset - 32) / 8], offset & 4, value);
      }
  }
}

uint32_t VirtioPci::bar_read(unsigned bar, uint32_t offset, unsigned size) {
  if (bar == kMessageBar)
    return offset < kPendingOffset ? msix_->read(offset, size)
                                   : msix_->read_pending(offset - kPendingOffset, size);
  Place place = locate(bar, offset);
  switch (place.area) {
    case Area::kCommon:
      return common_read(place.offset, size);
    case Area::kIsr: {
      uint8_t value = isr_;
      isr_ = 0;
      set_interrupt(false);
      return value;
    }
    case Area::kDevice: {
      auto config = device_.config();
      uint32_t value = 0;
      for (unsigned i = 0; i < size && place.offset + i < config.size(); ++i)
        value |= uint32_t{config[place.offset + i]} << (8 * i);
      return value;
    }
    default:
      return 0;
  }
}

void VirtioPci::bar_write(unsigned bar, uint32_t offset, unsigned size, uint32_t value) {
  if (bar == kMessageBar) {
    msix_->write(offset, size, value);
    return interrupts_changed();
  }
  Place place = locate(bar, offset);
  if (place.area == Area::kCommon)
    common_write(place.offset, size, value);
  else if (place.area == Area::kDevice)
    device_.config_write(place.offset, size, value);
  else if (place.area == Area::kNotify)
    notify(value & 0xffff);
}

void VirtioPci::notify(uint32_t queue) {
  if (serve_ && queue < device_.queues().size())
    serve_(queue);
  else
    device_.notify(queue);
}

// Whether the window capability names a whole access that a BAR of ours holds.
bool VirtioPci::window(unsigned& bar, uint32_t& offset, unsigned& size) const {
  const uint8_t* capability = &config()[window_capability_];
  bar = capability[4];
  offset = get_le<uint32_t>(capability + 8);
  uint32_t length = get_le<uint32_t>(capability + 12);
  if (bar >= kBars || (length != 1 && length != 2 && length != 4)) return false;
  size = length;
  return offset % length == 0 && offset < bar_size(bar) && length <= bar_size(bar) - offset;
}

uint32_t VirtioPci::config_read(uint8_t offset, unsigned size) {
  unsigned bar;
  uint32_t at;
  unsigned width;
  if (offset == window_capability_ + 16 && window(bar, at, width) && size >= width)
    return bar_read(bar, at, width);
  return PciDevice::config_read(offset, size);
}

void VirtioPci::config_write(uint8_t offset, unsigned size, uint32_t value) {
  unsigned bar;
  uint32_t at;
  unsigned width;
  if (offset == window_capability_ + 16 && window(bar, at, width) && size >= width)
    return bar_write(bar, at, width, width == 4 ? value : value & ((1u << (8 * width)) - 1));
  PciDevice::config_write(offset, size, value);
  if (msix_ && offset <= msix_capability_ + 3 && offset + size > msix_capability_ + 2u) {
    msix_->set_control(get_le<uint16_t>(&config()[msix_capability_ + 2]));
    interrupts_changed();
  }
}

void VirtioPci::interrupt(uint8_t isr, uint16_t vector) {
  isr_ |= isr;
  if (!msix_ || !msix_->enabled())
    set_interrupt(true);
  else if (vector != kNoVector)
    msix_->raise(vector);
}

void VirtioPci::queue_interrupt(unsigned queue) { interrupt(1, queue_vectors_[queue]); }

int VirtioPci::queue_event(unsigned queue) const { return msix_ ? msix_->event(queue_vectors_[queue]) : -1; }

void VirtioPci::config_interrupt() { interrupt(2, config_vector_); }

void VirtioPci::save(ByteWriter& out) const {
  out.u8(1);
  save_config(out);
  out.u8(isr_);
  out.u32(device_feature_select_);
  out.u32(driver_feature_select_);
  out.u16(queue_select_);
  if (msix_) {
    msix_->save(out);
    out.u16(config_vector_);
    for (uint16_t vector : queue_vectors_) out.u16(vector);
  }
  device_.save(out);
}

void VirtioPci::load(ByteReader& in) {
  load_version(in, 1);
  load_config(in);
  isr_ = in.u8();
  device_feature_select_ = in.u32();
  driver_feature_select_ = in.u32();
  queue_select_ = in.u16();
  if (msix_) {
    msix_->load(in);
    config_vector_ = vector(in.u16());
    for (uint16_t& queue_vector : queue_vectors_) queue_vector = vector(in.u16());
  }
  device_.load(in);
}

}  // namespace hypertwin::devices
