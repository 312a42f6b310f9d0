#include "migrate/codec.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#if defined(HYPERTWIN_LZ4)
#include <lz4.h>
#endif

namespace hypertwin::migrate {

namespace {
constexpr size_t kWord = 8;
constexpr size_t kWords = kPage / kWord;
// Compressed at least this much, or it is not worth the other side's work.
constexpr size_t kMostCompressed = kPage - kPage / 8;
// A difference so small is taken without looking further.
constexpr size_t kSmallDelta = 512;
// After so many pages in a row that do not compress, only one in kProbe is tried.
constexpr unsigned kGiveUp = 16, kProbe = 16;

uint64_t load(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, kWord);
  return word;
}

// The entry's number and its coding, as both readers check them.
void read_place(ByteReader& in, uint64_t total, uint32_t features, uint64_t& at, Entry& entry) {
  const uint8_t coding = in.u8();
  if (coding > static_cast<uint8_t>(Coding::kDelta)) in.corrupt("an unknown coding");
  entry.coding = static_cast<Coding>(coding);
  if (entry.coding == Coding::kLz4 && !(features & kFeatureLz4)) in.corrupt("LZ4 was not agreed on");
  if (entry.coding == Coding::kDelta && !(features & kFeatureDelta))
    in.corrupt("differences were not agreed on");
  const uint64_t gap = in.varint();
  if (at >= total || gap >= total - at) in.corrupt("a number beyond the end");
  entry.first = at + gap;
  entry.count = 1;
  entry.bytes = {};
  if (entry.coding == Coding::kZero) {
    entry.count = in.varint();
    if (entry.count == 0 || entry.count > total - entry.first) in.corrupt("a run beyond the end");
  }
  at = entry.first + entry.count;
}

void read_content(ByteReader& in, size_t whole, Entry& entry) {
  if (entry.coding == Coding::kZero) return;
  if (entry.coding == Coding::kRaw) {
    entry.bytes = in.raw(whole);
    return;
  }
  entry.bytes = in.blob(whole - 1);
  if (entry.bytes.empty()) in.corrupt("an empty content");
}
}  // namespace

uint32_t spoken_features() {
#if defined(HYPERTWIN_LZ4)
  return kFeatureLz4 | kFeatureDelta;
#else
  return kFeatureDelta;
#endif
}

bool is_zero(std::span<const uint8_t> bytes) {
  if (bytes.size() < kWord)
    return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
  return load(bytes.data()) == 0 &&
         std::memcmp(bytes.data(), bytes.data() + kWord, bytes.size() - kWord) == 0;
}

__attribute__((no_sanitize("thread"))) void copy_live(std::span<uint8_t> into, const uint8_t* from) {
  for (size_t at = 0; at + kWord <= into.size(); at += kWord) {
    const uint64_t word = *reinterpret_cast<const volatile uint64_t*>(from + at);
    std::memcpy(into.data() + at, &word, kWord);
  }
}

size_t compress([[maybe_unused]] std::span<const uint8_t> from, [[maybe_unused]] std::span<uint8_t> into) {
#if defined(HYPERTWIN_LZ4)
  int size =
      LZ4_compress_fast(reinterpret_cast<const char*>(from.data()), reinterpret_cast<char*>(into.data()),
                        static_cast<int>(from.size()), static_cast<int>(into.size()), 1);
  return size > 0 ? static_cast<size_t>(size) : 0;
#else
  return 0;
#endif
}

bool decompress([[maybe_unused]] std::span<const uint8_t> from, [[maybe_unused]] std::span<uint8_t> into) {
#if defined(HYPERTWIN_LZ4)
  return LZ4_decompress_safe(reinterpret_cast<const char*>(from.data()), reinterpret_cast<char*>(into.data()),
                             static_cast<int>(from.size()),
                             static_cast<int>(into.size())) == static_cast<int>(into.size());
#else
  return false;
#endif
}

size_t encode_delta(std::span<const uint8_t, kPage> base, std::span<const uint8_t, kPage> page,
                    std::span<uint8_t> into) {
  auto difference = [&](size_t word) {
    return load(base.data() + word * kWord) ^ load(page.data() + word * kWord);
  };
  size_t used = 0;
  for (size_t at = 0; at < kWords;) {
    size_t changed = at;
    while (changed < kWords && difference(changed) == 0) ++changed;
    if (changed == kWords) break;
    size_t end = changed + 1;
    while (end < kWords && difference(end) != 0) ++end;
    // Two lengths below 512 take two bytes each at most.
    if (used + 4 + (end - changed) * kWord > into.size()) return 0;
    uint8_t* out = put_varint(into.data() + used, changed - at);
    out = put_varint(out, end - changed);
    for (size_t word = changed; word < end; ++word) {
      const uint64_t value = difference(word);
      std::memcpy(out, &value, kWord);
      out += kWord;
    }
    used = static_cast<size_t>(out - into.data());
    at = end;
  }
  return used;
}

void apply_delta(std::span<const uint8_t> delta, std::span<uint8_t, kPage> page) {
  ByteReader in(delta, "a page's difference");
  size_t at = 0;
  while (!in.done()) {
    const uint64_t equal = in.varint();
    const uint64_t changed = in.varint();
    if (equal > kWords - at || changed == 0 || changed > kWords - at - equal)
      in.corrupt("words beyond the page's end");
    at += equal;
    auto words = in.raw(changed * kWord);
    for (size_t i = 0; i < words.size(); ++i) page[at * kWord + i] ^= words[i];
    at += changed;
  }
}

bool PageReader::next(Entry& entry) {
  if (in_.done()) return false;
  read_place(in_, page_count_, features_, at_, entry);
  read_content(in_, kPage, entry);
  return true;
}

size_t block_bytes(uint64_t index, uint64_t disk_size) {
  return static_cast<size_t>(std::min<uint64_t>(kBlock, disk_size - index * kBlock));
}

BlockReader::BlockReader(std::span<const uint8_t> payload, std::span<const uint64_t> sizes, uint32_t features)
    : in_(payload, "a frame of blocks"), features_(features & ~kFeatureDelta) {
  disk_ = in_.u8();
  if (disk_ >= sizes.size()) in_.corrupt("a disk that the machine does not have");
  size_ = sizes[disk_];
}

bool BlockReader::next(Entry& entry) {
  if (in_.done()) return false;
  read_place(in_, (size_ + kBlock - 1) / kBlock, features_, at_, entry);
  read_content(in_, block_bytes(entry.first, size_), entry);
  return true;
}

void decode(const Entry& entry, std::span<uint8_t> into) {
  switch (entry.coding) {
    case Coding::kZero:
      std::fill(into.begin(), into.end(), uint8_t{0});
      return;
    case Coding::kRaw:
      if (entry.bytes.size() != into.size()) break;
      std::memcpy(into.data(), entry.bytes.data(), into.size());
      return;
    case Coding::kLz4:
      if (!decompress(entry.bytes, into)) break;
      return;
    case Coding::kDelta:
      if (into.size() != kPage) break;
      apply_delta(entry.bytes, into.first<kPage>());
      return;
  }
  throw Error("CORRUPT",
              "the content of page or block " + std::to_string(entry.first) + " cannot be decoded");
}

PageEncoder::PageEncoder(const Options& options)
    : options_(options), most_copies_(options.features & kFeatureDelta ? options.cache_bytes / kPage : 0) {}

void PageEncoder::put(Coding coding, uint64_t page) {
  uint8_t head[1 + kMaxVarintBytes];
  head[0] = static_cast<uint8_t>(coding);
  uint8_t* end = put_varint(head + 1, page - at_);
  out_.insert(out_.end(), head, end);
  at_ = page + 1;
}

void PageEncoder::end_zeros() {
  if (zeros_ == 0) return;
  put(Coding::kZero, zero_first_);
  uint8_t count[kMaxVarintBytes];
  uint8_t* end = put_varint(count, zeros_);
  out_.insert(out_.end(), count, end);
  at_ = zero_first_ + zeros_;
  zeros_ = 0;
}

bool PageEncoder::worth_compressing() {
  return (options_.features & kFeatureLz4) && (failures_ < kGiveUp || failures_ % kProbe == 0);
}

void PageEncoder::add(uint64_t page, std::span<const uint8_t, kPage> bytes) {
  auto known = cache_.find(page);
  if (is_zero(bytes)) {
    ++counts_.zero;
    if (known != cache_.end()) {
      copies_.erase(known->second);
      cache_.erase(known);
    }
    if (zeros_ && zero_first_ + zeros_ == page) {
      ++zeros_;
    } else {
      end_zeros();
      zero_first_ = page;
      zeros_ = 1;
    }
    return;
  }
  // Written, but with what was there: the other side has it.
  if (known != cache_.end() && std::memcmp(known->second->bytes->data(), bytes.data(), kPage) == 0) {
    known->second->round = round_;
    copies_.splice(copies_.begin(), copies_, known->second);
    return;
  }
  end_zeros();
  std::array<uint8_t, kMostCompressed> delta, packed;
  size_t delta_size = 0, packed_size = 0;
  if (known != cache_.end()) delta_size = encode_delta(*known->second->bytes, bytes, delta);
  if (delta_size == 0 || delta_size > kSmallDelta) {
    if (worth_compressing()) {
      packed_size = compress(bytes, packed);
      failures_ = packed_size ? 0 : failures_ + 1;
    } else if (options_.features & kFeatureLz4) {
      ++failures_;
    }
  }
  auto content = [&](Coding coding, std::span<const uint8_t> from) {
    put(coding, page);
    if (coding != Coding::kRaw) {
      uint8_t size[kMaxVarintBytes];
      uint8_t* end = put_varint(size, from.size());
      out_.insert(out_.end(), size, end);
    }
    out_.insert(out_.end(), from.begin(), from.end());
  };
  if (delta_size && (packed_size == 0 || delta_size <= packed_size)) {
    ++counts_.delta;
    content(Coding::kDelta, std::span(delta).first(delta_size));
  } else if (packed_size) {
    ++counts_.compressed;
    content(Coding::kLz4, std::span(packed).first(packed_size));
  } else {
    ++counts_.raw;
    content(Coding::kRaw, bytes);
  }
  keep(page, bytes);
}

void PageEncoder::keep(uint64_t page, std::span<const uint8_t, kPage> bytes) {
  if (most_copies_ == 0) return;
  if (auto known = cache_.find(page); known != cache_.end()) {
    copies_.splice(copies_.begin(), copies_, known->second);
  } else if (copies_.size() < most_copies_) {
    // Where not all of memory fits, the first round would fill the cache with pages that never change.
    if (round_ <= 1 && options_.page_count > most_copies_) return;
    copies_.push_front({page, round_, std::make_unique<std::array<uint8_t, kPage>>()});
    cache_[page] = copies_.begin();
  } else {
    // What comes by once a round must not push out what will come by too: nothing would ever be found.
    if (copies_.back().round + 1 >= round_) return;
    cache_.erase(copies_.back().page);
    copies_.splice(copies_.begin(), copies_, std::prev(copies_.end()));
    copies_.front().page = page;
    cache_[page] = copies_.begin();
  }
  copies_.front().round = round_;
  std::memcpy(copies_.front().bytes->data(), bytes.data(), kPage);
}

std::span<const uint8_t> PageEncoder::payload() {
  end_zeros();
  return out_;
}

void PageEncoder::clear() {
  out_.clear();
  at_ = 0;
}

}  // namespace hypertwin::migrate
