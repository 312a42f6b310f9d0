// Five queues: pages given up, pages taken back, statistics, hints of free pages, reports of free pages.
#include "devices/virtio_balloon.h"

#include <algorithm>

#include "base/error.h"
#include "devices/state.h"

namespace hypertwin::devices {

namespace {
constexpr unsigned kInflate = 0, kDeflate = 1, kStats = 2, kHints = 3, kReports = 4, kQueues = 5;
constexpr uint64_t kStatsQueue = 1 << 1, kDeflateOnOom = 1 << 2, kFreePageHint = 1 << 3, kReporting = 1 << 5;
constexpr uint32_t kTargetAt = 0, kActualAt = 4, kCommandAt = 8;
// Values of the command; what is greater names a round of hints.
constexpr uint32_t kStop = 0, kDone = 1;
constexpr size_t kStatSize = 10;  // tag (16 bits), value (64 bits)
}  // namespace

VirtioBalloon::VirtioBalloon(BalloonHost& host, uint32_t id, std::string name, GuestRam& ram)
    : VirtioDevice(id, std::move(name), ram, kQueues,
                   kStatsQueue | kDeflateOnOom | kFreePageHint | kReporting),
      host_(host) {}

uint32_t VirtioBalloon::target() const { return get_le<uint32_t>(&config_[kTargetAt]); }
uint32_t VirtioBalloon::actual() const { return get_le<uint32_t>(&config_[kActualAt]); }

void VirtioBalloon::set_target(uint32_t pages) {
  if (pages > ram_.size() / kPage)
    throw Error("ERANGE", "a balloon of " + std::to_string(pages) +
                              " pages is larger than the guest's memory of " +
                              std::to_string(ram_.size() / kPage));
  if (pages == target()) return;
  put_le(&config_[kTargetAt], pages);
  config_changed();
}

void VirtioBalloon::config_write(uint32_t offset, unsigned size, uint32_t value) {
  for (unsigned i = 0; i < size && i < 4; ++i)
    if (offset + i >= kActualAt && offset + i < kCommandAt)
      config_[offset + i] = static_cast<uint8_t>(value >> (8 * i));
}

template <class Use>
uint64_t VirtioBalloon::each_part(uint64_t address, uint64_t size, Use&& use) const {
  const uint64_t first = (address + kPage - 1) / kPage * kPage;
  const uint64_t end = (address + size) / kPage * kPage;
  uint64_t pages = 0;
  for (const GuestRam::Region& region : ram_.regions()) {
    const uint64_t from = std::max(first, region.guest_address);
    const uint64_t to = std::min(end, region.guest_address + region.size) / kPage * kPage;
    if (from >= to) continue;
    use(from, to - from);
    pages += (to - from) / kPage;
  }
  return pages;
}

void VirtioBalloon::on_live() {
  for (unsigned queue = 0; queue < kQueues; ++queue) on_notify(queue);
}

void VirtioBalloon::on_notify(unsigned queue) {
  if (queue == kStats) return take_stats();
  while (live()) {
    VirtQueue::Pop pop = queues_[queue].pop(ram_, chain_);
    if (pop == VirtQueue::Pop::kEmpty) break;
    if (pop == VirtQueue::Pop::kBroken || !take(queue, chain_)) {
      break_device();
      break;
    }
    queues_[queue].push(ram_, chain_.head, 0);
  }
  publish(queue);
}

// False when the buffer breaks the rules.
bool VirtioBalloon::take(unsigned queue, const Chain& chain) {
  if (queue == kHints) return take_hint(chain);
  if (queue != kReports) return take_page_list(queue, chain);
  if (!chain.readable.empty()) return false;
  for (const Segment& segment : chain.writable)
    counters_.reported += each_part(segment.address, segment.size, [&](uint64_t address, uint64_t size) {
      host_.discard(id(), address, size);
    });
  return true;
}

bool VirtioBalloon::take_page_list(unsigned queue, const Chain& chain) {
  if (!chain.writable.empty() || chain.readable_bytes % 4 || chain.readable_bytes > kMaxPageList)
    return false;
  scratch_.resize(static_cast<size_t>(chain.readable_bytes));
  copy_from(ram_, chain.readable, 0, scratch_);
  pages_.clear();
  for (size_t at = 0; at < scratch_.size(); at += 4) {
    const uint32_t page = get_le<uint32_t>(&scratch_[at]);
    if (ram_.contains(uint64_t{page} * kPage, kPage))
      pages_.push_back(page);
    else
      ++counters_.refused;
  }
  (queue == kInflate ? counters_.inflated : counters_.deflated) += pages_.size();
  if (queue == kDeflate) return true;  // the pages are there, whatever they hold
  std::sort(pages_.begin(), pages_.end());
  for (size_t i = 0; i < pages_.size();) {
    const uint32_t first = pages_[i];
    uint32_t last = first;
    while (++i < pages_.size() && pages_[i] - last <= 1) last = pages_[i];
    each_part(uint64_t{first} * kPage, (uint64_t{last} - first + 1) * kPage,
              [&](uint64_t address, uint64_t size) { host_.discard(id(), address, size); });
  }
  return true;
}

void VirtioBalloon::take_stats() {
  // The driver's buffer stays with us until new statistics are wanted (5.5.6.3).
  if (stats_head_ || !live()) return;
  VirtQueue::Pop pop = queues_[kStats].pop(ram_, chain_);
  if (pop == VirtQueue::Pop::kEmpty) return;
  if (pop == VirtQueue::Pop::kBroken || !chain_.writable.empty()) return break_device();
  stats_head_ = chain_.head;
  std::array<uint8_t, kStatSize> stat;
  stats_ = {};
  // What a later driver may add is left out; a known tag comes once.
  for (size_t i = 0; i < 4 * kMaxStats; ++i) {
    if (copy_from(ram_, chain_.readable, i * kStatSize, stat) != kStatSize) break;
    const uint16_t tag = get_le<uint16_t>(&stat[0]);
    if (tag < kMaxStats) stats_[tag] = get_le<uint64_t>(&stat[2]);
  }
  host_.balloon_stats(id());
}

bool VirtioBalloon::request_stats() {
  if (!stats_head_ || !live()) return false;
  queues_[kStats].push(ram_, *stats_head_, 0);
  stats_head_.reset();
  publish(kStats);
  take_stats();
  return true;
}

void VirtioBalloon::set_command(uint32_t value) {
  if (get_le<uint32_t>(&config_[kCommandAt]) == value) return;
  put_le(&config_[kCommandAt], value);
  config_changed();
}

uint32_t VirtioBalloon::start_hinting() {
  if (!live() || !(negotiated() & kFreePageHint)) return 0;
  end_hints();
  last_command_ = last_command_ < kDone || last_command_ == UINT32_MAX ? kDone + 1 : last_command_ + 1;
  command_ = last_command_;
  answering_ = false;
  set_command(command_);
  return command_;
}

void VirtioBalloon::finish_hinting() {
  end_hints();
  set_command(kDone);
}

void VirtioBalloon::end_hints() {
  if (command_ == 0) return;
  const uint32_t ended = command_;
  command_ = 0;
  answering_ = false;
  host_.hints_ended(id(), ended);
}

// Readable: the number of the command that what follows belongs to, or the end. Writable: free pages.
bool VirtioBalloon::take_hint(const Chain& chain) {
  if (chain.readable_bytes != 0) {
    std::array<uint8_t, 4> bytes;
    if (chain.readable_bytes != bytes.size() || copy_from(ram_, chain.readable, 0, bytes) != bytes.size())
      return false;
    const uint32_t command = get_le<uint32_t>(bytes.data());
    if (command == kStop) {
      if (answering_) end_hints();
    } else {
      // Hints for a command that is no longer wanted do not count.
      answering_ = command == command_;
    }
  }
  if (!answering_) return true;
  for (const Segment& segment : chain.writable)
    counters_.hinted += each_part(segment.address, segment.size, [&](uint64_t address, uint64_t size) {
      host_.free_hint(id(), command_, address, size);
    });
  return true;
}

void VirtioBalloon::on_reset() {
  put_le<uint32_t>(&config_[kActualAt], 0);
  put_le(&config_[kCommandAt], kStop);
  end_hints();
  stats_head_.reset();
  stats_ = {};
}

void VirtioBalloon::save_state(ByteWriter& out) const {
  out.raw(config_);
  out.u32(last_command_);
  out.u32(command_);
  out.u8(answering_);
  out.u8(stats_head_.has_value());
  if (stats_head_) out.u16(*stats_head_);
  for (const auto& stat : stats_) {
    out.u8(stat.has_value());
    if (stat) out.u64(*stat);
  }
  for (uint64_t count :
       {counters_.inflated, counters_.deflated, counters_.reported, counters_.hinted, counters_.refused})
    out.u64(count);
}

void VirtioBalloon::load_state(ByteReader& in) {
  std::ranges::copy(in.raw(config_.size()), config_.begin());
  if (target() > ram_.size() / kPage) in.corrupt("a balloon larger than the memory");
  last_command_ = in.u32();
  command_ = in.u32();
  answering_ = load_flag(in);
  const uint32_t shown = get_le<uint32_t>(&config_[kCommandAt]);
  // The driver sees the command under way, or that none is.
  if (command_ != 0 ? command_ != last_command_ || command_ <= kDone || shown != command_
                    : answering_ || (shown > kDone && shown != last_command_))
    in.corrupt("a command for hints is out of range");
  stats_head_.reset();
  if (load_flag(in)) stats_head_ = in.u16();
  if (stats_head_ && *stats_head_ >= VirtQueue::kMaxSize) in.corrupt("a buffer is out of range");
  for (auto& stat : stats_) {
    stat.reset();
    if (load_flag(in)) stat = in.u64();
  }
  for (uint64_t* count :
       {&counters_.inflated, &counters_.deflated, &counters_.reported, &counters_.hinted, &counters_.refused})
    *count = in.u64();
}

}  // namespace hypertwin::devices
