// One frame for a block, more for one that is larger than a frame.
#include "ha/log_sink.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "ha/clock.h"
#include "ha/link.h"
#include "log/format.h"

namespace hypertwin::ha {

namespace {
// Of an encoded block header (docs/eventlog-format.md).
constexpr size_t kRecordsAt = 8, kFirstRecordAt = 16, kLastBoundaryAt = 32;
}  // namespace

void LogSink::send(wire::FrameType type, std::span<const uint8_t> bytes, std::span<const uint8_t> more) {
  if (lost_) return;
  wire_bytes_.fetch_add(wire::kHeaderBytes + bytes.size() + more.size(), std::memory_order_relaxed);
  try {
    channel_.send(type, bytes, more);
  } catch (const Error&) {
    lost_ = true;
    // Whoever receives on the channel sees it at once, then.
    channel_.close();
  }
}

void LogSink::begin_segment(uint32_t number, std::span<const uint8_t> header) {
  uint8_t bytes[4];
  put_le(bytes, number);
  sent_ += header.size();
  ledger_.sent_header(sent_);
  send(wire::FrameType::kSegment, bytes, header);
}

void LogSink::write(uint64_t, std::span<const uint8_t> bytes) {
  // What is held waits for this thread.
  if (!std::exchange(preferred_, true)) prefer_this_thread();
  sent_ += bytes.size();
  const uint8_t* head = bytes.data();
  ledger_.sent({sent_, get_le<uint64_t>(head + kFirstRecordAt) + get_le<uint32_t>(head + kRecordsAt),
                get_le<uint64_t>(head + kLastBoundaryAt), now_ns()});
  if (const auto prefix = packer_.pack(bytes)) {
    send(wire::FrameType::kLog, *prefix, bytes.subspan(log::kBlockHeaderBytes));
  } else {
    const uint8_t form[] = {static_cast<uint8_t>(LogForm::kBytes)};
    while (!bytes.empty()) {
      const size_t size = std::min(bytes.size(), wire::kMaxPayload - sizeof(form));
      send(wire::FrameType::kLog, form, bytes.first(size));
      bytes = bytes.subspan(size);
    }
  }
  if (on_sent_) on_sent_();
}

}  // namespace hypertwin::ha
