// An Ethernet of the observer's between two hosts, each with a network of its own (a namespace) and a tap in
// it: frames are carried from one to the other, and are lost, late, doubled or overtaken on the way. Where
// the kernel has netem, that does the latter, and this only carries and cuts.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hypertwin::campaign {

// What befalls frames, in shares of them.
struct Weather {
  double loss = 0;
  double duplicate = 0;
  double reorder = 0;  // go at once while the others are late
  std::chrono::microseconds delay{0}, jitter{0};
  bool fine() const { return loss == 0 && duplicate == 0 && delay.count() == 0; }
  // As tc(8) wants it.
  std::vector<std::string> netem() const;
};

class Lan {
 public:
  struct Counts {
    uint64_t carried = 0, lost = 0, doubled = 0, overtaken = 0;
  };

  explicit Lan(const Weather& weather) : weather_(weather) {}
  // The address of the host at a port, 0 or 1.
  static std::string address(unsigned port) { return "10.78.0." + std::to_string(port + 1); }
  void plug(unsigned port, Fd tap) { taps_[port] = std::move(tap); }
  // Nothing of what this port sends arrives any more, nor what is on the way.
  void cut(unsigned port, bool is);
  const Counts& counts() const { return counts_; }

  std::vector<int> descriptors() const;
  void pump(std::mt19937_64& random);

 private:
  struct Frame {
    uint64_t number = 0;
    std::vector<uint8_t> bytes;
  };
  // From a port to the other one, by the time when it is due.
  struct Direction {
    bool cut = false;
    uint64_t next = 0, latest = 0;  // numbers: to be given, carried
    std::multimap<uint64_t, Frame> frames;
  };
  void take(Direction& direction, std::vector<uint8_t> bytes, uint64_t now, std::mt19937_64& random);

  const Weather weather_;
  Fd taps_[2];
  Direction directions_[2];
  Counts counts_;
};

// In a process of one thread: a network of its own, with the address of `port` on a tap, which is returned.
// Throws Error.
Fd enter_lan(unsigned port, const Weather& weather);
// Why there can be none here; empty when there can. Tried once.
const std::string& no_lan();
// Whether `tc qdisc add … netem` works. Tried once.
bool kernel_has_netem();

// Over a UNIX socket.
void send_descriptor(int socket, int fd);
// Throws Error when the other side ended without.
Fd receive_descriptor(int socket);

}  // namespace hypertwin::campaign
