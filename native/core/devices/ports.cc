// Power and marker ports.
#include "devices/ports.h"

#include "devices/state.h"

namespace hypertwin::devices {

void PowerPort::save(ByteWriter& out) const { out.u8(1); }
void PowerPort::load(ByteReader& in) { load_version(in, 1); }

uint32_t PowerPort::port_read(uint16_t port, unsigned) {
  return port == 0x604 || port == 0xcf9 ? 0 : UINT32_MAX;
}

void PowerPort::port_write(uint16_t port, unsigned size, uint32_t value) {
  if (port == 0x604 && size >= 2 && value & 0x2000)
    host_.power(PowerEvent::kPowerOff);
  else if ((port == 0x64 && (value & 0xff) == 0xfe) || (port == 0xcf9 && value & 4))
    host_.power(PowerEvent::kReset);
}

void DebugPort::save(ByteWriter& out) const {
  out.u8(1);
  out.u32(last_);
  out.u64(count_);
}

void DebugPort::load(ByteReader& in) {
  load_version(in, 1);
  last_ = in.u32();
  count_ = in.u64();
}

uint32_t DebugPort::port_read(uint16_t port, unsigned size) {
  if (size != 4) return UINT32_MAX;
  if (port == 0x5000) return last_;
  return port == 0x5004 ? static_cast<uint32_t>(count_) : UINT32_MAX;
}

void DebugPort::port_write(uint16_t port, unsigned size, uint32_t value) {
  if (port != 0x5000 || size != 4) return;
  last_ = value;
  ++count_;
  if (on_marker_) on_marker_(value);
}

}  // namespace hypertwin::devices
