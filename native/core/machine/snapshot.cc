#include "machine/snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/bytes.h"
#include "base/error.h"
#include "base/new_file.h"
#include "machine/machine_memory.h"

namespace hypertwin::machine {

namespace {

constexpr uint8_t kMagic[8] = {'H', 'T', 'S', 'N', 'A', 'P', 0, 0};
constexpr uint32_t kVersion = 2;
constexpr uint64_t kPage = devices::kPageSize;
constexpr size_t kHeaderBytes = 64;
constexpr uint64_t kMaxMeta = 256u << 20;
constexpr uint64_t kMaxMemory = uint64_t{1} << 46;

void write_all(int fd, std::span<const uint8_t> bytes, uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("pwrite", "writing the snapshot " + path);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

// False at the file's end.
bool read_all(int fd, std::span<uint8_t> into, uint64_t offset, const std::string& path) {
  while (!into.empty()) {
    ssize_t n = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("pread", "reading the snapshot " + path);
    if (n == 0) return false;
    into = into.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return true;
}

// What no reader would take is not written.
void check_meta(uint64_t size, const std::string& path) {
  if (size > kMaxMeta)
    throw Error("SNAPSHOT_LIMIT",
                "the snapshot " + path +
                    " would have more than 256 MiB beside its memory, its state and its list "
                    "of runs of pages, and could not be restored: a full one has fewer runs");
}

}  // namespace

SnapshotInfo write_snapshot_file(const std::string& path, std::span<const uint8_t> state,
                                 const MachineMemory& memory, const SnapshotParent* parent,
                                 std::span<const uint64_t> changed, NewFile::Over over) {
  check_meta(state.size() + 2 * kPage, path);
  NewFile file(AT_FDCWD, path, ".partial");

  SnapshotInfo info;
  ByteWriter runs;
  uint64_t count = 0, next = 0;
  auto write_run = [&](uint64_t first, uint64_t pages, bool zero) {
    for (; pages > 0; ++count) {
      const uint64_t part = std::min(pages, SnapshotFile::kMaxRun);
      runs.varint(first - next);
      runs.varint(part << 1 | (zero ? 1 : 0));
      if (!zero) {
        const std::span<const uint8_t> bytes(memory.data() + first * kPage, part * kPage);
        write_all(file.fd(), bytes, SnapshotFile::kMemoryOffset + first * kPage, path);
        runs.u64(checksum64(bytes));
        info.pages += part;
      }
      first += part;
      pages -= part;
      next = first;
    }
    check_meta(state.size() + runs.size() + 2 * kPage, path);
  };
  if (parent)
    memory.for_each_run_of(changed, write_run);
  else
    memory.for_each_run([&](uint64_t first, uint64_t pages) { write_run(first, pages, false); });

  ByteWriter meta;
  meta.blob(state);
  meta.u64(memory.size());
  meta.u8(parent ? 1 : 0);
  if (parent) {
    namespace fs = std::filesystem;
    const fs::path there = fs::absolute(parent->path).lexically_normal();
    const bool beside = there.parent_path() == fs::absolute(path).lexically_normal().parent_path();
    meta.u64(parent->identity.lo);
    meta.u64(parent->identity.hi);
    meta.text((beside ? there.filename() : there).string());
    info.parent = parent->path;
  }
  meta.varint(count);
  meta.raw(runs.data());
  const uint64_t meta_offset = SnapshotFile::kMemoryOffset + memory.size();
  write_all(file.fd(), meta.data(), meta_offset, path);

  ByteWriter header;
  header.raw(kMagic);
  header.u32(kVersion);
  header.u32(static_cast<uint32_t>(kPage));
  header.u64(meta_offset);
  header.u64(meta.size());
  header.u64(checksum64(meta.data()));
  header.u64(0);
  header.u64(0);
  header.u64(checksum64(header.data()));
  write_all(file.fd(), header.data(), 0, path);
  if (::fsync(file.fd()) != 0) throw_errno("fsync", "writing the snapshot " + path);
  file.give_name(over);
  // The name must outlast a power failure as the bytes do.
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  Fd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0)
    throw_errno("fsync", "keeping the name of the snapshot " + path);
  info.bytes = info.pages * kPage + kHeaderBytes + meta.size();
  info.identity = digest128(meta.data());
  return info;
}

void SnapshotFile::corrupt(const std::string& what) const {
  throw Error("CORRUPT", "the snapshot " + path_ + " is damaged: " + what);
}

SnapshotFile::SnapshotFile(const std::string& path, const Bring& bring) : path_(path) {
  fd_ = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd_) throw_errno("open", "opening the snapshot " + path);
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) throw_errno("fstat", "looking at the snapshot " + path);
  if (!S_ISREG(info.st_mode)) corrupt("it is no regular file");
  const uint64_t file_size = static_cast<uint64_t>(info.st_size);

  uint8_t header[kHeaderBytes];
  if (bring && file_size >= kHeaderBytes) bring(0, kHeaderBytes);
  if (!read_all(fd_.get(), header, 0, path)) corrupt("it is shorter than its header");
  ByteReader in(header, "the snapshot's header");
  if (std::memcmp(in.raw(8).data(), kMagic, 8) != 0) corrupt("it is no snapshot of hypertwin");
  uint32_t version = in.u32();
  if (version != kVersion)
    throw Error("SNAPSHOT_VERSION", "the snapshot " + path + " has format version " +
                                        std::to_string(version) + "; this hypertwin reads version " +
                                        std::to_string(kVersion));
  uint32_t page = in.u32();
  uint64_t meta_offset = in.u64();
  uint64_t meta_size = in.u64();
  uint64_t meta_checksum = in.u64();
  if (get_le<uint64_t>(header + kHeaderBytes - 8) != checksum64({header, kHeaderBytes - 8}))
    corrupt("its header's checksum is wrong");
  if (page != kPage) corrupt("its page size is not 4096");
  if (meta_size > kMaxMeta || meta_offset < kMemoryOffset || meta_offset > file_size ||
      meta_size > file_size - meta_offset)
    corrupt("it is cut short");

  std::vector<uint8_t> meta(meta_size);
  if (bring && meta_size > 0) bring(meta_offset, meta_size);
  if (!read_all(fd_.get(), meta, meta_offset, path)) corrupt("it is cut short");
  if (checksum64(meta) != meta_checksum) corrupt("its state's checksum is wrong");
  identity_ = digest128(meta);
  ByteReader body(meta, "the snapshot's state");
  auto state = body.blob();
  state_.assign(state.begin(), state.end());
  memory_size_ = body.u64();
  if (memory_size_ == 0 || memory_size_ % kPage || memory_size_ > kMaxMemory ||
      meta_offset - kMemoryOffset != memory_size_)
    corrupt("its memory has an impossible size");
  if (body.u8() != 0) {
    SnapshotParent parent;
    parent.identity.lo = body.u64();
    parent.identity.hi = body.u64();
    const std::string name(body.text(4096));
    if (name.find('\0') != std::string::npos) corrupt("its parent has an impossible name");
    parent.path = (std::filesystem::path(path).parent_path() / name).string();
    parent_ = std::move(parent);
    if (bring)
      throw Error("SNAPSHOT_PARENT",
                  "the snapshot " + path + " adds to another one: only a full one can be brought in parts");
  }
  uint64_t count = body.varint();
  // Of those that are not zero each has a checksum.
  if (count > body.remaining() / (parent_ ? 2 : 10)) corrupt("it lists more pages than it can hold");
  runs_.reserve(count);
  const uint64_t all = memory_size_ / kPage;
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t gap = body.varint(), size = body.varint();
    Run run{.first_page = next + gap, .pages = size >> 1, .zero = (size & 1) != 0};
    if (gap > all - next || run.pages == 0 || run.pages > kMaxRun || run.pages > all - run.first_page)
      corrupt("a run of pages lies outside its memory");
    if (run.zero && !parent_) corrupt("it has pages that only an incremental one has");
    if (!run.zero) run.checksum = body.u64();
    next = run.first_page + run.pages;
    runs_.push_back(run);
  }
  body.expect_done();
}

void SnapshotFile::read_pages(uint64_t first, std::span<uint8_t> into) const {
  if (!read_all(fd_.get(), into, kMemoryOffset + first * kPage, path_)) corrupt("it is cut short");
}

void SnapshotFile::read(const Run& run, std::span<uint8_t> into) const {
  read_pages(run.first_page, into);
  if (checksum64(into) != run.checksum)
    corrupt("the checksum of its memory from page " + std::to_string(run.first_page) + " on is wrong");
}

bool SnapshotFile::verify(const std::function<bool()>& go_on) const {
  std::vector<uint8_t> bytes(kMaxRun * kPage);
  // What no run tells of is mapped as well: it must be zero. Mostly it is a hole.
  auto check_gap = [&](uint64_t from, uint64_t end) {
    while (from < end) {
      if (!go_on()) return false;
      const off_t data = ::lseek(fd_.get(), static_cast<off_t>(from), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data >= 0) from = std::max(from, static_cast<uint64_t>(data));
      if (from >= end) break;
      const auto part = std::span(bytes).first(std::min<uint64_t>(bytes.size(), end - from));
      if (!read_all(fd_.get(), part, from, path_)) corrupt("it is cut short");
      if (std::any_of(part.begin(), part.end(), [](uint8_t byte) { return byte != 0; }))
        corrupt("its memory has bytes near page " + std::to_string((from - kMemoryOffset) / kPage) +
                " that it does not know of");
      from += part.size();
    }
    return true;
  };
  uint64_t next = 0;
  for (const Run& run : runs_) {
    if (!go_on()) return false;
    if (!check_gap(kMemoryOffset + next * kPage, kMemoryOffset + run.first_page * kPage)) return false;
    if (!run.zero) read(run, std::span(bytes).first(run.pages * kPage));
    next = run.first_page + run.pages;
  }
  return check_gap(kMemoryOffset + next * kPage, kMemoryOffset + memory_size_);
}

SnapshotChain open_snapshot(const std::string& path) {
  SnapshotChain chain{std::make_shared<SnapshotFile>(path)};
  while (const auto& parent = chain.back()->parent()) {
    if (chain.size() == kMaxSnapshotChain)
      throw Error("SNAPSHOT_PARENT", "the snapshot " + path + " adds to more than " +
                                         std::to_string(kMaxSnapshotChain) + " others");
    std::shared_ptr<const SnapshotFile> next;
    try {
      next = std::make_shared<SnapshotFile>(parent->path);
    } catch (const Error& error) {
      throw Error("SNAPSHOT_PARENT", "the snapshot " + chain.back()->path() +
                                         " needs the one that it adds to, " + parent->path + ": " +
                                         error.what());
    }
    if (next->identity() != parent->identity)
      throw Error("SNAPSHOT_PARENT", parent->path + " is not the snapshot that " + chain.back()->path() +
                                         " adds to: it was written anew since");
    if (next->memory_size() != chain.front()->memory_size())
      throw Error("SNAPSHOT_PARENT", parent->path + " holds memory of another size than " + path);
    chain.push_back(std::move(next));
  }
  return chain;
}

}  // namespace hypertwin::machine
