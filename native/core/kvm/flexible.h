// The kernel's structures that end in an array of a length given at their head. Only for native/core/kvm.
#pragma once

#include <cstring>
#include <span>
#include <vector>

namespace hypertwin::kvm {

// Zeroed memory for a Header followed by `count` Entries, aligned for both.
template <typename Header, typename Entry>
class Flexible {
 public:
  explicit Flexible(size_t count)
      : words_((sizeof(Header) + count * sizeof(Entry) + sizeof(uint64_t) - 1) / sizeof(uint64_t)),
        count_(count) {}
  explicit Flexible(std::span<const Entry> entries) : Flexible(entries.size()) {
    if (!entries.empty()) std::memcpy(this->entries().data(), entries.data(), entries.size_bytes());
  }
  Header* header() { return reinterpret_cast<Header*>(words_.data()); }
  std::span<Entry> entries() {
    return {reinterpret_cast<Entry*>(reinterpret_cast<uint8_t*>(words_.data()) + sizeof(Header)), count_};
  }
  std::vector<Entry> take(size_t count) {
    auto all = entries();
    return {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count < count_ ? count : count_)};
  }

 private:
  std::vector<uint64_t> words_;
  size_t count_;
};

}  // namespace hypertwin::kvm
