// The deterministic board: its devices, which ports and addresses they answer, and their state as a whole.
// Knows no KVM, no thread and no log; everything it does comes from calls of the vCPU's thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"
#include "devices/pci.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/ports.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_net.h"
#include "devices/virtio_pci.h"
#include "machine/config.h"
#include "machine/port_map.h"
#include "machine/sections.h"

namespace hypertwin::machine {

inline constexpr char kBoardName[] = "deterministic";
inline constexpr uint32_t kBoardVersion = 2;

class Board {
 public:
  // `config.wall_clock` and the disks' sizes are filled in already. `host` and `ram` outlive the board.
  Board(devices::Host& host, devices::GuestRam& ram, const MachineConfig& config,
        std::function<void(uint32_t)> on_marker);
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  uint32_t port_read(uint16_t port, unsigned size);
  void port_write(uint16_t port, unsigned size, uint32_t value);
  // Size 1, 2, 4 or 8.
  uint64_t mmio_read(uint64_t address, unsigned size);
  void mmio_write(uint64_t address, unsigned size, uint64_t value);

  // Of all timers.
  std::optional<uint64_t> deadline() const;
  void advance(uint64_t now);

  devices::Pic& pic() { return pic_; }
  devices::Serial& serial() { return serial_; }
  const devices::DebugPort& debug_port() const { return debug_; }
  size_t nets() const { return nets_.size(); }
  size_t disks() const { return disks_.size(); }
  devices::VirtioNet& net(size_t i) { return nets_.at(i)->device; }
  devices::VirtioBlk& disk(size_t i) { return disks_.at(i)->device; }

  // Each device as a named section, in a fixed order.
  void save(ByteWriter& out) const;
  // Throws Error("CORRUPT") when the sections are not this board's.
  void load(ByteReader& in);
  Digest128 digest() const;

 private:
  template <class D>
  struct OnPci {
    D device;
    devices::VirtioPci pci;
    template <class... Args>
    explicit OnPci(devices::IrqLine& irq, Args&&... args)
        : device(std::forward<Args>(args)...), pci(device, irq) {}
  };

  std::vector<devices::Device*> devices();
  std::vector<const devices::Device*> devices() const;

  devices::Pic pic_;
  devices::Pit pit_;
  devices::Rtc rtc_;
  devices::Serial serial_;
  devices::PowerPort power_;
  devices::DebugPort debug_;
  devices::PciRoot pci_;
  std::vector<std::unique_ptr<OnPci<devices::VirtioNet>>> nets_;
  std::vector<std::unique_ptr<OnPci<devices::VirtioBlk>>> disks_;
  PortMap ports_;
};

}  // namespace hypertwin::machine
