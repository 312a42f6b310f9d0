// Random deeds of a guest and of the world around it, drawn from a stream of numbers: the property test draws
// them from a generator, the fuzzer from its input.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "devices_board.h"

namespace hypertwin::devices {

class RandomDeeds {
 public:
  using Draw = std::function<uint32_t()>;
  RandomDeeds(TestBoard& board, Draw draw) : board_(&board), draw_(std::move(draw)) {}
  // The same deeds go on on another board.
  void move_to(TestBoard& board) { board_ = &board; }

  // One deed; returns what the guest sees of it.
  uint64_t step() {
    TestBoard& b = *board_;
    switch (draw_() % 16) {
      case 0:
      case 1:
        return b.in(port(), size());
      case 2:
      case 3: {
        uint16_t p = port();
        unsigned n = size();
        b.out(p, value(), n);
        return 0;
      }
      case 4:
        return b.read(mmio(), size());
      case 5: {
        uint64_t address = mmio();
        unsigned n = size();
        b.write(address, n, value());
        return 0;
      }
      case 6:
        return b.config(draw_() % 4, static_cast<uint8_t>(draw_()), size());
      case 7:
        b.set_config(draw_() % 4, static_cast<uint8_t>(draw_()), value(), size());
        return 0;
      case 8:
        b.advance(b.host.time + (uint64_t{draw_()} << draw_() % 8));
        return b.pit.deadline().value_or(0);
      case 9:
        return b.pic.interrupt_pending() ? b.pic.acknowledge() : 0x100u;
      case 10: {
        std::vector<uint8_t> bytes(draw_() % 40, static_cast<uint8_t>(draw_()));
        return b.serial.receive(bytes);
      }
      case 11:
        return b.net.receive(std::vector<uint8_t>(draw_() % 1600, static_cast<uint8_t>(draw_())));
      case 12: {
        auto flying = b.blk.in_flight();
        uint64_t ordinal = flying.empty() ? draw_() % 4 : flying[draw_() % flying.size()].ordinal;
        return b.blk.complete(ordinal, static_cast<BlockStatus>(draw_() % 2), std::vector<uint8_t>(4096, 7));
      }
      case 13:
        start();
        return 0;
      default:
        offer();
        return 0;
    }
  }

 private:
  unsigned size() { return 1u << draw_() % 3; }
  uint32_t value() { return draw_() % 4 ? draw_() & 0xff : draw_() * 2654435761u; }
  uint16_t port() {
    static constexpr uint16_t kPorts[] = {0x20,  0x21,   0xa0,   0xa1,   0x4d0,  0x4d1,  0x40,   0x41,  0x42,
                                          0x43,  0x61,   0x70,   0x71,   0x3f8,  0x3f9,  0x3fa,  0x3fb, 0x3fc,
                                          0x3fd, 0x3fe,  0x3ff,  0x64,   0x604,  0xcf9,  0x5000, 0xcf8, 0xcfc,
                                          0xcfe, 0xc000, 0xc014, 0xc040, 0xc048, 0xc080, 0xc114, 0xc140};
    uint32_t n = draw_();
    return n % 8 ? kPorts[n / 8 % std::size(kPorts)] : static_cast<uint16_t>(n >> 8);
  }
  uint64_t mmio() {
    static constexpr uint32_t kAreas[] = {0, 0, VirtioPci::kMemoryIsr, VirtioPci::kMemoryDevice,
                                          VirtioPci::kMemoryNotify};
    uint32_t n = draw_();
    return 0xe0000000 + (n & 1) * 0x4000 + kAreas[n / 2 % std::size(kAreas)] + draw_() % 64;
  }
  uint64_t ring(unsigned slot, unsigned queue) { return 0x10000 + 0x10000 * (slot - 1) + 0x4000 * queue; }

  // Brings a device up as a good driver would.
  void start() {
    unsigned slot = 1 + draw_() % 2;
    board_->set_config(slot, 0x10, slot == 1 ? 0xe0000000 : 0xe0004000);
    Driver driver(*board_, slot);
    driver.negotiate((driver.offered() & ~uint64_t{0x10000000}) | (draw_() % 2 ? kVirtioIndirect : 0));
    for (unsigned queue = 0; queue < (slot == 1 ? 2 : 1); ++queue) {
      Ring at(*board_, ring(slot, queue), 16);
      driver.queue(static_cast<uint16_t>(queue), 16, at.descriptors(), at.driver(), at.device());
    }
    driver.set_status(15);
  }

  // A buffer of a few pieces, mostly sound, and mostly a notification.
  void offer() {
    unsigned slot = 1 + draw_() % 2;
    unsigned queue = slot == 1 ? draw_() % 2 : 0;
    bool receive = slot == 1 && queue == 0;
    Ring at(*board_, 0, 0);
    at.base = ring(slot, queue);
    at.size = 16;
    at.available = get_le<uint16_t>(board_->at(at.driver() + 2));
    std::vector<Driver::Piece> pieces;
    uint64_t header = 0x80000 + draw_() % 16 * 16;
    put_le<uint32_t>(board_->at(header), draw_() % 10);
    put_le<uint64_t>(board_->at(header + 8), draw_() % 128);
    if (!receive) pieces.push_back({header, slot == 1 ? 12u : 16u});
    bool writable = receive || (slot == 2 && draw_() % 2);
    for (unsigned n = draw_() % 3; n; --n) pieces.push_back({0x90000 + draw_() % 8 * 4096, 512, writable});
    if (receive || slot == 2) pieces.push_back({0xa0000 + draw_() % 64, receive ? 1600u : 1u, true});
    uint32_t wrong = draw_() % 64;
    if (wrong == 1) pieces.push_back({UINT64_MAX - draw_() % 4096, draw_()});
    if (wrong == 2) pieces[0].size = draw_();
    if (wrong == 3) at.available = static_cast<uint16_t>(draw_());
    at.offer(static_cast<uint16_t>(draw_() % (wrong == 4 ? 32 : 10)), pieces);
    if (wrong == 5)
      at.descriptor(static_cast<uint16_t>(draw_() % 16), draw_(), draw_(), static_cast<uint16_t>(draw_()),
                    static_cast<uint16_t>(draw_()));
    if (draw_() % 4) (slot == 1 ? static_cast<VirtioDevice&>(board_->net) : board_->blk).notify(queue);
  }

  TestBoard* board_;
  Draw draw_;
};

}  // namespace hypertwin::devices
