// The 8254: control words, latches, and counts as functions of time. A new count takes effect at once, in
// the periodic modes too.
#include "devices/pit.h"

#include "devices/state.h"

namespace hypertwin::devices {

namespace {

constexpr uint64_t kSecond = 1000000000;
// More than 64 bits of nanoseconds hold.
constexpr uint64_t kMaxClocks = uint64_t{1} << 55;

bool periodic(unsigned mode) { return mode == 2 || mode == 3; }
bool triggered(unsigned mode) { return mode == 1 || mode == 5; }

uint32_t from_bcd(uint32_t v) {
  return (v >> 12 & 15) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
}
uint32_t to_bcd(uint32_t v) {
  return (v / 1000 % 10) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | v % 10;
}

}  // namespace

uint64_t Pit::Channel::clocks(uint64_t now) const {
  if (!running || now <= start) return held;
  return held + scale(now - start, kFrequency, kSecond);
}

uint32_t Pit::Channel::count(uint64_t now) const {
  if (!loaded) return 0;
  uint64_t passed = clocks(now);
  uint32_t modulus = bcd ? 10000 : 0x10000;
  uint64_t value;
  if (mode == 2)
    value = reload - passed % reload;
  else if (mode == 3)
    value = reload - 2 * (passed % reload) % reload;
  else
    value = reload + modulus - passed % modulus;
  uint32_t count = static_cast<uint32_t>(value % modulus);
  return bcd ? to_bcd(count) : count;
}

bool Pit::Channel::out(uint64_t now) const {
  if (!loaded) return mode != 0;
  uint64_t passed = clocks(now);
  switch (mode) {
    case 0:
      return passed >= reload;
    case 1:
      return !running || passed >= reload;
    case 2:
      return !running || passed % reload != reload - 1;
    case 3:
      return !running || passed % reload < (reload + 1) / 2;
    default:
      return passed != reload;
  }
}

// How often OUT has risen.
uint64_t Pit::Channel::edges_at(uint64_t passed) const {
  if (!loaded) return 0;
  if (periodic(mode)) return passed / reload;
  return passed >= reload + (mode >= 4 ? 1u : 0u);
}

void Pit::Channel::set_gate(bool level, uint64_t now) {
  if (level == gate) return;
  if (!level) {
    gate = false;
    if (!triggered(mode)) {
      held = clocks(now);
      running = false;
    }
    return;
  }
  gate = true;
  if (periodic(mode) || triggered(mode)) held = 0;
  start = now;
  running = loaded;
}

void Pit::control(uint8_t value) {
  unsigned index = value >> 6;
  if (index == 3) {  // read back
    for (unsigned i = 0; i < 3; ++i) {
      if (!(value >> (i + 1) & 1)) continue;
      Channel& channel = channels_[i];
      if (!(value & 0x20)) latch_count(channel);
      if (!(value & 0x10) && !channel.status_latched) {
        channel.status_latched = true;
        // Firmware has loaded every channel; a guest may wait for that.
        const bool null_count = channel.programmed && !channel.loaded;
        channel.status_latch =
            static_cast<uint8_t>((channel.out(host_.now()) ? 0x80 : 0) | (null_count ? 0x40 : 0) |
                                 channel.access << 4 | channel.mode << 1 | (channel.bcd ? 1 : 0));
      }
    }
    return;
  }
  Channel& channel = channels_[index];
  unsigned access = value >> 4 & 3;
  if (access == 0) return latch_count(channel);
  unsigned mode = value >> 1 & 7;
  if (mode > 5) mode -= 4;
  channel = Channel{.mode = static_cast<uint8_t>(mode),
                    .access = static_cast<uint8_t>(access),
                    .bcd = (value & 1) != 0,
                    .gate = channel.gate,
                    .programmed = true};
  if (index == 0) irq0_.set(false);
}

void Pit::latch_count(Channel& channel) {
  if (channel.count_latched) return;
  channel.count_latched = true;
  channel.count_latch = static_cast<uint16_t>(channel.count(host_.now()));
}

void Pit::write_count(unsigned index, uint8_t value) {
  Channel& channel = channels_[index];
  if (!channel.programmed) return;
  uint32_t raw;
  if (channel.access == 1) {
    raw = value;
  } else if (channel.access == 2) {
    raw = static_cast<uint32_t>(value) << 8;
  } else if (!channel.write_high) {
    channel.write_high = true;
    channel.low = value;
    if (channel.mode == 0) {  // the first byte stops the count
      channel.loaded = channel.running = false;
      channel.held = 0;
      if (index == 0) irq0_.set(false);
    }
    return;
  } else {
    channel.write_high = false;
    raw = static_cast<uint32_t>(value) << 8 | channel.low;
  }
  channel.reload = channel.bcd ? from_bcd(raw) : raw;
  if (channel.reload == 0) channel.reload = channel.bcd ? 10000 : 0x10000;
  channel.loaded = true;
  channel.held = 0;
  channel.edges = 0;
  channel.start = host_.now();
  channel.running = channel.gate && !triggered(channel.mode);
  if (index == 0) irq0_.set(false);
}

uint8_t Pit::read_count(Channel& channel) {
  if (channel.status_latched) {
    channel.status_latched = false;
    return channel.status_latch;
  }
  uint32_t count = channel.count_latched ? channel.count_latch : channel.count(host_.now());
  bool high = channel.access == 2 || (channel.access == 3 && channel.read_high);
  if (channel.access == 3) channel.read_high = !channel.read_high;
  if (channel.access != 3 || high) channel.count_latched = false;
  return static_cast<uint8_t>(high ? count >> 8 : count);
}

uint32_t Pit::port_read(uint16_t port, unsigned size) {
  return read_bytes(port, size, [this](uint16_t p) -> uint8_t {
    if (p >= 0x40 && p <= 0x42) return read_count(channels_[p - 0x40]);
    if (p != 0x61) return 0xff;
    uint64_t now = host_.now();
    uint8_t refresh = now / 15085 & 1 ? 0x10 : 0;
    return static_cast<uint8_t>((port61_ & 0x0f) | refresh | (channels_[2].out(now) ? 0x20 : 0));
  });
}

void Pit::port_write(uint16_t port, unsigned size, uint32_t value) {
  write_bytes(port, size, value, [this](uint16_t p, uint8_t v) {
    if (p >= 0x40 && p <= 0x43) {
      // What is due is due before the channel changes.
      if (p == 0x40 || (p == 0x43 && v >> 6 == 0 && v & 0x30)) advance(host_.now());
      if (p == 0x43)
        control(v);
      else
        write_count(p - 0x40, v);
    } else if (p == 0x61) {
      if ((v ^ port61_) & 1) channels_[2].set_gate(v & 1, host_.now());
      port61_ = v & 0x0f;
    }
  });
}

std::optional<uint64_t> Pit::deadline() const {
  const Channel& channel = channels_[0];
  if (!channel.running) return std::nullopt;
  uint64_t target;
  if (periodic(channel.mode)) {
    if (channel.edges >= UINT64_MAX / 0x10000 - 1) return std::nullopt;
    target = (channel.edges + 1) * channel.reload;
  } else {
    if (channel.edges) return std::nullopt;
    target = channel.reload + (channel.mode >= 4 ? 1u : 0u);
  }
  uint64_t left = target > channel.held ? target - channel.held : 0;
  uint64_t delay = scale(left, kSecond, kFrequency, true);
  if (delay > UINT64_MAX - channel.start) return std::nullopt;
  return channel.start + delay;
}

void Pit::advance(uint64_t now) {
  Channel& channel = channels_[0];
  uint64_t edges = channel.edges_at(channel.clocks(now));
  if (edges <= channel.edges) return;
  channel.edges = edges;
  irq0_.set(false);
  irq0_.set(true);
}

void Pit::save(ByteWriter& out) const {
  out.u8(1);
  out.u8(port61_);
  for (const Channel& c : channels_) {
    for (uint8_t value : {c.mode, c.access, c.low, c.status_latch}) out.u8(value);
    for (bool value : {c.bcd, c.gate, c.programmed, c.loaded, c.running, c.write_high, c.read_high,
                       c.count_latched, c.status_latched})
      out.u8(value);
    out.u16(c.count_latch);
    out.u32(c.reload);
    out.u64(c.start);
    out.u64(c.held);
    out.u64(c.edges);
  }
}

void Pit::load(ByteReader& in) {
  load_version(in, 1);
  port61_ = in.u8();
  for (Channel& c : channels_) {
    for (uint8_t* value : {&c.mode, &c.access, &c.low, &c.status_latch}) *value = in.u8();
    for (bool* value : {&c.bcd, &c.gate, &c.programmed, &c.loaded, &c.running, &c.write_high, &c.read_high,
                        &c.count_latched, &c.status_latched})
      *value = load_flag(in);
    c.count_latch = in.u16();
    c.reload = in.u32();
    c.start = in.u64();
    c.held = in.u64();
    c.edges = in.u64();
    if (c.mode > 5 || c.access < 1 || c.access > 3 || c.reload < 1 || c.reload > 0x10000 || port61_ > 0x0f ||
        c.held > kMaxClocks || c.edges > kMaxClocks)
      in.corrupt("a PIT register is out of range");
  }
}

}  // namespace hypertwin::devices
