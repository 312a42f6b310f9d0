// A Linux tap interface as a packet backend. Knows no device and no guest.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace hypertwin::backends {

// Without a thread: who has one waits until fd() is readable, and reads.
class Tap {
 public:
  enum class Frames : uint8_t {
    kWhole,
    // Before each frame, both ways, lies virtio's header of 12 bytes; set_receiver_finishes() says what
    // packets may still lack.
    kHeaded,
  };
  // Called with one Ethernet frame; must not throw.
  using OnPacket = std::function<void(std::span<const uint8_t>)>;
  enum class Read : uint8_t {
    kNothing,
    kPackets,
    kGone,  // the interface: fd() must not be waited for any more
  };

  // `name` may be empty or hold a "%d": the kernel chooses. Throws Error: EACCES/EPERM (no right to
  // /dev/net/tun or to the interface), ENOENT (no such device: module tun missing), EBUSY (in use).
  explicit Tap(const std::string& name, Frames frames = Frames::kWhole);

  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }
  // One thread at a time; never waits. What is at hand, until others must have a turn.
  Read read(const OnPacket& on_packet);
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
  bool count(ssize_t written, size_t wanted);

  Fd fd_;
  std::string name_;
  std::vector<uint8_t> frame_;
  std::atomic<uint64_t> dropped_{0};
};

// A tap of whole frames with a thread (`ht-net`) that reads it.
class ReadTap {
 public:
  // `on_packet` is called on that thread. Throws as Tap does.
  ReadTap(const std::string& name, Tap::OnPacket on_packet);
  ~ReadTap();
  Tap& tap() { return tap_; }

 private:
  void run();

  Tap tap_;
  Fd stop_;
  Tap::OnPacket on_packet_;
  std::thread thread_;
};

}  // namespace hypertwin::backends
