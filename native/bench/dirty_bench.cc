// The cost of a harvest against the bare ioctls on the same VM, in turns (ABAB...), for each mode; and of the
// bitmap scans against reading and copying the same bytes. With --quick: 64 MiB only.
#include <sys/ioctl.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench.h"
#include "dirty/tiny_guest.h"
#include "dirty/tracker.h"

using namespace hypertwin;
using bench::now;
using namespace hypertwin::dirty;

namespace {

constexpr uint64_t kPage = devices::kPageSize;
constexpr uint32_t kRingBytes = 1 << 20;  // 65,536 entries: the most there can be

void print(const std::string& name, double value, const char* unit, double baseline) {
  bench::print(name, value, unit, baseline, value / baseline);
}

// What a program without hypertwin would do.
class Bare {
 public:
  Bare(const Target& target, Mode mode)
      : target_(target), mode_(mode), pages_(target.vm->slot(1)->size / kPage) {
    bitmap_.resize(words_for(pages_));
    if (mode == Mode::kRing) ring_.emplace_back(target.vcpus.at(0));
  }
  void harvest() {
    if (mode_ == Mode::kRing) {
      std::fill(bitmap_.begin(), bitmap_.end(), 0);
      ring_[0].harvest([&](uint32_t slot, uint64_t page) {
        if (slot == 1 && page < pages_) bitmap_[page / 64] |= uint64_t{1} << (page % 64);
      });
      ::ioctl(target_.vm->fd(), KVM_RESET_DIRTY_RINGS, 0);
      return;
    }
    kvm_dirty_log log{};
    log.slot = 1;
    log.dirty_bitmap = bitmap_.data();
    if (::ioctl(target_.vm->fd(), KVM_GET_DIRTY_LOG, &log) != 0) throw_errno("KVM_GET_DIRTY_LOG", "bench");
    if (mode_ != Mode::kManual) return;
    kvm_clear_dirty_log clear{};
    clear.slot = 1;
    clear.num_pages = static_cast<uint32_t>(pages_);
    clear.dirty_bitmap = bitmap_.data();
    if (::ioctl(target_.vm->fd(), KVM_CLEAR_DIRTY_LOG, &clear) != 0)
      throw_errno("KVM_CLEAR_DIRTY_LOG", "bench");
  }

 private:
  Target target_;
  Mode mode_;
  uint64_t pages_;
  std::vector<uint64_t> bitmap_;
  std::vector<kvm::DirtyRing> ring_;
};

void harvests(const std::shared_ptr<kvm::System>& system, Mode mode, uint64_t size) {
  const std::string where = std::string(to_string(mode)) + "/" + std::to_string(size >> 20) + "MiB";
  TinyGuest guest(system, {.data_size = size, .ring_bytes = mode == Mode::kRing ? kRingBytes : 0});
  Target target = guest.target();
  target.ram = nullptr;
  Tracker tracker(target, {.mode = mode, .slots = {1}});
  tracker.start();
  Bare bare(target, mode);
  Harvest harvest;
  guest.fill(0, kPage, guest.data_pages(), 1);
  tracker.harvest(harvest);
  for (double share : {0.001, 0.01, 0.1, 1.0}) {
    uint64_t count =
        std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(guest.data_pages()) * share));
    uint64_t stride = guest.data_pages() / count;
    char percent[16];
    std::snprintf(percent, sizeof percent, "%g%%", share * 100);
    if (mode == Mode::kRing && count > kRingBytes / sizeof(kvm_dirty_gfn) - 64) {
      std::fprintf(stderr, "skipped: %s %s is more than the largest ring holds\n", where.c_str(), percent);
      continue;
    }
    size_t pairs = std::clamp<size_t>(200'000 / count, 3, 301);
    std::vector<double> ours, theirs;
    for (size_t i = 0; i < 2 * pairs; ++i) {
      guest.fill(0, stride * kPage, count, i);
      // Ours first in one pair, theirs in the next.
      bool our_turn = (i % 2 == 0) == (i / 2 % 2 == 0);
      double start = now();
      if (our_turn) {
        tracker.harvest(harvest);
      } else {
        bare.harvest();
      }
      (our_turn ? ours : theirs).push_back((now() - start) * 1e6);
      if (our_turn && harvest.pages != count)
        throw Error("BENCH", where + ": " + std::to_string(harvest.pages) + " pages harvested of " +
                                 std::to_string(count));
    }
    bench::Pairs both;
    for (size_t i = 0; i < pairs; ++i) both.add(ours[i], theirs[i]);
    both.print("dirty/harvest/" + where + "/" + percent, "us");
  }
}

template <class Run>
double best(Run run) {
  double least = 1e9;
  for (int i = 0; i < 30; ++i) {
    double start = now();
    run();
    least = std::min(least, now() - start);
  }
  return least * 1e6;
}

// 64 GiB in pages: 2 MiB of bits.
void scans() {
  std::vector<uint64_t> words(words_for((uint64_t{64} << 30) / kPage)), other(words.size());
  volatile uint64_t sink = 0;
  for (double share : {0.001, 0.1, 1.0}) {
    uint64_t state = 88172645463325252;
    std::fill(words.begin(), words.end(), 0);
    for (uint64_t& word : words)
      for (int bit = 0; bit < 64; ++bit) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (static_cast<double>(state >> 11) * 0x1p-53 < share) word |= uint64_t{1} << bit;
      }
    char percent[16];
    std::snprintf(percent, sizeof percent, "%g%%", share * 100);
    double read = best([&] {
      uint64_t sum = 0;
      for (uint64_t word : words) sum += word;
      sink = sum;
    });
    double copy = best([&] { std::memcpy(other.data(), words.data(), words.size() * 8); });
    double count = best([&] { sink = popcount(words); });
    print(std::string("dirty/scan64GiB/popcount-vs-read/") + percent, count, "us", read);
    double merged = best([&] { merge(other, words); });
    print(std::string("dirty/scan64GiB/merge-vs-memcpy/") + percent, merged, "us", copy);
    uint64_t pages = 0, runs = 0;
    double ranges = best([&] {
      pages = runs = 0;
      for (auto [first, length] : Ranges(words)) pages += length, ++runs;
    });
    if (pages != popcount(words)) throw Error("BENCH", "the ranges do not add up");
    print(std::string("dirty/scan64GiB/ranges-vs-read/") + percent + "/" + std::to_string(runs) + "runs",
          ranges, "us", read);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  try {
    scans();
    auto system = kvm::System::open();
    for (uint64_t size : {uint64_t{64} << 20, uint64_t{1} << 30}) {
      if (quick && size > uint64_t{64} << 20) continue;
      for (Mode mode : {Mode::kBitmap, Mode::kManual, Mode::kRing}) {
        if (mode == Mode::kRing && system->check_extension(KVM_CAP_DIRTY_LOG_RING) <= 0 &&
            system->check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) <= 0) {
          std::fprintf(stderr, "skipped: this kernel has no dirty ring\n");
          continue;
        }
        harvests(system, mode, size);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
    return 1;
  }
}
