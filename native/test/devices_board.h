// For tests and fuzzers of devices: a host that remembers, a board of all devices on plain memory, and the
// guest's side of virtio in plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "devices/pci.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/ports.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_net.h"
#include "devices/virtio_pci.h"

namespace hypertwin::devices {

struct FakeHost : Host {
  uint64_t time = 0;
  std::vector<std::vector<uint8_t>> packets;
  std::string console;
  std::vector<BlockRequest> requests;
  std::vector<PowerEvent> power_events;
  unsigned nets_ready = 0;

  uint64_t now() override { return time; }
  void transmit(uint32_t, std::span<const uint8_t> packet) override {
    packets.emplace_back(packet.begin(), packet.end());
  }
  void net_ready(uint32_t) override { ++nets_ready; }
  void console_output(uint32_t, std::span<const uint8_t> bytes) override { console.append(as_text(bytes)); }
  void block_submit(uint32_t, BlockRequest request) override { requests.push_back(std::move(request)); }
  void power(PowerEvent event) override { power_events.push_back(event); }
};

struct FakeLine : IrqLine {
  bool level = false;
  int rises = 0;
  void set(bool to) override {
    rises += to && !level;
    level = to;
  }
};

// Where a function's configuration space has the capability with this id; 0 where it has none.
inline uint8_t capability_of(PciDevice& function, uint8_t id) {
  auto byte = [&](int offset) {
    return static_cast<uint8_t>(function.config_read(static_cast<uint8_t>(offset), 1));
  };
  uint8_t at = byte(0x34);
  while (at && byte(at) != id) at = byte(at + 1);
  return at;
}

// A board's memory, of zeros: one of a board that is gone, since fuzzers make many, and new memory takes most
// of their time.
class Memory {
 public:
  explicit Memory(size_t size) {
    if (!spare().empty()) {
      bytes_ = std::move(spare().back());
      spare().pop_back();
    }
    bytes_.assign(size, 0);
  }
  ~Memory() { spare().push_back(std::move(bytes_)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint8_t* data() { return bytes_.data(); }

 private:
  static std::vector<std::vector<uint8_t>>& spare() {
    thread_local std::vector<std::vector<uint8_t>> list;
    return list;
  }
  std::vector<uint8_t> bytes_;
};

struct TestBoard {
  static constexpr uint64_t kRam = 1 << 20;
  static constexpr uint64_t kDiskSize = 64 << 10;
  static constexpr int64_t kStart = 1700000000;  // 2023-11-14 22:13:20 UTC, a Tuesday

  FakeHost host;
  Memory memory{kRam + 4096};
  GuestRam ram{{{.guest_address = 0, .size = kRam, .host = aligned(memory.data()), .slot = 0}}};
  Pic pic;
  Pit pit{host, pic.line(0)};
  Rtc rtc{host, pic.line(8), kStart, 64 << 20};
  Serial serial{host, 0, pic.line(4)};
  PowerPort power{host};
  DebugPort debug;
  PciRoot pci;
  VirtioNet net;
  VirtioBlk blk{host,
                0,
                "disk0",
                ram,
                {.size = kDiskSize, .read_only = false, .block_size = 512, .serial = "serial-17"}};
  VirtioPci net_pci{net, pic.new_source(10)};
  VirtioPci blk_pci{blk, pic.new_source(11)};

  explicit TestBoard(uint16_t mtu = 1500)
      : net{host, 0, "net0", ram, {.mac = {2, 0, 0, 0, 0, 1}, .mtu = mtu, .link_up = true}} {
    pci.add(net_pci, 10);
    pci.add(blk_pci, 11);
  }

  static uint8_t* aligned(uint8_t* p) {
    return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(p) + 4095) & ~uintptr_t{4095});
  }
  uint8_t* at(uint64_t address) { return ram.regions()[0].host + address; }

  template <class F>
  bool each_port(uint16_t port, F&& use) {
    auto has = [&](auto& device) {
      for (const PortRange& range : device.kPorts)
        if (port >= range.first && port - range.first < range.count) {
          use(device);
          return true;
        }
      return false;
    };
    return has(pic) || has(pit) || has(rtc) || has(serial) || has(power) || has(debug) || has(pci);
  }
  uint32_t in(uint16_t port, unsigned size = 1) {
    uint32_t value = UINT32_MAX;
    if (!each_port(port, [&](auto& device) { value = device.port_read(port, size); }))
      pci.port_access(port, size, false, value);
    return size == 4 ? value : value & ((1u << (8 * size)) - 1);
  }
  void out(uint16_t port, uint32_t value, unsigned size = 1) {
    if (!each_port(port, [&](auto& device) { device.port_write(port, size, value); }))
      pci.port_access(port, size, true, value);
  }
  uint64_t read(uint64_t address, unsigned size) {
    uint64_t value = UINT64_MAX;
    pci.mmio_access(address, size, false, value);
    return value;
  }
  void write(uint64_t address, unsigned size, uint64_t value) { pci.mmio_access(address, size, true, value); }
  uint32_t config(unsigned slot, uint8_t offset, unsigned size = 4) {
    out(0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc), 4);
    return in(static_cast<uint16_t>(0xcfc + (offset & 3)), size);
  }
  void set_config(unsigned slot, uint8_t offset, uint32_t value, unsigned size = 4) {
    out(0xcf8, 0x80000000 | slot << 11 | (offset & 0xfc), 4);
    out(static_cast<uint16_t>(0xcfc + (offset & 3)), value, size);
  }
  void advance(uint64_t to) {
    host.time = to;
    pit.advance(to);
    rtc.advance(to);
  }

  std::vector<Device*> devices() {
    return {&pic, &pit, &rtc, &serial, &power, &debug, &pci, &net_pci, &blk_pci};
  }
  std::vector<uint8_t> save() {
    ByteWriter bytes;
    for (Device* device : devices()) device->save(bytes);
    return bytes.take();
  }
  void load(std::span<const uint8_t> bytes) {
    ByteReader in_bytes(bytes);
    for (Device* device : devices()) device->load(in_bytes);
    in_bytes.expect_done();
  }
  void copy_memory(const TestBoard& from) { std::memcpy(at(0), from.ram.regions()[0].host, kRam); }
};

// The driver of one virtio device, by BAR 0 or BAR 2.
class Driver {
 public:
  struct Piece {
    uint64_t address;
    uint32_t size;
    bool writable = false;
  };

  Driver(TestBoard& board, unsigned slot, bool io = false) : board_(board), io_(io) {
    board.set_config(slot, 4, 7, 2);
    base_ = board.config(slot, io ? 0x18 : 0x10) & ~15u;
  }

  uint64_t common(uint32_t offset, unsigned size) { return get(offset, size); }
  void set_common(uint32_t offset, unsigned size, uint64_t value) { put(offset, size, value); }
  uint8_t status() { return static_cast<uint8_t>(get(20, 1)); }
  void set_status(uint8_t value) { put(20, 1, value); }
  uint8_t isr() { return static_cast<uint8_t>(get(io_ ? VirtioPci::kIoIsr : VirtioPci::kMemoryIsr, 1)); }
  uint64_t device_config(uint32_t offset, unsigned size) {
    return get((io_ ? VirtioPci::kIoDevice : VirtioPci::kMemoryDevice) + offset, size);
  }
  uint64_t offered() {
    put(0, 4, 1);
    uint64_t high = get(4, 4);
    put(0, 4, 0);
    return high << 32 | get(4, 4);
  }
  // True when the device took the features.
  bool negotiate(uint64_t features) {
    set_status(0);
    set_status(1);
    set_status(3);
    put(8, 4, 0);
    put(12, 4, static_cast<uint32_t>(features));
    put(8, 4, 1);
    put(12, 4, features >> 32);
    set_status(11);
    return status() & VirtioDevice::kFeaturesOk;
  }
  void queue(uint16_t index, uint16_t size, uint64_t descriptors, uint64_t driver, uint64_t device) {
    put(22, 2, index);
    put(24, 2, size);
    put(32, 4, descriptors);
    put(36, 4, descriptors >> 32);
    put(40, 4, driver);
    put(44, 4, driver >> 32);
    put(48, 4, device);
    put(52, 4, device >> 32);
    put(28, 2, 1);
  }
  void notify(uint16_t index) {
    if (io_)
      put(VirtioPci::kIoNotify, 2, index);
    else
      put(VirtioPci::kMemoryNotify + 4u * index, 2, index);
  }

 private:
  uint64_t get(uint32_t offset, unsigned size) {
    return io_ ? board_.in(static_cast<uint16_t>(base_ + offset), size) : board_.read(base_ + offset, size);
  }
  void put(uint32_t offset, unsigned size, uint64_t value) {
    if (io_)
      board_.out(static_cast<uint16_t>(base_ + offset), static_cast<uint32_t>(value), size);
    else
      board_.write(base_ + offset, size, value);
  }

  TestBoard& board_;
  bool io_;
  uint32_t base_;
};

// The driver's side of one split ring, laid out at `base` (16 KiB, wiped unless it has no entries yet).
class Ring {
 public:
  Ring(TestBoard& board, uint64_t at, uint16_t entries) : board_(&board), base(at), size(entries) {
    if (entries) std::memset(board.at(base), 0, 0x4000);
  }
  uint64_t descriptors() const { return base; }
  uint64_t driver() const { return base + 0x1000; }
  uint64_t device() const { return base + 0x2000; }

  void descriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags, uint16_t next = 0) {
    write_descriptor(descriptors() + 16u * index, address, length, flags, next);
  }
  void write_descriptor(uint64_t at, uint64_t address, uint32_t length, uint16_t flags, uint16_t next) {
    uint8_t* p = put_le(board_->at(at), address);
    p = put_le(p, length);
    p = put_le(p, flags);
    put_le(p, next);
  }
  // Makes the head available.
  void offer(uint16_t head) {
    put_le(board_->at(driver() + 4 + 2u * (available % size)), head);
    put_le(board_->at(driver() + 2), ++available);
  }
  // A chain in descriptors first, first + 1, ...
  void offer(uint16_t first, std::vector<Driver::Piece> pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      bool last = i + 1 == pieces.size();
      descriptor(static_cast<uint16_t>(first + i), pieces[i].address, pieces[i].size,
                 static_cast<uint16_t>((pieces[i].writable ? 2 : 0) | (last ? 0 : 1)),
                 static_cast<uint16_t>(first + i + 1));
    }
    offer(first);
  }
  uint16_t used_index() { return get_le<uint16_t>(board_->at(device() + 2)); }
  std::pair<uint32_t, uint32_t> used(uint16_t i) {
    const uint8_t* p = board_->at(device() + 4 + 8u * (i % size));
    return {get_le<uint32_t>(p), get_le<uint32_t>(p + 4)};
  }
  void set_flags(uint16_t flags) { put_le(board_->at(driver()), flags); }
  void set_used_event(uint16_t index) { put_le(board_->at(driver() + 4 + 2u * size), index); }
  uint16_t available_event() { return get_le<uint16_t>(board_->at(device() + 4 + 8u * size)); }

 private:
  TestBoard* board_;

 public:
  uint64_t base;
  uint16_t size;
  uint16_t available = 0;
};

}  // namespace hypertwin::devices
