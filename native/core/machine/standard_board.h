// The standard board: interrupt controllers and the 8254 are the kernel's; here are ACPI's registers, the
// serial port, the clock and the PCI devices, each with a lock of its own so that its I/O goes on beside the
// vCPUs.
//
// Order of locks: PCI's (an access by the guest), then a function's, which a thread may hold while it waits
// for a page of the guest's memory. The board's, of what is no function, is never held so long.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"
#include "devices/ports.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_pci.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "machine/config.h"
#include "machine/irq_pins.h"
#include "machine/port_map.h"

namespace hypertwin::machine {

// The machine, as this board's devices see it.
class StandardHost : public devices::Host,
                     public devices::EntropyHost,
                     public devices::BalloonHost,
                     public devices::UnfinishedHost,
                     public devices::DirectDiskHost,
                     public devices::VsockHost {};

// Device numbers of Host::console_output.
inline constexpr uint32_t kSerialConsole = 0, kVirtioConsole = 1;

class StandardBoard {
 public:
  // One virtio function: its device, its lock, and how the guest notifies it without leaving KVM.
  class Function {
   public:
    Function(StandardBoard& board, std::unique_ptr<devices::VirtioDevice> device, uint8_t irq);
    std::mutex& mutex() { return mutex_; }
    devices::VirtioDevice& device() { return *device_; }
    template <class D>
    D& as() {
      return static_cast<D&>(*device_);
    }
    devices::VirtioPci& pci() { return pci_; }
    uint8_t irq() const { return irq_; }
    // Readable when the guest has notified the queue.
    int doorbell(size_t queue) const { return doorbells_[queue].get(); }
    size_t queues() const { return doorbells_.size(); }
    // As if the guest had notified each queue: who serves them looks at all.
    void ring_doorbells() const;
    // Where the kernel listens for the guest's notifications: at the window, if anywhere. take_doorbells()
    // leaves them where that still is; place_doorbells() does nothing while another function's are there, and
    // the guest's notifications come as its other accesses do.
    void take_doorbells();
    void place_doorbells();

   private:
    void deassign(uint32_t where, size_t count);
    kvm::IoEvent doorbell_event(uint32_t where, size_t queue) const;

    std::shared_ptr<kvm::Vm> vm_;
    std::mutex mutex_;
    std::unique_ptr<devices::VirtioDevice> device_;
    devices::VirtioPci pci_;
    uint8_t irq_;
    std::vector<Fd> doorbells_;
    std::optional<uint32_t> placed_;  // where the kernel listens
  };

  StandardBoard(std::shared_ptr<kvm::Vm> vm, StandardHost& host, devices::GuestRam& ram,
                const MachineConfig& config, std::function<void(uint32_t)> on_marker);
  StandardBoard(const StandardBoard&) = delete;
  StandardBoard& operator=(const StandardBoard&) = delete;

  // Accesses by the guest, from any vCPU's thread.
  uint32_t port_read(uint16_t port, unsigned size);
  void port_write(uint16_t port, unsigned size, uint32_t value);
  uint64_t mmio_read(uint64_t address, unsigned size);
  void mmio_write(uint64_t address, unsigned size, uint64_t value);

  // Guards what is not a function.
  std::mutex& mutex() { return mutex_; }
  devices::Serial& serial() { return serial_; }
  devices::Rtc& rtc() { return rtc_; }
  devices::AcpiPm& acpi() { return acpi_; }
  const std::vector<std::unique_ptr<Function>>& functions() const { return functions_; }
  Function& net_function(size_t i) { return *functions_.at(i); }
  Function& disk_function(size_t i) { return *functions_.at(nets_ + i); }
  Function& rng_function() { return *rng_; }
  // nullptr where the machine has none.
  Function* console_function() { return console_; }
  Function* balloon_function() { return balloon_; }
  Function* vsock_function() { return vsock_; }
  uint64_t interrupts() const { return routes_.signalled(); }
  // A pulse on the pin of the generation's identifier.
  void generation_changed();

  // Writes the tables; gives the RSDP's address.
  uint64_t write_acpi(devices::GuestRam& ram, uint32_t vcpus) const;

  // Nothing else may touch the board meanwhile.
  void save(ByteWriter& out) const;
  void load(ByteReader& in);

 private:
  std::vector<devices::Device*> devices();
  // After windows have moved.
  void place_doorbells();
  std::mutex& guard_of(uint16_t port) { return ports_.of_pci(port) ? pci_mutex_ : mutex_; }

  std::shared_ptr<kvm::Vm> vm_;
  mutable std::mutex pci_mutex_;  // guards pci_, and where the doorbells are
  mutable std::mutex mutex_;
  IrqPins pins_;
  MessageRoutes routes_;
  devices::Rtc rtc_;
  devices::Serial serial_;
  devices::PowerPort power_;
  devices::AcpiPm acpi_;
  devices::IrqLine& generation_;
  devices::DebugPort debug_;
  devices::PciRoot pci_;
  size_t nets_;
  std::vector<std::unique_ptr<Function>> functions_;
  Function* rng_ = nullptr;
  Function* console_ = nullptr;
  Function* balloon_ = nullptr;
  Function* vsock_ = nullptr;
  PortMap ports_;
};

}  // namespace hypertwin::machine
