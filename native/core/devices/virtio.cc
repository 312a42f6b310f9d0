// The life of a virtio device: negotiation, queues, reset, breaking.
#include "devices/virtio.h"

#include "devices/state.h"

namespace hypertwin::devices {

VirtioDevice::VirtioDevice(uint32_t id, std::string name, GuestRam& ram, unsigned queues, uint64_t offered)
    : ram_(ram),
      queues_(queues),
      id_(id),
      name_(std::move(name)),
      offered_(offered | kVirtioVersion1 | kVirtioIndirect | kVirtioEventIdx) {}

void VirtioDevice::set_driver_features(uint64_t features) {
  if (!(status_ & kFeaturesOk)) driver_features_ = features;
}

void VirtioDevice::set_status(uint8_t value) {
  if (value == 0) return reset();
  uint8_t added = value & static_cast<uint8_t>(~(status_ | kNeedsReset));
  if (added & kFeaturesOk) {
    if (driver_features_ & ~offered_ || !(driver_features_ & kVirtioVersion1)) {
      added &= static_cast<uint8_t>(~kFeaturesOk);
    } else {
      negotiated_ = driver_features_;
      for (VirtQueue& queue : queues_) queue.use(negotiated_);
    }
  }
  if (!((status_ | added) & kFeaturesOk)) added &= static_cast<uint8_t>(~kDriverOk);
  status_ |= added;
  if (added & kDriverOk && live()) on_live();
}

void VirtioDevice::enable_queue(unsigned index) {
  // Queues are set up between FEATURES_OK and whatever ends the device's life.
  if (index >= queues_.size() || queues_[index].enabled() || !(status_ & kFeaturesOk) ||
      status_ & kNeedsReset)
    return;
  if (!queues_[index].enable(ram_)) break_device();
}

void VirtioDevice::notify(unsigned index) {
  if (!live() || index >= queues_.size() || !queues_[index].enabled()) return;
  queues_[index].begin_turn();
  on_notify(index);
}

void VirtioDevice::reset() {
  driver_features_ = negotiated_ = 0;
  status_ = 0;
  for (VirtQueue& queue : queues_) queue.reset();
  on_reset();
}

void VirtioDevice::break_device() {
  if (status_ & kNeedsReset) return;
  status_ |= kNeedsReset;
  if (status_ & kDriverOk && transport_) transport_->config_interrupt();
}

void VirtioDevice::publish(unsigned queue) {
  const bool more = queues_[queue].begin_turn();
  if (queues_[queue].publish(ram_) && transport_) transport_->queue_interrupt(queue);
  if (more && transport_) transport_->queue_again(queue);
}

void VirtioDevice::config_changed() {
  ++config_generation_;
  if (status_ & kDriverOk && transport_) transport_->config_interrupt();
}

void VirtioDevice::save(ByteWriter& out) const {
  out.u8(1);
  out.u64(driver_features_);
  out.u64(negotiated_);
  out.u8(status_);
  out.u8(config_generation_);
  for (const VirtQueue& queue : queues_) queue.save(out);
  save_state(out);
}

void VirtioDevice::refuse_features(ByteReader& in, uint64_t /*features*/) {
  in.corrupt("features that this device does not offer");
}

void VirtioDevice::load(ByteReader& in) {
  load_version(in, 1);
  driver_features_ = in.u64();
  negotiated_ = in.u64();
  status_ = in.u8();
  config_generation_ = in.u8();
  if (negotiated_ & ~offered_) refuse_features(in, negotiated_ & ~offered_);
  for (VirtQueue& queue : queues_) {
    queue.load(in, ram_);
    queue.use(negotiated_);
  }
  load_state(in);
}

}  // namespace hypertwin::devices
