// virtio-balloon (virtio 1.2, section 5.5): the guest gives pages up and takes them back, says how it uses
// its memory, and which pages are free. What may be forgotten is told to BalloonHost in whole 4 KiB pages of
// RAM.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio.h"

namespace hypertwin::devices {

// What a balloon tells the world. Ranges are whole pages within one region of RAM. It must not call back into
// the device.
class BalloonHost {
 public:
  virtual ~BalloonHost() = default;
  // The content of these pages is worth nothing until the guest writes them again: they may read as they were
  // or as zeros. A recorded machine's replay must make the same choice.
  virtual void discard(uint32_t device, uint64_t address, uint64_t size) = 0;
  // Pages were free when the guest answered `command` of start_hinting(): who sends memory need not send what
  // they held until now. A later write by the guest makes a page count again, as any write does.
  virtual void free_hint(uint32_t device, uint32_t command, uint64_t address, uint64_t size) = 0;
  // No more hints for `command` will come.
  virtual void hints_ended(uint32_t device, uint32_t command) = 0;
  // New statistics are there.
  virtual void balloon_stats(uint32_t device) = 0;
};

class VirtioBalloon final : public VirtioDevice {
 public:
  static constexpr uint32_t kPage = 4096;
  // Bytes of page numbers in one buffer, 4 a page; a longer one breaks the rules.
  static constexpr size_t kMaxPageList = 1u << 20;
  static constexpr size_t kMaxStats = 16;  // tags, from 0

  struct Counters {
    uint64_t inflated = 0;  // pages
    uint64_t deflated = 0;  // pages
    uint64_t reported = 0;  // pages of free page reporting
    uint64_t hinted = 0;    // pages of free page hinting
    uint64_t refused = 0;   // page numbers that are not RAM
  };

  // `id` names the device in BalloonHost's calls.
  VirtioBalloon(BalloonHost& host, uint32_t id, std::string name, GuestRam& ram);

  // How many pages the guest should give up. Throws Error("ERANGE") when there are fewer.
  void set_target(uint32_t pages);
  uint32_t target() const;
  // How many it has given up, by its own account.
  uint32_t actual() const;

  // Asks the guest for statistics. False when it cannot answer now (no driver, or still answering): its next
  // answer comes anyway.
  bool request_stats();
  // The last answer, by tag (virtio 1.2, 5.5.6.4); empty where the guest said nothing. Values are its own.
  const std::array<std::optional<uint64_t>, kMaxStats>& stats() const { return stats_; }

  // Asks the guest which pages are free; what it answers carries the command's number. 0 when it cannot be
  // asked. A command that is under way ends. The guest keeps the pages aside until finish_hinting().
  uint32_t start_hinting();
  // The guest shall send no more hints, and may use the pages again.
  void finish_hinting();
  // The command whose hints count now; 0 when none.
  uint32_t hinting() const { return command_; }

  const Counters& counters() const { return counters_; }

  uint16_t type() const override { return 5; }
  uint32_t class_code() const override { return 0x00ff00; }
  std::span<const uint8_t> config() const override { return config_; }
  void config_write(uint32_t offset, unsigned size, uint32_t value) override;

 private:
  void on_notify(unsigned queue) override;
  void on_live() override;
  void on_reset() override;
  void save_state(ByteWriter& out) const override;
  void load_state(ByteReader& in) override;
  bool take(unsigned queue, const Chain& chain);
  bool take_page_list(unsigned queue, const Chain& chain);
  bool take_hint(const Chain& chain);
  void take_stats();
  void set_command(uint32_t value);
  void end_hints();
  // Calls use(address, size) for the whole pages of a range, region by region, and returns how many.
  template <class Use>
  uint64_t each_part(uint64_t address, uint64_t size, Use&& use) const;

  BalloonHost& host_;
  std::array<uint8_t, 12> config_{};
  uint32_t last_command_ = 0;
  uint32_t command_ = 0;
  bool answering_ = false;  // the driver has begun to answer command_
  std::optional<uint16_t> stats_head_;
  std::array<std::optional<uint64_t>, kMaxStats> stats_;
  Counters counters_;
  Chain chain_;                   // reused
  std::vector<uint8_t> scratch_;  // reused
  std::vector<uint32_t> pages_;   // reused
};

}  // namespace hypertwin::devices
