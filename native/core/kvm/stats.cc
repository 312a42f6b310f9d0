// Reads the statistics file: header, id, descriptors, then values on demand.
#include "kvm/stats.h"

#include <unistd.h>
#include "kvm/linux_kvm.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace hypertwin::kvm {
namespace {

// Far above what any kernel offers (some 60); keeps a broken header from asking for gigabytes.
constexpr uint32_t kMaxDescriptors = 65536;
constexpr uint32_t kMaxNameSize = 4096;

void read_all(int fd, void* into, size_t size, uint64_t offset) {
  auto* at = static_cast<uint8_t*>(into);
  while (size > 0) {
    ssize_t got = ::pread(fd, at, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("pread", "reading KVM statistics");
    if (got == 0) throw Error("EPROTO", "KVM statistics end before their header says");
    at += got;
    offset += static_cast<uint64_t>(got);
    size -= static_cast<size_t>(got);
  }
}

}  // namespace

Stats::Stats(Fd fd) : fd_(std::move(fd)) {
  kvm_stats_header header;
  read_all(fd_.get(), &header, sizeof header, 0);
  if (header.num_desc > kMaxDescriptors || header.name_size == 0 || header.name_size > kMaxNameSize)
    throw Error("EPROTO", "KVM statistics with an unknown header");
  auto text = [](const uint8_t* from, size_t limit) {
    return std::string(reinterpret_cast<const char*>(from),
                       ::strnlen(reinterpret_cast<const char*>(from), limit));
  };
  std::vector<uint8_t> name(header.name_size);
  read_all(fd_.get(), name.data(), name.size(), header.id_offset);
  id_ = text(name.data(), name.size());
  size_t stride = sizeof(kvm_stats_desc) + header.name_size;
  std::vector<uint8_t> descriptors(stride * header.num_desc);
  read_all(fd_.get(), descriptors.data(), descriptors.size(), header.desc_offset);
  data_offset_ = header.data_offset;
  for (uint32_t i = 0; i < header.num_desc; ++i) {
    kvm_stats_desc desc;
    const uint8_t* at = descriptors.data() + i * stride;
    std::memcpy(&desc, at, sizeof desc);
    Entry entry;
    entry.stat.name = text(at + sizeof desc, header.name_size);
    entry.stat.type = desc.flags & KVM_STATS_TYPE_MASK;
    entry.stat.unit = desc.flags & KVM_STATS_UNIT_MASK;
    entry.stat.base = desc.flags & KVM_STATS_BASE_MASK;
    entry.stat.exponent = desc.exponent;
    entry.stat.bucket_size = desc.bucket_size;
    entry.offset = desc.offset;
    entry.size = desc.size;
    if (desc.offset > (1u << 24))
      throw Error("EPROTO", "KVM statistic " + entry.stat.name + " lies too far away");
    data_size_ = std::max<uint64_t>(data_size_, entry.offset + uint64_t{8} * entry.size);
    entries_.push_back(std::move(entry));
  }
}

std::vector<Stat> Stats::read() const {
  std::vector<uint8_t> data(data_size_);
  read_all(fd_.get(), data.data(), data.size(), data_offset_);
  std::vector<Stat> out;
  out.reserve(entries_.size());
  for (const Entry& entry : entries_) {
    Stat stat = entry.stat;
    stat.values.resize(entry.size);
    if (entry.size) std::memcpy(stat.values.data(), data.data() + entry.offset, size_t{8} * entry.size);
    out.push_back(std::move(stat));
  }
  return out;
}

}  // namespace hypertwin::kvm
