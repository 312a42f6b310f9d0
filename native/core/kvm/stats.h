// Binary statistics of a VM or vCPU (KVM_GET_STATS_FD, Documentation/virt/kvm/api.rst 4.133).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"

namespace hypertwin::kvm {

struct Stat {
  std::string name;
  uint32_t type = 0;     // KVM_STATS_TYPE_*
  uint32_t unit = 0;     // KVM_STATS_UNIT_*
  uint32_t base = 0;     // KVM_STATS_BASE_*
  int16_t exponent = 0;  // the value counts units of base^exponent
  uint32_t bucket_size = 0;
  std::vector<uint64_t> values;
};

class Stats {
 public:
  // Reads header and descriptors once; throws Error("EPROTO") when they do not hold together.
  explicit Stats(Fd fd);
  const std::string& id() const { return id_; }
  // Reads the values now.
  std::vector<Stat> read() const;

 private:
  struct Entry {
    Stat stat;
    uint64_t offset;
    uint16_t size;
  };
  Fd fd_;
  std::string id_;
  std::vector<Entry> entries_;
  uint64_t data_offset_ = 0;
  uint64_t data_size_ = 0;
};

}  // namespace hypertwin::kvm
