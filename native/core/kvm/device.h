// A device made by KVM_CREATE_DEVICE, and the attribute calls that system, VM and vCPU share with it.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace hypertwin::kvm {

// KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR. The kernel says how long the value is;
// `data` must have room for it. Errors: ENXIO (no such attribute), EFAULT, EPERM.
bool has_device_attr(int fd, uint32_t group, uint64_t attr);
void get_device_attr(int fd, uint32_t group, uint64_t attr, void* data);
void set_device_attr(int fd, uint32_t group, uint64_t attr, const void* data);

class Device {
 public:
  Device(Fd fd, uint32_t type) : fd_(std::move(fd)), type_(type) {}
  uint32_t type() const { return type_; }
  int fd() const { return fd_.get(); }
  bool has_attr(uint32_t group, uint64_t attr) const { return has_device_attr(fd(), group, attr); }
  void get_attr(uint32_t group, uint64_t attr, void* data) const { get_device_attr(fd(), group, attr, data); }
  void set_attr(uint32_t group, uint64_t attr, const void* data) { set_device_attr(fd(), group, attr, data); }

 private:
  Fd fd_;
  uint32_t type_;
};

}  // namespace hypertwin::kvm
