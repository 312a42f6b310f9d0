#include "machine/standard_board.h"

#include <sys/eventfd.h>

#include <string>

#include "base/error.h"
#include "base/event.h"
#include "boot/acpi.h"
#include "machine/sections.h"

namespace hypertwin::machine {

namespace {
// Cards share them in turn; where MSI-X is used they are silent.
constexpr uint8_t kPciIrqs[] = {10, 11, 5};
constexpr uint8_t kSerialIrq = 4, kClockIrq = 8;
}  // namespace

StandardBoard::Function::Function(StandardBoard& board, std::unique_ptr<devices::VirtioDevice> device,
                                  uint8_t irq)
    : vm_(board.vm_),
      device_(std::move(device)),
      pci_(*device_, board.pins_.new_source(irq),
           &board.routes_.new_function(static_cast<unsigned>(device_->queues().size() + 1))),
      irq_(irq) {
  for (size_t i = 0; i < device_->queues().size(); ++i) {
    doorbells_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!doorbells_.back()) throw_errno("eventfd", "for a queue's notifications");
  }
  pci_.guard(mutex_);
  pci_.serve_elsewhere([this](unsigned queue) { ring(doorbells_[queue].get()); });
  board.pci_.add(pci_, irq);
  pci_.watch_windows([&board] { board.place_doorbells(); });
}

void StandardBoard::Function::ring_doorbells() const {
  for (const Fd& doorbell : doorbells_) ring(doorbell.get());
}

kvm::IoEvent StandardBoard::Function::doorbell_event(uint32_t where, size_t queue) const {
  return {.address = where + devices::VirtioPci::kMemoryNotify + 4 * queue,
          .length = 0,
          .pio = false,
          .fd = doorbells_[queue].get(),
          .datamatch = std::nullopt};
}

void StandardBoard::Function::deassign(uint32_t where, size_t count) {
  for (size_t i = 0; i < count; ++i) vm_->deassign_ioeventfd(doorbell_event(where, i));
}

void StandardBoard::Function::take_doorbells() {
  if (!placed_ || placed_ == pci_.window_base(devices::VirtioPci::kMemoryBar)) return;
  deassign(*placed_, doorbells_.size());
  placed_.reset();
}

void StandardBoard::Function::place_doorbells() {
  const auto base = pci_.window_base(devices::VirtioPci::kMemoryBar);
  if (placed_ || !base) return;
  for (size_t i = 0; i < doorbells_.size(); ++i) {
    try {
      vm_->assign_ioeventfd(doorbell_event(*base, i));
    } catch (const Error& error) {
      deassign(*base, i);
      if (error.err() == EEXIST) return;
      throw;
    }
  }
  placed_ = base;
}

StandardBoard::StandardBoard(std::shared_ptr<kvm::Vm> vm, StandardHost& host, devices::GuestRam& ram,
                             const MachineConfig& config, std::function<void(uint32_t)> on_marker)
    : vm_(vm),
      pins_(vm),
      routes_(vm),
      rtc_(host, pins_.new_source(kClockIrq), static_cast<int64_t>(config.wall_clock), ram.size()),
      serial_(host, kSerialConsole, pins_.new_source(kSerialIrq)),
      power_(host),
      acpi_(host, pins_.new_source(boot::kAcpiIrq)),
      generation_(pins_.new_source(boot::kGenerationIrq)),
      debug_(std::move(on_marker)),
      nets_(config.nets.size()),
      ports_(pci_) {
  ports_.add(rtc_);
  ports_.add(serial_);
  ports_.add(power_);
  ports_.add(acpi_);
  ports_.add(debug_);
  ports_.add(pci_);
  // As firmware does: these lines are level-triggered for the 8259s too.
  uint16_t level = 1u << boot::kAcpiIrq;
  for (uint8_t irq : kPciIrqs) level = static_cast<uint16_t>(level | 1u << irq);
  for (uint32_t chip : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) {
    kvm_irqchip state = vm_->get_irqchip(chip);
    state.chip.pic.elcr = static_cast<uint8_t>(level >> (chip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0));
    vm_->set_irqchip(state);
  }
  auto add = [&](std::unique_ptr<devices::VirtioDevice> device) {
    const uint8_t irq = kPciIrqs[functions_.size() % std::size(kPciIrqs)];
    functions_.push_back(std::make_unique<Function>(*this, std::move(device), irq));
    return functions_.back().get();
  };
  for (size_t i = 0; i < config.nets.size(); ++i) {
    devices::VirtioNet::Options options;
    options.mac = config.nets[i].mac;
    if (config.nets[i].backend == NetBackend::kTap) options.unfinished = &host;
    add(std::make_unique<devices::VirtioNet>(host, static_cast<uint32_t>(i), "net" + std::to_string(i), ram,
                                             options));
  }
  for (size_t i = 0; i < config.disks.size(); ++i) {
    devices::VirtioBlk::Options options;
    options.size = config.disks[i].size;
    options.read_only = config.disks[i].read_only;
    options.serial = "hypertwin-" + std::to_string(i);
    options.discard = !options.read_only;
    options.direct = &host;
    add(std::make_unique<devices::VirtioBlk>(host, static_cast<uint32_t>(i), "disk" + std::to_string(i), ram,
                                             options));
  }
  rng_ = add(std::make_unique<devices::VirtioRng>(host, 0, "rng0", ram));
  if (config.console)
    console_ = add(std::make_unique<devices::VirtioConsole>(host, kVirtioConsole, "console0", ram,
                                                            devices::VirtioConsole::Options{}));
  if (config.balloon) balloon_ = add(std::make_unique<devices::VirtioBalloon>(host, 0, "balloon0", ram));
  if (config.vsock)
    vsock_ = add(std::make_unique<devices::VirtioVsock>(host, 0, "vsock0", ram, config.vsock->cid));
  place_doorbells();
}

// First all that leave, since functions may have exchanged their places.
void StandardBoard::place_doorbells() {
  for (auto& function : functions_) function->take_doorbells();
  for (auto& function : functions_) function->place_doorbells();
}

uint32_t StandardBoard::port_read(uint16_t port, unsigned size) {
  std::lock_guard lock(guard_of(port));
  return ports_.read(port, size);
}

void StandardBoard::port_write(uint16_t port, unsigned size, uint32_t value) {
  std::lock_guard lock(guard_of(port));
  ports_.write(port, size, value);
}

uint64_t StandardBoard::mmio_read(uint64_t address, unsigned size) {
  std::lock_guard lock(pci_mutex_);
  uint64_t value = 0;
  return pci_.mmio_access(address, size, false, value) ? value : ~uint64_t{0};
}

void StandardBoard::mmio_write(uint64_t address, unsigned size, uint64_t value) {
  std::lock_guard lock(pci_mutex_);
  pci_.mmio_access(address, size, true, value);
}

void StandardBoard::generation_changed() {
  std::lock_guard lock(mutex_);
  generation_.set(true);
  generation_.set(false);
}

uint64_t StandardBoard::write_acpi(devices::GuestRam& ram, uint32_t vcpus) const {
  std::vector<boot::AcpiSlot> slots;
  for (size_t i = 0; i < functions_.size(); ++i)
    slots.push_back({.slot = static_cast<uint8_t>(i + 1), .irq = functions_[i]->irq()});
  return boot::write_acpi(ram,
                          {.vcpus = static_cast<uint8_t>(vcpus), .slots = slots, .level_irqs = kPciIrqs});
}

std::vector<devices::Device*> StandardBoard::devices() {
  std::vector<devices::Device*> list{&rtc_, &serial_, &power_, &acpi_, &debug_, &pci_};
  for (auto& function : functions_) list.push_back(&function->pci());
  return list;
}

void StandardBoard::save(ByteWriter& out) const {
  // The owner's calls come at any time.
  std::lock_guard pci(pci_mutex_);
  std::vector<std::unique_lock<std::mutex>> locks;
  for (const auto& function : functions_) locks.emplace_back(function->mutex());
  std::lock_guard lock(mutex_);
  const auto list = const_cast<StandardBoard*>(this)->devices();
  save_sections(out, {list.begin(), list.end()});
  pins_.save(out);
}

void StandardBoard::load(ByteReader& in) {
  load_sections(in, devices());
  pins_.load(in);
  place_doorbells();
}

}  // namespace hypertwin::machine
