// What a virtio device is, apart from how the guest reaches it (virtio_pci.h): features, configuration bytes,
// queues. Virtio 1.2, without legacy.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "devices/device.h"
#include "devices/guest_ram.h"
#include "devices/virtio_queue.h"

namespace hypertwin::devices {

// How a device reaches its driver: the transport.
class VirtioTransport {
 public:
  virtual ~VirtioTransport() = default;
  virtual void queue_interrupt(unsigned queue) = 0;
  virtual void config_interrupt() = 0;
  // There may be more in the queue than the device took at once: it is to be notified of it again.
  virtual void queue_again(unsigned queue) = 0;
};

class VirtioDevice {
 public:
  static constexpr uint8_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8, kNeedsReset = 64,
                           kFailed = 128;

  virtual ~VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  const std::string& name() const { return name_; }
  uint32_t id() const { return id_; }
  virtual uint16_t type() const = 0;        // virtio 1.2, section 5
  virtual uint32_t class_code() const = 0;  // PCI's
  virtual std::span<const uint8_t> config() const = 0;
  // The driver writes `size` (1, 2 or 4) of them; what is not the driver's to write stays as it is.
  virtual void config_write(uint32_t /*offset*/, unsigned /*size*/, uint32_t /*value*/) {}
  // Ring features included.
  uint64_t offered() const { return offered_; }
  uint64_t negotiated() const { return negotiated_; }
  std::vector<VirtQueue>& queues() { return queues_; }
  uint8_t status() const { return status_; }
  // The driver is ready, and nothing is broken.
  bool live() const { return (status_ & (kDriverOk | kNeedsReset)) == kDriverOk; }

  // For the transport.
  void attach(VirtioTransport* transport) { transport_ = transport; }
  void set_status(uint8_t value);
  // Ignored once the features are agreed on.
  void set_driver_features(uint64_t features);
  uint64_t driver_features() const { return driver_features_; }
  void enable_queue(unsigned index);
  void notify(unsigned index);
  void reset();
  uint8_t config_generation() const { return config_generation_; }
  void save(ByteWriter& out) const;
  void load(ByteReader& in);

 protected:
  VirtioDevice(uint32_t id, std::string name, GuestRam& ram, unsigned queues, uint64_t offered);

  virtual void on_notify(unsigned queue) = 0;
  virtual void on_live() {}
  virtual void on_reset() = 0;
  virtual void save_state(ByteWriter& out) const = 0;
  virtual void load_state(ByteReader& in) = 0;
  // A saved guest uses these, which are not offered. Throws.
  [[noreturn]] virtual void refuse_features(ByteReader& in, uint64_t features);

  // The ring broke the rules: the device stops until the guest resets it.
  void break_device();
  // Shows the guest what was pushed and interrupts if it wants that.
  void publish(unsigned queue);
  void config_changed();

  GuestRam& ram_;
  std::vector<VirtQueue> queues_;

 private:
  uint32_t id_;
  std::string name_;
  uint64_t offered_;
  uint64_t driver_features_ = 0;
  uint64_t negotiated_ = 0;
  uint8_t status_ = 0;
  uint8_t config_generation_ = 0;
  VirtioTransport* transport_ = nullptr;
};

}  // namespace hypertwin::devices
