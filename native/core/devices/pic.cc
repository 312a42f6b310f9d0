// The 8259A pair: priorities, initialisation words, end of interrupt, cascade. An edge once latched stays
// until it is acknowledged.
#include "devices/pic.h"

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

class Pic::Source final : public IrqLine {
 public:
  Source(Pic& pic, unsigned irq, unsigned bit) : pic_(pic), irq_(irq), mask_(uint32_t{1} << bit) {}
  void set(bool level) override {
    uint32_t& levels = pic_.levels_[irq_];
    if (((levels & mask_) != 0) == level) return;
    levels ^= mask_;
    pic_.changed(irq_);
  }

 private:
  Pic& pic_;
  unsigned irq_;
  uint32_t mask_;
};

Pic::Pic() = default;
Pic::~Pic() = default;

IrqLine& Pic::line(unsigned irq) {
  if (irq < 16 && !sources_[irq].empty()) return *sources_[irq].front();
  return new_source(irq);
}

IrqLine& Pic::new_source(unsigned irq) {
  if (irq >= 16 || irq == 2) throw Error("EINVAL", "irq " + std::to_string(irq) + " is no input of the PIC");
  auto& sources = sources_[irq];
  if (sources.size() >= 32) throw Error("EINVAL", "irq " + std::to_string(irq) + " has 32 sources already");
  sources.push_back(std::make_unique<Source>(*this, irq, static_cast<unsigned>(sources.size())));
  return *sources.back();
}

void Pic::changed(unsigned irq) {
  chips_[irq / 8].set_line(irq % 8, levels_[irq] != 0);
  if (irq >= 8) cascade();
}

void Pic::cascade() {
  const bool request = chips_[1].pending(false) >= 0;
  chips_[0].set_line(2, request);
  // An edge latched earlier goes with the request, or each withdrawn one would end as a spurious IRQ15.
  if (!request) chips_[0].irr &= static_cast<uint8_t>(~4u);
}

void Pic::Chip::set_line(unsigned bit, bool level) {
  uint8_t mask = static_cast<uint8_t>(1u << bit);
  if (level) {
    if (is_level(bit) || !(lines & mask)) irr |= mask;
    lines |= mask;
  } else {
    if (is_level(bit)) irr &= static_cast<uint8_t>(~mask);
    lines &= static_cast<uint8_t>(~mask);
  }
}

int Pic::Chip::best(uint8_t requests) const {
  if (requests == 0) return -1;
  unsigned bit = (lowest + 1) & 7;
  while (!(requests >> bit & 1)) bit = (bit + 1) & 7;
  return static_cast<int>(bit);
}

int Pic::Chip::pending(bool is_master) const {
  if (init_step) return -1;
  int request = best(irr & static_cast<uint8_t>(~imr));
  if (request < 0) return -1;
  uint8_t serving = isr;
  if (special_mask) serving &= static_cast<uint8_t>(~imr);
  if (special_nested && is_master) serving &= static_cast<uint8_t>(~4u);
  int current = best(serving);
  if (current >= 0 && rank(static_cast<unsigned>(current)) <= rank(static_cast<unsigned>(request))) return -1;
  return request;
}

void Pic::Chip::take(unsigned bit) {
  uint8_t mask = static_cast<uint8_t>(1u << bit);
  if (!is_level(bit)) irr &= static_cast<uint8_t>(~mask);
  if (!auto_eoi)
    isr |= mask;
  else if (rotate_on_auto_eoi)
    lowest = static_cast<uint8_t>(bit);
}

void Pic::Chip::end_of_interrupt(int bit, bool rotate) {
  if (bit < 0) return;
  isr &= static_cast<uint8_t>(~(1u << bit));
  if (rotate) lowest = static_cast<uint8_t>(bit);
}

// A write to the even port.
void Pic::Chip::command(uint8_t value) {
  if (value & 0x10) {  // ICW1
    uint8_t levels = elcr;
    *this = Chip{.irr = 0, .lines = lines, .elcr = elcr, .vector = vector, .init_step = 2};
    icw4_expected = value & 1;
    level_all = value & 8;
    if (level_all) levels = 0xff;
    irr = lines & levels;
  } else if (value & 0x08) {  // OCW3
    if (value & 0x40) special_mask = value & 0x20;
    if (value & 0x04)
      poll = true;
    else if (value & 0x02)
      read_isr = value & 1;
  } else {  // OCW2
    int bit = value & 7;
    uint8_t serving = special_mask ? isr & static_cast<uint8_t>(~imr) : isr;
    switch (value >> 5) {
      case 0:
        rotate_on_auto_eoi = false;
        break;
      case 1:
        end_of_interrupt(best(serving), false);
        break;
      case 3:
        end_of_interrupt(bit, false);
        break;
      case 4:
        rotate_on_auto_eoi = true;
        break;
      case 5:
        end_of_interrupt(best(serving), true);
        break;
      case 6:
        lowest = static_cast<uint8_t>(bit);
        break;
      case 7:
        end_of_interrupt(bit, true);
        break;
      default:
        break;
    }
  }
}

// A write to the odd port.
void Pic::Chip::data(uint8_t value, bool is_master) {
  switch (init_step) {
    case 2:
      vector = value & 0xf8;
      init_step = 3;
      break;
    case 3:  // how they are cascaded is fixed
      init_step = icw4_expected ? 4 : 0;
      break;
    case 4:
      special_nested = is_master && (value & 0x10);
      auto_eoi = value & 0x02;
      init_step = 0;
      break;
    default:
      imr = value;
  }
}

bool Pic::interrupt_pending() const { return chips_[0].pending(true) >= 0; }

uint8_t Pic::acknowledge() {
  Chip& master = chips_[0];
  Chip& slave = chips_[1];
  int irq = master.pending(true);
  if (irq < 0) return master.vector | 7;
  master.take(static_cast<unsigned>(irq));
  if (irq != 2) return static_cast<uint8_t>(master.vector | irq);
  int second = slave.pending(false);
  if (second >= 0) slave.take(static_cast<unsigned>(second));
  master.set_line(2, false);  // INT falls during INTA; a further request gives a new edge
  cascade();
  return static_cast<uint8_t>(slave.vector | (second < 0 ? 7 : second));
}

uint8_t Pic::read_chip(Chip& chip, bool is_master, bool data) {
  if (chip.poll) {
    chip.poll = false;
    int irq = chip.pending(is_master);
    if (irq < 0) return 0;
    chip.take(static_cast<unsigned>(irq));
    if (!is_master) chips_[0].set_line(2, false);
    cascade();
    return static_cast<uint8_t>(0x80 | irq);
  }
  if (data) return chip.imr;
  return chip.read_isr ? chip.isr : chip.irr;
}

uint32_t Pic::port_read(uint16_t port, unsigned size) {
  return read_bytes(port, size, [this](uint16_t p) -> uint8_t {
    switch (p) {
      case 0x20:
      case 0x21:
        return read_chip(chips_[0], true, p & 1);
      case 0xa0:
      case 0xa1:
        return read_chip(chips_[1], false, p & 1);
      case 0x4d0:
      case 0x4d1:
        return chips_[p & 1].elcr;
      default:
        return 0xff;
    }
  });
}

void Pic::port_write(uint16_t port, unsigned size, uint32_t value) {
  write_bytes(port, size, value, [this](uint16_t p, uint8_t v) {
    switch (p) {
      case 0x20:
        chips_[0].command(v);
        if (v & 0x10) chips_[0].set_line(2, false);
        break;
      case 0x21:
        chips_[0].data(v, true);
        break;
      case 0xa0:
        chips_[1].command(v);
        break;
      case 0xa1:
        chips_[1].data(v, false);
        break;
      case 0x4d0:
      case 0x4d1: {
        // The timer, the keyboard, the cascade, the clock and the coprocessor are always by edge.
        Chip& chip = chips_[p & 1];
        chip.elcr = v & (p & 1 ? 0xde : 0xf8);
        if (!chip.level_all) {
          uint8_t edge = chip.irr & static_cast<uint8_t>(~chip.elcr);
          chip.irr = edge | (chip.lines & chip.elcr);
        }
        break;
      }
      default:
        return;
    }
    cascade();
  });
}

void Pic::save(ByteWriter& out) const {
  out.u8(1);
  for (const Chip& chip : chips_) {
    for (uint8_t value :
         {chip.irr, chip.lines, chip.isr, chip.imr, chip.elcr, chip.vector, chip.lowest, chip.init_step})
      out.u8(value);
    for (bool value : {chip.icw4_expected, chip.level_all, chip.auto_eoi, chip.rotate_on_auto_eoi,
                       chip.special_mask, chip.special_nested, chip.poll, chip.read_isr})
      out.u8(value);
  }
  for (unsigned irq = 0; irq < 16; ++irq) {
    out.u8(static_cast<uint8_t>(sources_[irq].size()));
    out.u32(levels_[irq]);
  }
}

void Pic::load(ByteReader& in) {
  load_version(in, 1);
  for (Chip& chip : chips_) {
    for (uint8_t* value : {&chip.irr, &chip.lines, &chip.isr, &chip.imr, &chip.elcr, &chip.vector,
                           &chip.lowest, &chip.init_step})
      *value = in.u8();
    for (bool* value : {&chip.icw4_expected, &chip.level_all, &chip.auto_eoi, &chip.rotate_on_auto_eoi,
                        &chip.special_mask, &chip.special_nested, &chip.poll, &chip.read_isr})
      *value = load_flag(in);
    if (chip.lowest > 7 || chip.vector & 7 || chip.init_step == 1 || chip.init_step > 4)
      in.corrupt("a PIC register is out of range");
  }
  for (unsigned irq = 0; irq < 16; ++irq) {
    if (in.u8() != sources_[irq].size()) in.corrupt("another number of interrupt sources");
    levels_[irq] = in.u32();
    if (uint64_t{levels_[irq]} >> sources_[irq].size())
      in.corrupt("a level of an interrupt source not there");
  }
}

}  // namespace hypertwin::devices
