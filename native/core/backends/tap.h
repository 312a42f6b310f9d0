// A Linux tap interface as a packet backend; one thread (`ht-net`) reads it. Knows no device and no guest.
#pragma once

#include <sys/uio.h>

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
  // Called there when no more packets are at hand, or many came; must not throw.
  using OnPause = std::function<void()>;
  // Before each frame, both ways, lies virtio's header of 12 bytes; set_receiver_finishes() says what packets
  // may still lack.
  struct Headed {
    OnPause on_pause;
  };

  // `name` may be empty or hold a "%d": the kernel chooses. Throws Error: EACCES/EPERM (no right to
  // /dev/net/tun or to the interface), ENOENT (no such device: module tun missing), EBUSY (in use).
  Tap(const std::string& name, OnPacket on_packet);
  Tap(const std::string& name, OnPacket on_packet, Headed headed);
  ~Tap();

  const std::string& name() const { return name_; }
  // Any thread; never waits. False, and counted, when the kernel did not take it (interface down, queue
  // full).
  bool write(std::span<const uint8_t> packet);
  bool write(std::span<const iovec> parts);
  // Whether who receives makes checksums, and cuts TCP packets of which version of IP, with ECN (RFC 3168).
  struct Finishes {
    bool checksum = false, tcp4 = false, tcp6 = false, congestion = false;
  };
  // Of one with headers. Any thread. False when the kernel cannot, or the interface is gone.
  [[nodiscard]] bool set_receiver_finishes(const Finishes& what);
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  Tap(const std::string& name, OnPacket on_packet, OnPause on_pause, bool headed);
  void run();
  bool count(ssize_t written, size_t wanted);

  Fd fd_;
  Fd stop_;
  std::string name_;
  OnPacket on_packet_;
  OnPause on_pause_;
  std::atomic<uint64_t> dropped_{0};
  std::thread thread_;
};

}  // namespace hypertwin::backends
