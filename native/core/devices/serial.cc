// The 16550A's registers.
#include "devices/serial.h"

#include <algorithm>

#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr uint8_t kLoop = 0x10, kOut2 = 0x08;
constexpr uint8_t kDataReady = 0x01, kOverrun = 0x02, kTransmitterEmpty = 0x60;
}  // namespace

Serial::Serial(Host& host, uint32_t id, IrqLine& irq, std::string name, uint16_t base)
    : host_(host), id_(id), irq_(irq), name_(std::move(name)), base_(base) {}

size_t Serial::receive(std::span<const uint8_t> bytes) {
  size_t accepted = std::min(bytes.size(), input_space());
  input_.insert(input_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(accepted));
  refill();
  update_line();
  return accepted;
}

void Serial::refill() {
  if (mcr_ & kLoop) return;
  while (fifo_.size() < depth() && !input_.empty()) {
    fifo_.push_back(input_.front());
    input_.pop_front();
  }
}

size_t Serial::trigger() const {
  static constexpr size_t kLevels[] = {1, 4, 8, 14};
  return fcr_ & 1 ? kLevels[fcr_ >> 6] : 1;
}

uint8_t Serial::modem_status() const {
  if (!(mcr_ & kLoop)) return 0xb0;  // carrier, data set ready, clear to send
  return static_cast<uint8_t>((mcr_ & 2) << 3 | (mcr_ & 1) << 5 | (mcr_ & 4) << 4 | (mcr_ & 8) << 4);
}

// IIR without the FIFO bits. Time does not pass for characters, so one below the trigger level has timed out.
uint8_t Serial::identify() const {
  if (ier_ & 4 && lsr_errors_) return 6;
  if (ier_ & 1 && !fifo_.empty()) return fifo_.size() >= trigger() ? 4 : 12;
  if (ier_ & 2 && thr_interrupt_) return 2;
  if (ier_ & 8 && msr_delta_) return 0;
  return 1;
}

void Serial::update_line() { irq_.set(mcr_ & kOut2 && identify() != 1); }

uint8_t Serial::read(unsigned reg) {
  bool dlab = lcr_ & 0x80;
  uint8_t value = 0xff;
  switch (reg) {
    case 0:
      if (dlab) return static_cast<uint8_t>(divisor_);
      value = 0;
      if (!fifo_.empty()) {
        value = fifo_.front();
        fifo_.pop_front();
        refill();
      }
      break;
    case 1:
      return dlab ? static_cast<uint8_t>(divisor_ >> 8) : ier_;
    case 2:
      value = identify();
      if (value == 2) thr_interrupt_ = false;
      value |= fcr_ & 1 ? 0xc0 : 0;
      break;
    case 3:
      return lcr_;
    case 4:
      return mcr_;
    case 5:
      value = static_cast<uint8_t>(kTransmitterEmpty | lsr_errors_ | (fifo_.empty() ? 0 : kDataReady));
      lsr_errors_ = 0;
      break;
    case 6:
      value = modem_status() | msr_delta_;
      msr_delta_ = 0;
      break;
    case 7:
      return scr_;
    default:
      break;
  }
  update_line();
  return value;
}

void Serial::write(unsigned reg, uint8_t value) {
  bool dlab = lcr_ & 0x80;
  switch (reg) {
    case 0:
      if (dlab) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
        return;
      }
      thr_interrupt_ = false;
      update_line();
      if (!(mcr_ & kLoop))
        host_.console_output(id_, {&value, 1});
      else if (fifo_.size() < depth())
        fifo_.push_back(value);
      else
        lsr_errors_ |= kOverrun;
      thr_interrupt_ = true;
      break;
    case 1:
      if (dlab) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
        return;
      }
      if (value & ~ier_ & 2) thr_interrupt_ = true;
      ier_ = value & 0x0f;
      break;
    case 2:
      if ((value ^ fcr_) & 1 || value & 2) {
        fifo_.clear();
        lsr_errors_ = 0;
      }
      fcr_ = value & 1 ? value & 0xc9 : 0;
      refill();
      break;
    case 3:
      lcr_ = value;
      return;
    case 4: {
      uint8_t before = modem_status();
      mcr_ = value & 0x1f;
      uint8_t after = modem_status();
      uint8_t changed = before ^ after;
      msr_delta_ |= static_cast<uint8_t>((changed >> 4 & 0x0b) | (before & 0x40 && !(after & 0x40) ? 4 : 0));
      refill();
      break;
    }
    case 7:
      scr_ = value;
      return;
    default:
      return;
  }
  update_line();
}

uint32_t Serial::port_read(uint16_t port, unsigned size) {
  return read_bytes(port, size, [this](uint16_t p) { return read(static_cast<uint16_t>(p - base_)); });
}

void Serial::port_write(uint16_t port, unsigned size, uint32_t value) {
  write_bytes(port, size, value,
              [this](uint16_t p, uint8_t v) { write(static_cast<uint16_t>(p - base_), v); });
}

void Serial::save(ByteWriter& out) const {
  out.u8(1);
  for (uint8_t value : {ier_, fcr_, lcr_, mcr_, scr_, lsr_errors_, msr_delta_, uint8_t{thr_interrupt_}})
    out.u8(value);
  out.u16(divisor_);
  for (const auto* queue : {&fifo_, &input_}) {
    out.varint(queue->size());
    for (uint8_t byte : *queue) out.u8(byte);
  }
}

void Serial::load(ByteReader& in) {
  load_version(in, 1);
  for (uint8_t* value : {&ier_, &fcr_, &lcr_, &mcr_, &scr_, &lsr_errors_, &msr_delta_}) *value = in.u8();
  thr_interrupt_ = load_flag(in);
  divisor_ = in.u16();
  auto fifo = in.blob(16);
  fifo_.assign(fifo.begin(), fifo.end());
  auto input = in.blob(kMaxInput);
  input_.assign(input.begin(), input.end());
  if (ier_ > 15 || mcr_ > 31) in.corrupt("a serial register is out of range");
}

}  // namespace hypertwin::devices
