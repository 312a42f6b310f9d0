// virtio-blk (virtio 1.2, section 5.2): one queue. Requests leave through Host::block_submit and come back,
// in any order, through complete(); the device keeps what a restored machine needs to submit them again.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

// The host's side where it moves data straight into and out of guest memory.
class DirectDiskHost {
 public:
  virtual ~DirectDiskHost() = default;
  // The guest has given up its requests: from the return on none touches its memory.
  virtual void block_cancel(uint32_t device) = 0;
};

class VirtioBlk final : public VirtioDevice {
 public:
  static constexpr uint32_t kSector = 512;
  // With its data a request must fit in one record of a log.
  static constexpr uint32_t kMaxRequest = 2u << 20;
  // Beyond this many bytes in flight further requests wait in the guest's ring.
  static constexpr uint64_t kMaxInFlight = 32u << 20;
  static constexpr uint32_t kMaxSegments = 126;
  static constexpr uint32_t kMaxSegmentSize = 16384;
  // Of one request, which names one range.
  static constexpr uint32_t kMaxDiscard = 1u << 30;
  static constexpr uint32_t kMaxWriteZeroes = 16u << 20;

  struct Options {
    uint64_t size = 0;  // bytes, whole sectors
    bool read_only = false;
    uint32_t block_size = 512;
    std::string serial;  // GET_ID, cut at 20 bytes
    // DISCARD and WRITE_ZEROES are offered, unless the disk is read-only.
    bool discard = false;
    // Requests name guest memory; none: they carry the data.
    DirectDiskHost* direct = nullptr;
  };

  // `id` names the device in Host::block_submit.
  VirtioBlk(Host& host, uint32_t id, std::string name, GuestRam& ram, const Options& options);

  // The request's outcome; `data` is a read's. False when there is no such request (the guest reset the
  // device meanwhile), which is no error. A read completed with too few bytes ends as an I/O error.
  bool complete(uint64_t ordinal, BlockStatus status, std::span<const uint8_t> data);
  // The same of one of several, without data where the request had parts; the guest sees them after
  // show_completed().
  bool complete_one(uint64_t ordinal, BlockStatus status, std::span<const uint8_t> data);
  void show_completed() {
    if (live()) process();
  }
  // Reads in flight may have written to guest memory before they are completed.
  void mark_reads();
  // What was submitted and not completed, in order of submission.
  std::vector<BlockRequest> in_flight() const;
  // The ordinal of the next request.
  uint64_t next_ordinal() const { return next_ordinal_; }

  uint16_t type() const override { return 2; }
  uint32_t class_code() const override { return 0x010000; }
  std::span<const uint8_t> config() const override { return std::span(config_).first(config_size_); }

 private:
  struct Request {
    uint16_t head = 0;
    BlockOperation operation = BlockOperation::kRead;
    uint64_t offset = 0;
    uint32_t size = 0;
    bool unmap = false;
    std::vector<uint8_t> data;      // of a write
    std::vector<Segment> readable;  // of one without data, after the header
    std::vector<Segment> writable;  // the status byte is the last one
    uint64_t writable_bytes = 0;
    bool direct = false;
  };

  void on_notify(unsigned queue) override;
  void on_live() override { process(); }
  void on_reset() override;
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  // Without VIRTIO_BLK_F_FLUSH the guest cannot ask for durability, so each write has it
  // (virtio 1.2, 5.2.5.2).
  bool write_through() const;
  bool durable(BlockOperation operation) const;
  // False when it is not a sound one: `status` says how it ends.
  bool parse_range(uint32_t type, const Chain& chain, BlockRequest& request, BlockStatus& status) const;
  void process();
  // False when the chain cannot even carry a status.
  bool start(const Chain& chain);
  void finish(uint16_t head, std::span<const Segment> writable, uint64_t writable_bytes, uint64_t written,
              BlockStatus status);

  // Where the request's data lies; false when a piece does not lie in one place.
  bool find_parts(const Chain& chain, BlockRequest& request) const;
  void mark_data(const Request& request);
  // Of a write.
  std::vector<uint8_t> data_of(const Request& request) const;

  Host& host_;
  DirectDiskHost* direct_;
  std::array<uint8_t, 60> config_{};
  size_t config_size_ = 36;
  uint64_t size_;
  bool read_only_;
  std::array<uint8_t, 20> serial_{};
  uint64_t next_ordinal_ = 0;
  uint64_t bytes_in_flight_ = 0;
  std::map<uint64_t, Request> requests_;
  Chain chain_;  // reused
};

}  // namespace hypertwin::devices
