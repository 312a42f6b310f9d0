// virtio-rng (virtio 1.2, section 5.4): one queue. Random bytes are an input: the device asks for them
// through EntropyHost and gets them, or fewer, through complete(); it never draws any itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

struct EntropyRequest {
  uint64_t ordinal = 0;  // per device, from 0: names the request in completions and logs
  uint32_t size = 0;     // bytes, at least 1
};

// Where requests for random bytes go. It must not call back into the device.
class EntropyHost {
 public:
  virtual ~EntropyHost() = default;
  virtual void entropy_wanted(uint32_t device, EntropyRequest request) = 0;
};

class VirtioRng final : public VirtioDevice {
 public:
  // Of a longer buffer only the beginning is filled. One request is out at a time; the others wait in the
  // guest's ring.
  static constexpr uint32_t kMaxRequest = 64u << 10;

  // `id` names the device in EntropyHost::entropy_wanted.
  VirtioRng(EntropyHost& host, uint32_t id, std::string name, GuestRam& ram);

  // Random bytes for request `ordinal`, at least one; what is more than was asked for is ignored. False when
  // there is no such request (the guest reset the device meanwhile), or when there are no bytes.
  bool complete(uint64_t ordinal, std::span<const uint8_t> bytes);
  // The request that was asked for and not completed: a restored machine asks for it again.
  std::optional<EntropyRequest> in_flight() const;
  // The ordinal of the next request.
  uint64_t next_ordinal() const { return next_ordinal_; }

  uint16_t type() const override { return 4; }
  uint32_t class_code() const override { return 0x00ff00; }
  std::span<const uint8_t> config() const override { return {}; }

 private:
  struct Request {
    uint64_t ordinal = 0;
    uint16_t head = 0;
    uint32_t size = 0;
    std::vector<Segment> writable;  // exactly `size` bytes
  };

  void on_notify(unsigned) override { process(); }
  void on_live() override { process(); }
  void on_reset() override { request_.reset(); }
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  void process();

  EntropyHost& host_;
  uint64_t next_ordinal_ = 0;
  std::optional<Request> request_;
  Chain chain_;  // reused
};

}  // namespace hypertwin::devices
