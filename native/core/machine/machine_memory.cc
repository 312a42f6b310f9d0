#include "machine/machine_memory.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/event.h"
#include "dirty/bitmap.h"

namespace hypertwin::machine {

namespace {

constexpr uint64_t kPage = devices::kPageSize;
// Pages that are told of before they are looked at.
constexpr uint64_t kPiece = 256;

// The first word decides nearly always. The guest may be writing meanwhile: who scans a running one's memory
// looks again at what it wrote.
__attribute__((no_sanitize("thread"))) bool is_zero(const uint8_t* page) {
  const auto* words = reinterpret_cast<const volatile uint64_t*>(page);
  for (uint64_t i = 0; i < kPage / sizeof(uint64_t); ++i)
    if (words[i] != 0) return false;
  return true;
}

// Calls with [first, pages) of each run of pages of [first, last) that are all zero, or all not.
template <class Run>
void for_each_kind(const uint8_t* memory, uint64_t first, uint64_t last, const Run& run) {
  while (first < last) {
    const bool zero = is_zero(memory + first * kPage);
    uint64_t stop = first + 1;
    while (stop < last && is_zero(memory + stop * kPage) == zero) ++stop;
    run(first, stop - first, zero);
    first = stop;
  }
}

// Otherwise a child, of this process or of one that merely begins a program, would share the pages while it
// is there: what the kernel reads into one of them then could end in the child's.
void keep_from_children(std::span<uint8_t> memory) {
  if (::madvise(memory.data(), memory.size(), MADV_DONTFORK) != 0)
    throw_errno("madvise", "for the guest's memory");
}

}  // namespace

// Looks after a machine that runs from a snapshot's file: checks the file behind it, and notices when the
// file loses bytes.
class OriginWatch {
 public:
  OriginWatch(const MachineMemory& memory, bool verify, Pager::OnFailure on_loss);
  ~OriginWatch();

 private:
  void main(const Pager::OnFailure& on_loss);
  const SnapshotChain chain_;
  const std::shared_ptr<kvm::GuestMemory> guest_;
  const bool verify_;
  std::atomic<bool> quit_{false};
  Fd quit_event_;
  std::thread thread_;
};

MachineMemory::MachineMemory(uint64_t size)
    : guest_(kvm::GuestMemory::allocate(size, {.transparent_huge_pages = true})) {
  keep_from_children({data(), guest_->size()});
}

MachineMemory::MachineMemory(SnapshotChain chain) : chain_(std::move(chain)) {
  const SnapshotFile& full = *chain_.back();
  Fd fd(::fcntl(full.fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd) throw_errno("fcntl", "for mapping the snapshot " + full.path());
  guest_ = kvm::GuestMemory::from_fd(std::move(fd), SnapshotFile::kMemoryOffset, full.memory_size(), true);
  keep_from_children({data(), guest_->size()});
  know(full);
}

void MachineMemory::know(const SnapshotFile& full) {
  const uint64_t words = dirty::words_for(size() / kPage);
  in_file_.resize(words);
  for (const auto& run : full.runs()) dirty::set_range(in_file_, run.first_page, run.pages);
  discarded_ = std::make_unique<std::atomic<uint64_t>[]>(words);
}

MachineMemory::MachineMemory(std::shared_ptr<const SnapshotFile> snapshot, std::shared_ptr<PageSource> source,
                             Pager::Options options)
    : guest_(kvm::GuestMemory::allocate(snapshot->memory_size(), {})) {
  keep_from_children({data(), guest_->size()});
  know(*snapshot);
  pager_ = std::make_unique<Pager>(std::span(data(), size()), in_file_, std::move(source), std::move(options),
                                   [this](const Error& error, bool settled) {
                                     Pager::OnFailure on_loss;
                                     {
                                       std::lock_guard lock(mutex_);
                                       on_loss = on_loss_;
                                     }
                                     if (on_loss) on_loss(error, settled);
                                   });
}

void MachineMemory::settle() {
  if (pager_) pager_->settle();
  if (chain_.empty()) return;
  // Copies of the file's pages go, and with them what was written.
  if (::madvise(data(), size(), MADV_DONTNEED) != 0) throw_errno("madvise", "for the guest's memory");
  for (auto file = std::next(chain_.rbegin()); file != chain_.rend(); ++file)
    for (const auto& run : (*file)->runs()) {
      const std::span<uint8_t> bytes(data() + run.first_page * kPage, run.pages * kPage);
      if (run.zero)
        std::memset(bytes.data(), 0, bytes.size());
      else
        (*file)->read(run, bytes);
    }
}

void MachineMemory::for_each_candidate(const Candidates& candidates) const {
  std::vector<uint64_t> bitmap = changed();
  if (!in_file_.empty()) dirty::merge(bitmap, in_file_);
  for (auto [first, count] : dirty::Ranges(bitmap)) candidates(first, first + count);
}

void MachineMemory::for_each_run(const std::function<void(uint64_t, uint64_t)>& run,
                                 const std::function<void(uint64_t, uint64_t)>& before) const {
  for_each_candidate([&](uint64_t first, uint64_t last) {
    const uint64_t most = before ? kPiece : last;
    for (uint64_t piece = first; piece < last; piece += most) {
      const uint64_t end = std::min(last, piece + most);
      if (before) before(piece, end - piece);
      for_each_kind(data(), piece, end, [&](uint64_t page, uint64_t pages, bool zero) {
        if (!zero) run(page, pages);
      });
    }
  });
  // Those that could not be had looked like zeros.
  check();
}

void MachineMemory::for_each_run_of(std::span<const uint64_t> bitmap,
                                    const std::function<void(uint64_t, uint64_t, bool)>& run) const {
  for (auto [first, count] : dirty::Ranges(bitmap)) for_each_kind(data(), first, first + count, run);
  check();
}

Digest128 MachineMemory::digest() const {
  Hasher hasher;
  for_each_run([&](uint64_t first, uint64_t pages) {
    for (uint64_t page = first; page < first + pages; ++page) {
      uint8_t number[8];
      put_le(number, page);
      hasher.update(number);
      hasher.update({data() + page * kPage, kPage});
    }
  });
  return hasher.digest();
}

// /proc/<pid>/pagemap, 8 bytes a page: a copy of ours is there (in memory or in swap), and is not the file's.
std::vector<uint64_t> MachineMemory::changed() const {
  constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62, kOfFile = uint64_t{1} << 61;
  const uint64_t pages = size() / kPage;
  std::vector<uint64_t> bitmap(dirty::words_for(pages));
  if (discarded_)
    for (size_t i = 0; i < bitmap.size(); ++i) bitmap[i] = discarded_[i].load(std::memory_order_acquire);
  Fd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  std::vector<uint64_t> entries(std::min<uint64_t>(pages, 64 * 1024));
  for (uint64_t page = 0; page < pages;) {
    const uint64_t part = std::min<uint64_t>(entries.size(), pages - page);
    const uint64_t at = (reinterpret_cast<uintptr_t>(data()) / kPage + page) * sizeof(uint64_t);
    const ssize_t n =
        pagemap ? ::pread(pagemap.get(), entries.data(), part * sizeof(uint64_t), static_cast<off_t>(at))
                : -1;
    if (n < static_cast<ssize_t>(sizeof(uint64_t))) {
      // This kernel does not tell: any can.
      dirty::set_range(bitmap, page, pages - page);
      break;
    }
    const uint64_t got = static_cast<uint64_t>(n) / sizeof(uint64_t);
    for (uint64_t i = 0; i < got; ++i)
      if ((entries[i] & (kPresent | kSwapped)) && !(entries[i] & kOfFile))
        dirty::set_range(bitmap, page + i, 1);
    page += got;
  }
  return bitmap;
}

void MachineMemory::discard(uint64_t offset, uint64_t size) {
  if (pager_) return pager_->discard(offset, size);
  if (chain_.empty()) {
    // Where the host cannot, the pages merely stay.
    [[maybe_unused]] const int result = ::madvise(data() + offset, size, MADV_DONTNEED);
    return;
  }
  // Not less, since each such hole costs the host a mapping, and a process has some 65,000.
  constexpr uint64_t kLeast = 1u << 20;
  for (uint64_t page = offset / kPage; page < (offset + size) / kPage; ++page)
    discarded_[page / 64].fetch_or(uint64_t{1} << (page % 64), std::memory_order_release);
  if (size < kLeast || ::mmap(data() + offset, size, PROT_READ | PROT_WRITE,
                              MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
    std::memset(data() + offset, 0, size);
  else
    keep_from_children({data() + offset, static_cast<size_t>(size)});
}

OriginWatch::OriginWatch(const MachineMemory& memory, bool verify, Pager::OnFailure on_loss)
    : chain_(memory.chain()),
      guest_(memory.guest()),
      verify_(verify),
      quit_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!quit_event_) throw_errno("eventfd", "for watching a snapshot's file");
  thread_ = std::thread([this, on_loss = std::move(on_loss)] { main(on_loss); });
}

OriginWatch::~OriginWatch() {
  quit_ = true;
  ring(quit_event_.get());
  thread_.join();
}

void OriginWatch::main(const Pager::OnFailure& on_loss) {
  pthread_setname_np(pthread_self(), "ht-origin");
  // Behind the machine, not in its way.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 19);
  const SnapshotFile& full = *chain_.back();
  try {
    if (verify_ && !full.verify([this] { return !quit_ && !guest_->guard()->hit(); }) && quit_) return;
    pollfd fds[] = {{.fd = guest_->guard()->event(), .events = POLLIN, .revents = 0},
                    {.fd = quit_event_.get(), .events = POLLIN, .revents = 0}};
    while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    if (quit_) return;
    throw Error("CORRUPT", "the snapshot " + full.path() +
                               " lost bytes while the machine ran from it: it was cut, or its disk failed");
  } catch (const Error& error) {
    on_loss(error, true);
  } catch (const std::exception& error) {
    on_loss(Error("CORRUPT", "the snapshot " + full.path() + " cannot be checked: " + error.what()), true);
  }
}

MachineMemory::~MachineMemory() = default;

void MachineMemory::watch(bool verify, Pager::OnFailure on_loss) {
  if (!chain_.empty()) {
    origin_watch_ = std::make_unique<OriginWatch>(*this, verify, std::move(on_loss));
  } else if (pager_) {
    {
      std::lock_guard lock(mutex_);
      on_loss_ = std::move(on_loss);
    }
    check();
    pager_->start();
  }
}

void MachineMemory::stop_watching() {
  origin_watch_.reset();
  std::lock_guard lock(mutex_);
  on_loss_ = nullptr;
}

bool MachineMemory::intact() const {
  if (pager_) return !pager_->failed();
  return chain_.empty() || !guest_->guard()->hit();
}

bool MachineMemory::may_leave(std::span<const iovec> parts) const {
  if (!pager_ && chain_.empty()) return true;
  for (const auto& part : parts) {
    const auto* bytes = static_cast<const volatile uint8_t*>(part.iov_base);
    for (size_t at = 0; at < part.iov_len; at += kPage) (void)bytes[at];
    if (part.iov_len > 0) (void)bytes[part.iov_len - 1];
  }
  return intact();
}

void MachineMemory::check() const {
  if (intact()) return;
  if (pager_)
    if (auto failure = pager_->failure()) throw *failure;
  throw Error("CORRUPT", "the machine's memory is lost in part: the snapshot " + chain_.back()->path() +
                             " that it was restored from cannot be read any more");
}

void MachineMemory::give_up() {
  if (pager_) pager_->give_up();
}

}  // namespace hypertwin::machine
