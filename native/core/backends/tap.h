// A Linux tap interface as a packet backend; one thread (`ht-net`) reads it. Knows no device and no guest.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>

#include "base/fd.h"

namespace hypertwin::backends {

class Tap {
 public:
  // Called on the tap's thread with one Ethernet frame; must not throw.
  using OnPacket = std::function<void(std::span<const uint8_t>)>;

  // `name` may be empty or hold a "%d": the kernel chooses. Throws Error: EACCES/EPERM (no right to
  // /dev/net/tun or to the interface), ENOENT (no such device: module tun missing), EBUSY (in use).
  Tap(const std::string& name, OnPacket on_packet);
  ~Tap();

  const std::string& name() const { return name_; }
  // Any thread; never waits. False, and counted, when the kernel did not take it (interface down, queue
  // full).
  bool write(std::span<const uint8_t> packet);
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void run();

  Fd fd_;
  Fd stop_;
  std::string name_;
  OnPacket on_packet_;
  std::atomic<uint64_t> dropped_{0};
  std::thread thread_;
};

}  // namespace hypertwin::backends
