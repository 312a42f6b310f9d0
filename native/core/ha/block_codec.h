// A log's blocks as they go over the logging channel: without the most of their headers, which the other side
// can make again (docs/migration-protocol.md). Knows no socket.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "log/format.h"

namespace hypertwin::ha {

// What a kLog frame begins with.
enum class LogForm : uint8_t {
  kBytes = 0,  // bytes of the segment, as they are
  kBlock = 1,  // one whole block: what of its header cannot be known, then its payload
};

class BlockPacker {
 public:
  // What goes before the block's payload; nullopt: it must go as it is. `block`: with its header.
  std::optional<std::vector<uint8_t>> pack(std::span<const uint8_t> block);

 private:
  uint64_t boundary_ = 0, time_ = 0;
};

class BlockUnpacker {
 public:
  // A segment's header. Throws Error("PROTOCOL").
  void begin_segment(std::span<const uint8_t> header);
  // A kLog frame's payload; the segment's bytes that it stands for. Throws Error("PROTOCOL").
  std::vector<uint8_t> unpack(std::span<const uint8_t> frame);
  // Of the last record in all the blocks that came or began to.
  uint64_t boundary() const { return boundary_; }

 private:
  void follow(std::span<const uint8_t, log::kBlockHeaderBytes> header);

  std::optional<uint64_t> seed_;
  uint64_t next_record_ = 0, boundary_ = 0, time_ = 0;
  Digest128 chain_;
  uint64_t raw_left_ = 0;  // bytes of a block that comes as it is
};

}  // namespace hypertwin::ha
