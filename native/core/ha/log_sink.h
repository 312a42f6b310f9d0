// A log's bytes onto a channel. When the other side is lost it says so once and swallows what comes: losing
// the backup is no failure of the log.
#pragma once

#include <atomic>
#include <functional>

#include "ha/block_codec.h"
#include "ha/ledger.h"
#include "log/sink.h"
#include "wire/channel.h"

namespace hypertwin::ha {

class LogSink final : public log::Sink {
 public:
  // `on_sent`: after a block went, on the log's thread.
  LogSink(wire::Channel& channel, Ledger& ledger, std::function<void()> on_sent)
      : channel_(channel), ledger_(ledger), on_sent_(std::move(on_sent)) {}

  // On the wire, frames' headers and all. Any thread.
  uint64_t wire_bytes() const { return wire_bytes_.load(std::memory_order_relaxed); }

  void begin_segment(uint32_t number, std::span<const uint8_t> header) override;
  void write(uint64_t offset, std::span<const uint8_t> bytes) override;
  void truncate(uint64_t) override {}
  void sync() override {}
  std::string name() const override { return "the backup " + channel_.peer(); }

 private:
  void send(wire::FrameType type, std::span<const uint8_t> bytes, std::span<const uint8_t> more = {});

  wire::Channel& channel_;
  Ledger& ledger_;
  const std::function<void()> on_sent_;
  BlockPacker packer_;
  uint64_t sent_ = 0;
  bool lost_ = false, preferred_ = false;
  std::atomic<uint64_t> wire_bytes_{0};
};

}  // namespace hypertwin::ha
