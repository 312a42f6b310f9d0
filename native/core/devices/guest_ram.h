// Guest physical RAM as devices see it: bounds-checked copies that mark the pages they write. Guest
// addresses are hostile; a failed access is an ordinary result, never an exception.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace hypertwin::devices {

inline constexpr uint64_t kPageSize = 4096;

// Who writes guest RAM past GuestRam: the kernel, for this process.
class OtherWriter {
 public:
  virtual ~OtherWriter() = default;
  // While it is on, what is written is remembered.
  virtual void set_log(bool on) = 0;
  // Marks what was written since the last call.
  virtual void mark_written() = 0;
};

class GuestRam {
 public:
  struct Region {
    uint64_t guest_address = 0;
    uint64_t size = 0;
    uint8_t* host = nullptr;
    uint32_t slot = 0;
  };
  // Regions must not overlap; the host memory outlives the GuestRam.
  explicit GuestRam(std::vector<Region> regions);

  // False, with nothing copied, unless the whole range is RAM. A range may cross adjacent regions.
  [[nodiscard]] bool read(uint64_t address, std::span<uint8_t> into) const;
  [[nodiscard]] bool write(uint64_t address, std::span<const uint8_t> from);
  // An empty range is contained anywhere.
  bool contains(uint64_t address, uint64_t size) const;
  // Direct access to `size` bytes within one region; nullptr otherwise. A writer calls mark_written itself.
  uint8_t* translate(uint64_t address, uint64_t size) const;
  void mark_written(uint64_t address, uint64_t size);

  template <class T>
  [[nodiscard]] bool load(uint64_t address, T& value) const {
    return read(address, {reinterpret_cast<uint8_t*>(&value), sizeof(T)});
  }
  template <class T>
  [[nodiscard]] bool store(uint64_t address, const T& value) {
    return write(address, {reinterpret_cast<const uint8_t*>(&value), sizeof(T)});
  }

  const std::vector<Region>& regions() const { return regions_; }
  uint64_t size() const;

  // Pages written from this side since the last take, one bit a page of region `index`, OR-ed into `bitmap`
  // and cleared here. KVM's dirty log does not see these writes. Any thread.
  void take_written(size_t index, std::span<uint64_t> bitmap);
  // Somebody is going to take what was written, or not any more: each call of the one has one of the other.
  void watch();
  void unwatch();
  // It outlives the time until it is removed. Any thread.
  void add_writer(OtherWriter& writer);
  void remove_writer(OtherWriter& writer);

 private:
  std::vector<Region> regions_;
  std::vector<std::unique_ptr<std::atomic<uint64_t>[]>> written_;
  std::mutex mutex_;  // guards the following
  std::vector<OtherWriter*> writers_;
  unsigned watchers_ = 0;
};

}  // namespace hypertwin::devices
