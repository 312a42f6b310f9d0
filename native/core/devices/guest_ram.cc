#include "devices/guest_ram.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace hypertwin::devices {

namespace {
size_t words_for(uint64_t bytes) { return static_cast<size_t>((bytes / kPageSize + 63) / 64); }
}  // namespace

GuestRam::GuestRam(std::vector<Region> regions) : regions_(std::move(regions)) {
  std::sort(regions_.begin(), regions_.end(),
            [](const Region& a, const Region& b) { return a.guest_address < b.guest_address; });
  for (size_t i = 0; i < regions_.size(); ++i) {
    const Region& region = regions_[i];
    if (region.size == 0 || region.size % kPageSize || region.guest_address % kPageSize ||
        region.guest_address + region.size < region.guest_address)
      throw Error("EALIGN", "a RAM region must be whole 4 KiB pages");
    if (i > 0 && regions_[i - 1].guest_address + regions_[i - 1].size > region.guest_address)
      throw Error("EOVERLAP", "two RAM regions overlap");
    written_.push_back(std::make_unique<std::atomic<uint64_t>[]>(words_for(region.size)));
  }
}

bool GuestRam::contains(uint64_t address, uint64_t size) const {
  uint64_t end = address + size;
  if (end < address) return false;
  for (const Region& region : regions_) {
    if (address == end || address < region.guest_address) break;
    if (address - region.guest_address < region.size)
      address = std::min(end, region.guest_address + region.size);
  }
  return address == end;
}

uint8_t* GuestRam::translate(uint64_t address, uint64_t size) const {
  for (const Region& region : regions_) {
    if (address < region.guest_address) return nullptr;
    uint64_t offset = address - region.guest_address;
    if (offset < region.size) return size <= region.size - offset ? region.host + offset : nullptr;
  }
  return nullptr;
}

bool GuestRam::read(uint64_t address, std::span<uint8_t> into) const {
  if (const uint8_t* from = translate(address, into.size())) {
    std::memcpy(into.data(), from, into.size());
    return true;
  }
  if (!contains(address, into.size())) return false;
  for (const Region& region : regions_) {
    if (into.empty()) break;
    if (address < region.guest_address || address - region.guest_address >= region.size) continue;
    uint64_t offset = address - region.guest_address;
    size_t n = static_cast<size_t>(std::min<uint64_t>(into.size(), region.size - offset));
    std::memcpy(into.data(), region.host + offset, n);
    into = into.subspan(n);
    address += n;
  }
  return true;
}

bool GuestRam::write(uint64_t address, std::span<const uint8_t> from) {
  if (!contains(address, from.size())) return false;
  const uint64_t start = address;
  const uint64_t size = from.size();
  for (const Region& region : regions_) {
    if (from.empty()) break;
    if (address < region.guest_address || address - region.guest_address >= region.size) continue;
    uint64_t offset = address - region.guest_address;
    size_t n = static_cast<size_t>(std::min<uint64_t>(from.size(), region.size - offset));
    std::memcpy(region.host + offset, from.data(), n);
    from = from.subspan(n);
    address += n;
  }
  // After the bytes: a harvest in between would otherwise take the mark and miss the data.
  mark_written(start, size);
  return true;
}

void GuestRam::mark_written(uint64_t address, uint64_t size) {
  if (size == 0) return;
  for (size_t i = 0; i < regions_.size(); ++i) {
    const Region& region = regions_[i];
    uint64_t begin = std::max(address, region.guest_address);
    uint64_t end = std::min(address + size, region.guest_address + region.size);
    if (begin >= end) continue;
    for (uint64_t page = (begin - region.guest_address) / kPageSize;
         page <= (end - 1 - region.guest_address) / kPageSize; ++page)
      written_[i][page / 64].fetch_or(uint64_t{1} << (page % 64), std::memory_order_release);
  }
}

uint64_t GuestRam::size() const {
  uint64_t total = 0;
  for (const Region& region : regions_) total += region.size;
  return total;
}

void GuestRam::watch() {
  std::lock_guard lock(mutex_);
  if (watchers_ == 0)
    for (OtherWriter* writer : writers_) writer->set_log(true);
  ++watchers_;
}

void GuestRam::unwatch() {
  std::lock_guard lock(mutex_);
  if (--watchers_ > 0) return;
  for (OtherWriter* writer : writers_) writer->set_log(false);
}

void GuestRam::add_writer(OtherWriter& writer) {
  std::lock_guard lock(mutex_);
  if (watchers_ > 0) writer.set_log(true);
  writers_.push_back(&writer);
}

void GuestRam::remove_writer(OtherWriter& writer) {
  std::lock_guard lock(mutex_);
  std::erase(writers_, &writer);
}

void GuestRam::take_written(size_t index, std::span<uint64_t> bitmap) {
  {
    std::lock_guard lock(mutex_);
    for (OtherWriter* writer : writers_) writer->mark_written();
  }
  size_t words = words_for(regions_.at(index).size);
  for (size_t w = 0; w < words && w < bitmap.size(); ++w)
    if (written_[index][w].load(std::memory_order_relaxed))
      bitmap[w] |= written_[index][w].exchange(0, std::memory_order_acq_rel);
}

}  // namespace hypertwin::devices
