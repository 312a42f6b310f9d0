// The MC146818: registers A to D, time in BCD or binary, 12 or 24 hours, and its three interrupts. Flags are
// worked out from the time passed when someone looks, so a clock that nobody uses costs nothing. No daylight
// saving; the divider's reset is ignored.
#include "devices/rtc.h"

#include <algorithm>
#include <chrono>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {

constexpr uint64_t kSecond = 1000000000;
constexpr int64_t kDay = 86400;
constexpr int64_t kMaxTime = 253402300799;  // the end of year 9999
constexpr uint8_t kA = 10, kB = 11, kC = 12, kD = 13, kCentury = 0x32;
constexpr uint8_t kSet = 0x80, kBinary = 0x04, k24Hours = 0x02;
constexpr uint8_t kPeriodic = 0x40, kAlarm = 0x20, kUpdate = 0x10;

bool is_time(uint8_t index) { return index == kCentury || (index <= 9 && (index > 5 || index % 2 == 0)); }

}  // namespace

Rtc::Rtc(Host& host, IrqLine& irq8, int64_t start_time, uint64_t ram_bytes)
    : host_(host), irq8_(irq8), base_(std::clamp<int64_t>(start_time, 0, kMaxTime)) {
  cmos_[kA] = 0x26;
  cmos_[kB] = k24Hours;
  cmos_[kD] = 0x80;
  auto put = [this](unsigned at, uint64_t value) {
    value = std::min<uint64_t>(value, 0xffff);
    cmos_[at] = static_cast<uint8_t>(value);
    cmos_[at + 1] = static_cast<uint8_t>(value >> 8);
  };
  uint64_t mib = uint64_t{1} << 20;
  put(0x15, 640);
  put(0x17, ram_bytes > mib ? (ram_bytes - mib) >> 10 : 0);
  put(0x30, ram_bytes > mib ? (ram_bytes - mib) >> 10 : 0);
  put(0x34, ram_bytes > 16 * mib ? (ram_bytes - 16 * mib) >> 16 : 0);
}

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>(cmos_[kB] & kBinary ? value : value / 10 << 4 | value % 10);
}

unsigned Rtc::decode(uint8_t value) const {
  return cmos_[kB] & kBinary ? value : (value >> 4) * 10u + (value & 15);
}

unsigned Rtc::decode_hour(uint8_t value) const {
  if (cmos_[kB] & k24Hours) return decode(value);
  unsigned hour = decode(value & 0x7f);
  if (hour < 1 || hour > 12) return 24;  // never
  return hour % 12 + (value & 0x80 ? 12 : 0);
}

void Rtc::fill_time(uint64_t now) {
  namespace c = std::chrono;
  c::sys_seconds time{c::seconds{second(now)}};
  c::sys_days day = c::floor<c::days>(time);
  c::year_month_day date{day};
  unsigned of_day = static_cast<unsigned>((time - day).count());
  unsigned hour = of_day / 3600;
  unsigned year = static_cast<unsigned>(std::max(0, static_cast<int>(date.year())));
  cmos_[0] = encode(of_day % 60);
  cmos_[2] = encode(of_day / 60 % 60);
  if (cmos_[kB] & k24Hours)
    cmos_[4] = encode(hour);
  else
    cmos_[4] = static_cast<uint8_t>(encode((hour + 11) % 12 + 1) | (hour >= 12 ? 0x80 : 0));
  cmos_[6] = encode(c::weekday{day}.c_encoding() + 1);
  cmos_[7] = encode(static_cast<unsigned>(date.day()));
  cmos_[8] = encode(static_cast<unsigned>(date.month()));
  cmos_[9] = encode(year % 100);
  cmos_[kCentury] = encode(year / 100 % 100);
}

void Rtc::take_time(uint64_t now) {
  namespace c = std::chrono;
  int year = static_cast<int>(decode(cmos_[kCentury]) % 100 * 100 + decode(cmos_[9]) % 100);
  unsigned month = std::clamp(decode(cmos_[8]), 1u, 12u);
  c::sys_days day = c::sys_days{c::year{year} / c::month{month} / 1} +
                    c::days{static_cast<int>(std::clamp(decode(cmos_[7]), 1u, 31u)) - 1};
  int64_t time = c::sys_seconds{day}.time_since_epoch().count() + decode_hour(cmos_[4]) % 24 * 3600 +
                 decode(cmos_[2]) % 60 * 60 + decode(cmos_[0]) % 60;
  base_ = time - static_cast<int64_t>(now / kSecond);
}

uint64_t Rtc::period_clocks() const {
  unsigned rate = cmos_[kA] & 15;
  if (rate == 0) return 0;
  if (rate < 3) rate += 7;
  return uint64_t{1} << (rate - 1);
}

uint64_t Rtc::periods(uint64_t now) const {
  uint64_t clocks = period_clocks();
  return clocks ? scale(now, 32768, kSecond) / clocks : 0;
}

std::optional<int64_t> Rtc::next_alarm(int64_t after) const {
  auto field = [](bool any, unsigned value) { return any ? -1 : static_cast<int64_t>(value); };
  int64_t s = field(cmos_[1] >= 0xc0, decode(cmos_[1]));
  int64_t m = field(cmos_[3] >= 0xc0, decode(cmos_[3]));
  int64_t h = field(cmos_[5] >= 0xc0, decode_hour(cmos_[5]));
  if (s > 59 || m > 59 || h > 23) return std::nullopt;
  int64_t t = after + 1;
  for (;;) {  // each step skips a whole hour, a whole minute or one second: a few hundred at most
    int64_t of_day = (t % kDay + kDay) % kDay;
    if (h >= 0 && of_day / 3600 != h)
      t += 3600 - of_day % 3600;
    else if (m >= 0 && of_day / 60 % 60 != m)
      t += 60 - of_day % 60;
    else if (s >= 0 && of_day % 60 != s)
      t += 1;
    else
      return t;
  }
}

void Rtc::catch_up(uint64_t now) {
  if (now <= seen_) return;
  if (periods(now) > periods(seen_)) cmos_[kC] |= kPeriodic;
  int64_t before = second(seen_);
  int64_t after = second(now);
  if (updating() && after > before) {
    cmos_[kC] |= kUpdate;
    if (auto alarm = next_alarm(before); alarm && *alarm <= after) cmos_[kC] |= kAlarm;
  }
  seen_ = now;
  update_line();
}

void Rtc::update_line() {
  bool active = cmos_[kC] & cmos_[kB] & (kPeriodic | kAlarm | kUpdate);
  cmos_[kC] = static_cast<uint8_t>((cmos_[kC] & 0x70) | (active ? 0x80 : 0));
  irq8_.set(active);
}

std::optional<uint64_t> Rtc::deadline() const {
  // A flag that is set already gives no new edge.
  uint8_t waiting = cmos_[kB] & static_cast<uint8_t>(~cmos_[kC]);
  uint64_t next = UINT64_MAX;
  if (waiting & kPeriodic && period_clocks())
    next = scale((periods(seen_) + 1) * period_clocks(), kSecond, 32768, true);
  if (updating() && waiting & (kUpdate | kAlarm)) {
    int64_t at = second(seen_) + 1;
    bool due = waiting & kUpdate;
    if (!due) {
      if (auto alarm = next_alarm(at - 1)) {
        at = *alarm;
        due = true;
      }
    }
    if (due) next = std::min(next, scale(static_cast<uint64_t>(at - base_), kSecond, 1));
  }
  if (next == UINT64_MAX) return std::nullopt;
  return next;
}

void Rtc::advance(uint64_t now) { catch_up(now); }

uint8_t Rtc::read(uint8_t index) {
  if (is_time(index)) {
    if (updating()) fill_time(host_.now());
  } else if (index == kA) {
    bool busy = updating() && host_.now() % kSecond >= kSecond - 244000;
    return static_cast<uint8_t>(cmos_[kA] | (busy ? 0x80 : 0));
  } else if (index == kC) {
    catch_up(host_.now());
    uint8_t flags = cmos_[kC];
    cmos_[kC] = 0;
    update_line();
    return flags;
  }
  return cmos_[index];
}

void Rtc::write(uint8_t index, uint8_t value) {
  if (index == kC || index == kD) return;
  if (index > kD && index != kCentury) {
    cmos_[index] = value;
    return;
  }
  uint64_t now = host_.now();
  catch_up(now);
  if (is_time(index)) {
    if (updating()) fill_time(now);
    cmos_[index] = value;
    if (updating()) take_time(now);
  } else if (index == kA) {
    cmos_[kA] = value & 0x7f;
  } else if (index == kB) {
    bool was_updating = updating();
    if (was_updating) fill_time(now);
    cmos_[kB] = value & kSet ? value & static_cast<uint8_t>(~kUpdate) : value;
    if (!was_updating && updating()) take_time(now);
    update_line();
  } else {
    cmos_[index] = value;  // an alarm
  }
}

uint32_t Rtc::port_read(uint16_t port, unsigned size) {
  return read_bytes(port, size, [this](uint16_t p) -> uint8_t { return p == 0x71 ? read(index_) : 0xff; });
}

void Rtc::port_write(uint16_t port, unsigned size, uint32_t value) {
  write_bytes(port, size, value, [this](uint16_t p, uint8_t v) {
    if (p == 0x70)
      index_ = v & 0x7f;
    else if (p == 0x71)
      write(index_, v);
  });
}

void Rtc::save(ByteWriter& out) const {
  out.u8(1);
  out.raw(cmos_);
  out.u8(index_);
  out.u64(static_cast<uint64_t>(base_));
  out.u64(seen_);
}

void Rtc::load(ByteReader& in) {
  load_version(in, 1);
  auto bytes = in.raw(cmos_.size());
  std::copy(bytes.begin(), bytes.end(), cmos_.begin());
  index_ = in.u8();
  base_ = static_cast<int64_t>(in.u64());
  seen_ = in.u64();
  if (index_ > 127 || base_ < -kMaxTime || base_ > kMaxTime) in.corrupt("an RTC register is out of range");
}

}  // namespace hypertwin::devices
