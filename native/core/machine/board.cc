#include "machine/board.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace hypertwin::machine {

namespace {
// Where firmware of a PC puts PCI interrupts; cards share them in turn.
constexpr uint8_t kPciIrqs[] = {10, 11, 5, 9};
}  // namespace

Board::Board(devices::Host& host, devices::GuestRam& ram, const MachineConfig& config,
             std::function<void(uint32_t)> on_marker)
    : pit_(host, pic_.line(0)),
      rtc_(host, pic_.line(8), static_cast<int64_t>(config.wall_clock), ram.size()),
      serial_(host, 0, pic_.line(4)),
      power_(host),
      debug_(std::move(on_marker)),
      ports_(pci_) {
  ports_.add(pic_);
  ports_.add(pit_);
  ports_.add(rtc_);
  ports_.add(serial_);
  ports_.add(power_);
  ports_.add(debug_);
  ports_.add(pci_);
  // As firmware does: PCI interrupts are level-triggered.
  uint16_t level_triggered = 0;
  for (uint8_t line : kPciIrqs) level_triggered = static_cast<uint16_t>(level_triggered | 1u << line);
  pic_.port_write(0x4d0, 1, level_triggered & 0xff);
  pic_.port_write(0x4d1, 1, level_triggered >> 8);
  size_t card = 0;
  auto irq = [&card] { return kPciIrqs[card++ % std::size(kPciIrqs)]; };
  for (size_t i = 0; i < config.nets.size(); ++i) {
    uint8_t line = irq();
    devices::VirtioNet::Options options;
    options.mac = config.nets[i].mac;
    nets_.push_back(std::make_unique<OnPci<devices::VirtioNet>>(
        pic_.new_source(line), host, static_cast<uint32_t>(i), "net" + std::to_string(i), ram, options));
    pci_.add(nets_.back()->pci, line);
  }
  for (size_t i = 0; i < config.disks.size(); ++i) {
    uint8_t line = irq();
    devices::VirtioBlk::Options options;
    options.size = config.disks[i].size;
    options.read_only = config.disks[i].read_only;
    options.serial = "hypertwin-" + std::to_string(i);
    disks_.push_back(std::make_unique<OnPci<devices::VirtioBlk>>(
        pic_.new_source(line), host, static_cast<uint32_t>(i), "disk" + std::to_string(i), ram, options));
    pci_.add(disks_.back()->pci, line);
  }
}

uint32_t Board::port_read(uint16_t port, unsigned size) { return ports_.read(port, size); }

void Board::port_write(uint16_t port, unsigned size, uint32_t value) { ports_.write(port, size, value); }

uint64_t Board::mmio_read(uint64_t address, unsigned size) {
  uint64_t value = 0;
  return pci_.mmio_access(address, size, false, value) ? value : ~uint64_t{0};
}

void Board::mmio_write(uint64_t address, unsigned size, uint64_t value) {
  pci_.mmio_access(address, size, true, value);
}

std::optional<uint64_t> Board::deadline() const {
  auto a = pit_.deadline();
  auto b = rtc_.deadline();
  if (!a) return b;
  if (!b) return a;
  return std::min(*a, *b);
}

void Board::advance(uint64_t now) {
  pit_.advance(now);
  rtc_.advance(now);
}

std::vector<devices::Device*> Board::devices() {
  std::vector<devices::Device*> list{&pic_, &pit_, &rtc_, &serial_, &power_, &debug_, &pci_};
  for (auto& net : nets_) list.push_back(&net->pci);
  for (auto& disk : disks_) list.push_back(&disk->pci);
  return list;
}

std::vector<const devices::Device*> Board::devices() const {
  auto list = const_cast<Board*>(this)->devices();
  return {list.begin(), list.end()};
}

void Board::save(ByteWriter& out) const { save_sections(out, devices()); }

void Board::load(ByteReader& in) { load_sections(in, devices()); }

Digest128 Board::digest() const {
  ByteWriter bytes;
  save(bytes);
  return digest128(bytes.data());
}

}  // namespace hypertwin::machine
